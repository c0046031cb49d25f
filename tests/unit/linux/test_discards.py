"""Trees that go: out of sight at once, deleted later, by whoever comes."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from reconciler.errors import HostError
from reconciler.linux import watch
from reconciler.linux.discards import Discards


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "deep" / "file").write_text("x")
    (tmp_path / "tree" / "link").symlink_to("/etc")
    return tmp_path / "tree"


def test_what_is_put_away_is_out_of_sight_and_whole_until_it_is_deleted(tmp_path: Path, tree: Path) -> None:
    discards = Discards(tmp_path)
    assert discards.put(tree)
    assert not tree.exists()
    assert not discards.put(tree)
    (aside,) = discards.directory.iterdir()
    assert (aside / "deep" / "file").read_text() == "x"
    discards.empty()
    assert list(discards.directory.iterdir()) == []


def test_files_and_links_go_too_and_nothing_is_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    (tmp_path / "link").symlink_to(kept)
    (tmp_path / "file").touch()
    discards = Discards(tmp_path)
    assert discards.put(tmp_path / "link")
    assert discards.put(tmp_path / "file")
    discards.empty()
    assert [path.name for path in tmp_path.iterdir() if path != discards.directory] == ["kept"]
    assert (kept / "file").exists()


def test_nothing_to_delete_leaves_no_trace(tmp_path: Path) -> None:
    discards = Discards(tmp_path)
    discards.empty()
    assert not discards.put(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


def test_what_another_process_deletes_is_left_to_it(tmp_path: Path, tree: Path) -> None:
    discards = Discards(tmp_path)
    discards.put(tree)
    (aside,) = discards.directory.iterdir()
    held = os.open(aside, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        discards.empty()
        assert (aside / "deep" / "file").exists()
    finally:
        os.close(held)
    discards.empty()
    assert not aside.exists()


def test_a_deletion_that_was_cut_off_is_ended_by_the_next(tmp_path: Path, tree: Path) -> None:
    discards = Discards(tmp_path)
    discards.put(tree)

    def cut(phase: watch.Phase, operation: watch.Operation) -> None:
        if (phase, operation.name) == ("middle", "discard:remove-tree"):
            raise KeyboardInterrupt

    with watch.observed(cut), pytest.raises(KeyboardInterrupt):
        discards.empty()
    assert len(list(discards.directory.iterdir())) == 1
    discards.empty()
    assert list(discards.directory.iterdir()) == []


def test_one_that_cannot_go_does_not_keep_the_others(tmp_path: Path, tree: Path) -> None:
    discards = Discards(tmp_path)
    discards.put(tree)
    for name in "ab":
        (tmp_path / name).mkdir()
        discards.put(tmp_path / name)
    first = min(discards.directory.iterdir())

    def fail(phase: watch.Phase, operation: watch.Operation) -> None:
        if (phase, operation.name, operation.path) == ("before", "discard:remove-tree", first):
            raise OSError(5, "bad disk")

    with watch.observed(fail), pytest.raises(HostError, match="Input/output error"):
        discards.empty()
    assert list(discards.directory.iterdir()) == [first]
