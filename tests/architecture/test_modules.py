"""Rules about the source itself that no linter knows."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "reconciler"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 400
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "base", "misc"}


def names() -> list[str]:
    return [str(path.relative_to(PACKAGE)) for path in MODULES]


@pytest.mark.parametrize("path", MODULES, ids=names())
def test_modules_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", MODULES, ids=names())
def test_modules_are_named_after_what_they_hold(path: Path) -> None:
    assert path.stem not in FORBIDDEN_NAMES


@pytest.mark.parametrize("path", MODULES, ids=names())
def test_only_the_command_line_reads_the_environment(path: Path) -> None:
    if path.is_relative_to(PACKAGE / "cli"):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        read = isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv", "getenvb")
        imported = (
            isinstance(node, ast.ImportFrom)
            and node.module == "os"
            and {"environ", "getenv"} & {alias.name for alias in node.names}
        )
        assert not read, f"{path}:{node.lineno} reads the environment"
        assert not imported, f"{path}:{node.lineno} imports the environment"


@pytest.mark.parametrize("path", MODULES, ids=names())
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), "the module has no docstring"


def test_the_planner_cannot_write() -> None:
    """Planning is pure: nothing in plan/ or model/ can reach a file, a socket, a process or a clock."""
    reaching = {"os", "pathlib", "socket", "subprocess", "time", "random", "sqlite3", "shutil", "threading", "httpx"}
    for path in [*(PACKAGE / "plan").rglob("*.py"), *(PACKAGE / "model").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            modules: list[str] = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            for module in modules:
                assert module.split(".")[0] not in reaching, f"{path}:{node.lineno} imports {module}"


@pytest.mark.parametrize("path", MODULES, ids=names())
def test_every_value_says_what_it_is(path: Path) -> None:
    """A dataclass without a docstring has one made of its signature at import: half of what its import costs."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(item) for item in node.decorator_list):
            assert ast.get_docstring(node), f"{path}:{node.lineno} {node.name} has no docstring"
