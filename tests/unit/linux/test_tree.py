"""Removing trees: all of it, and nothing else."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from reconciler.errors import HostError
from reconciler.linux import tree, watch
from reconciler.linux.tree import mount_points_below, remove_tree
from reconciler.testing.faults import FaultAt


def make_chain(top: Path, depth: int, name: str) -> None:
    """Directories nested ``depth`` deep with a file in each: deeper than any path can be."""
    descriptor = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=descriptor)
        inner = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=inner))
        descriptor = inner
    os.close(descriptor)


def test_a_tree_is_removed_and_removing_it_again_is_a_no_op(tmp_path: Path) -> None:
    top = tmp_path / "top"
    for name in ("a/b/c", "a/d", "moved-0/x", "moved-1"):
        (top / name).mkdir(parents=True)
        (top / name / "file").write_bytes(b"x")
    os.mkfifo(top / "fifo")
    assert remove_tree(top, point="tree")
    assert not remove_tree(top, point="tree")
    assert list(tmp_path.iterdir()) == []


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    top = tmp_path / "top"
    (top / "inner").mkdir(parents=True)
    (top / "inner" / "link").symlink_to(outside)
    (top / "dangling").symlink_to("/nowhere")
    remove_tree(top, point="tree")
    (tmp_path / "link").symlink_to(outside)
    assert remove_tree(tmp_path / "link", point="tree")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["outside", "precious"]


def test_s28_directories_without_permissions_are_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "work" / "work" / "inner").mkdir(parents=True)
    (top / "work" / "work" / "inner" / "file").touch()
    for name in ("work/work/inner", "work/work", "work", ""):
        (top / name).chmod(0)
    assert remove_tree(top, point="tree")


def test_depth_costs_neither_descriptors_nor_stack(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    make_chain(top, 1500, "d" * 100)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        assert remove_tree(top, point="tree")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_mount_point_below_stops_it_before_anything_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "top" / "data").mkdir(parents=True)
    (tmp_path / "top" / "file").touch()
    monkeypatch.setattr(tree, "mount_points_below", lambda path: (path / "data",))
    with pytest.raises(HostError, match="data is a mount point") as caught:
        remove_tree(tmp_path / "top", point="tree")
    assert "umount" in caught.value.hint
    assert (tmp_path / "top" / "file").exists()


def test_mount_points_are_those_at_or_below_a_path() -> None:
    assert Path("/proc") in mount_points_below(Path("/proc"))
    assert Path("/proc") in mount_points_below(Path("/"))
    assert Path("/proc") not in mount_points_below(Path("/pro"))
    assert mount_points_below(Path("/nowhere")) == ()


def test_a_failure_is_typed(tmp_path: Path) -> None:
    (tmp_path / "top").mkdir()
    with watch.observed(FaultAt(1, 5)), pytest.raises(HostError, match="Input/output error"):
        remove_tree(tmp_path / "top", point="tree")
