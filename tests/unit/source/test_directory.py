"""Specs from live directories and files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.errors import InvalidError, NotFoundError
from reconciler.source.directory import DirectorySource


def _write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def _names(source: DirectorySource, root: Path) -> list[str]:
    revision = source.read()
    return [str(Path(file.path).relative_to(root)) for file in revision.tree.find(revision.paths, revision.recursive)]


def test_a_directory_gives_its_own_specs_in_order(tmp_path: Path) -> None:
    _write(tmp_path, "b.yml", "a.yaml", "c.json", ".hidden.yaml", "notes.txt", "a.yaml~", "sub/d.yaml", ".git/x.yaml")
    assert _names(DirectorySource([tmp_path]), tmp_path) == ["a.yaml", "b.yml", "c.json"]
    assert _names(DirectorySource([tmp_path], recursive=True), tmp_path) == ["a.yaml", "b.yml", "c.json", "sub/d.yaml"]


def test_several_paths_are_merged_and_a_file_is_read_once(tmp_path: Path) -> None:
    _write(tmp_path, "one/a.yaml", "two/spec")
    source = DirectorySource([tmp_path / "one", tmp_path / "two/spec", tmp_path / "one/a.yaml"])
    assert _names(source, tmp_path) == ["one/a.yaml", "two/spec"]


def test_the_id_follows_content_and_names(tmp_path: Path) -> None:
    _write(tmp_path, "a.yaml")
    source = DirectorySource([tmp_path])
    first = source.read().id
    assert source.read().id == first
    (tmp_path / "a.yaml").write_text("other")
    second = source.read().id
    (tmp_path / "a.yaml").rename(tmp_path / "b.yaml")
    assert len({first, second, source.read().id}) == 3


def test_the_identity_is_the_path_as_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "current").symlink_to("v1")
    monkeypatch.chdir(tmp_path)
    assert DirectorySource(["current"]).identity == f"dir:{tmp_path}/current"
    assert DirectorySource(["b", "./a"]).identity == DirectorySource(["a", "b"]).identity


def test_g13_a_missing_directory_is_an_error_and_an_empty_one_is_not(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="gone"):
        DirectorySource([tmp_path / "gone"]).read()
    assert _names(DirectorySource([tmp_path]), tmp_path) == []


def test_a_file_that_vanishes_for_a_moment_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path, "a.yaml")
    real, calls = os.listdir, 0

    def listdir(path: str) -> list[str]:
        nonlocal calls
        calls += 1
        entries = real(path)
        if calls == 1:
            (tmp_path / "a.yaml").rename(tmp_path / "b.yaml")
        return entries

    monkeypatch.setattr(os, "listdir", listdir)
    assert _names(DirectorySource([tmp_path]), tmp_path) == ["b.yaml"]


def test_g28_a_fifo_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    with pytest.raises(InvalidError, match="not a regular file"):
        DirectorySource([tmp_path]).read()


def test_what_is_loaded_is_what_the_id_names(tmp_path: Path) -> None:
    _write(tmp_path, "a.yaml")
    revision = DirectorySource([tmp_path]).read()
    (tmp_path / "a.yaml").write_text("changed since")
    assert [file.data for file in revision.tree.find(revision.paths, False)] == [b"a.yaml"]


def test_named_files_are_live(tmp_path: Path) -> None:
    _write(tmp_path, "specs/a.yaml", "shared/motd")
    tree = DirectorySource([tmp_path / "specs"]).read().tree
    (tmp_path / "shared/motd").write_text("newer")
    tree.write_exports()
    assert tree.read(str(tmp_path / "specs"), "../shared/motd", 100) == b"newer"
    assert tree.export(str(tmp_path / "specs"), "../shared/motd") == (str(tmp_path / "shared/motd"), "")
