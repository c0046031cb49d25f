"""Patches, judged by git."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from reconciler.cli.patch import patch


def apply(text: bytes, where: Path) -> None:
    subprocess.run(["git", "apply", "--whitespace=nowarn"], cwd=where, input=text, check=True)


LINES = [f"line {number}" for number in range(30)]
LONG = "\n".join(LINES)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (LONG + "\n", LONG.replace("line 3\n", "line three\n").replace("line 20", "line twenty") + "\n"),
        (LONG, LONG.replace("line 29", "the end")),
        ("a: 1", "a: 2"),
        ("a: 1\r\nb: 2\r\n", "a: 1\r\nb: 3\r\n"),
        ("\ufeffa: 1\n\u00e9: '\u2028\x0c \x85'\n", "\ufeffa: 2\n\u00e9: '\u2028\x0c \x85'\n"),
        ("a: 1\rb: 2\r", "a: 1\rb: 3\r"),
        ('a: "b\\\n  c"\n', 'a: "bc"\n'),
    ],
)
@pytest.mark.parametrize("repository", [True, False])
def test_git_makes_of_the_old_file_the_new_one(tmp_path: Path, before: str, after: str, repository: bool) -> None:
    path = tmp_path / "specs/a.yaml"
    path.parent.mkdir()
    if repository:
        subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    path.write_bytes(before.encode())
    text = patch(path, before.encode(), after.encode())
    name = b"specs/a.yaml" if repository else bytes(path)[1:]
    assert text.startswith(b"diff --git a/" + name)
    apply(text, tmp_path if repository else Path("/"))
    assert path.read_bytes() == after.encode()


@pytest.mark.parametrize("name", ["with space.yaml", 'qu"ote\\.yaml', "t\tab\n.yaml", "\u00e9 b/b.yaml"])
def test_names_that_git_quotes(tmp_path: Path, name: str) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("a: 1\n")
    (tmp_path / "below").mkdir()
    # From wherever in the repository it is applied.
    apply(patch(path, b"a: 1\n", b"a: 2\n"), tmp_path)
    assert path.read_text() == "a: 2\n"


def test_nothing_changed_is_no_patch(tmp_path: Path) -> None:
    assert patch(tmp_path / "a", b"a\n", b"a\n") == b""
