"""Listings answer fast because they import little."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("pydantic", "httpx", "structlog", "pyroute2", "yaml", "rich", "watchdog", "asyncio")
CODE = """
import sys
from reconciler.cli.main import main
code = main(sys.argv[1:])
print(code, *(name for name in {heavy} if name in sys.modules))
"""


@pytest.mark.parametrize(
    "arguments", [("image", "ls"), ("container", "ls", "-a"), ("container", "ls", "-o", "json"), ("image", "ls", "-q")]
)
def test_a_listing_imports_nothing_heavy(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    code = CODE.format(heavy=HEAVY)
    command = [sys.executable, "-c", code, "--root", str(tmp_path / "root"), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "0"
    assert not (tmp_path / "root").exists()


def test_a_run_imports_only_what_it_uses() -> None:
    """Each of these costs every ``container run`` between 2 and 150 ms."""
    spared = (*HEAVY, "concurrent.futures", "logging", "platform", "tarfile", "reconciler.model.action")
    code = f"""
import sys
import reconciler.cli.container_run, reconciler.engine.embedded.engine, reconciler.runtime.bundle
print(*(name for name in {spared} if name in sys.modules))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
