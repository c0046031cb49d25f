"""Overlay and bind mounts, and the mount table."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.errors import HostError
from reconciler.linux import mounts
from reconciler.linux.mounts import Bind, Overlay

pytestmark = pytest.mark.root


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory with what the tests mount; whatever stays mounted in it goes at the end."""
    base = tmp_path / "odd name\\040"
    for name in ("lower", "upper", "work", "target", "source"):
        (base / name).mkdir(parents=True)
    (base / "lower/from-below").touch()
    (base / "source/file").write_text("content")
    yield base
    for mounted in mounts.mounts_below(tmp_path):
        mounts.unmount(mounted)


@pytest.fixture(params=["new", "old"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once with the mount API that there is, once as on a kernel without it."""
    if request.param == "old":
        monkeypatch.setattr(mounts, "_open_context", lambda: None)


@pytest.mark.usefixtures("kernel")
def test_an_overlay_can_be_written(place: Path) -> None:
    target = place / "target"
    mounts.mount(Overlay((place / "lower",), place / "upper", place / "work", target))
    assert mounts.is_mounted(target)
    (target / "new").touch()
    assert sorted(os.listdir(target)) == ["from-below", "new"]  # noqa: PTH208
    assert os.listdir(place / "upper") == ["new"]  # noqa: PTH208
    (entry,) = (entry for entry in mounts.table() if entry.target == target.resolve())
    assert (entry.filesystem, entry.source) == ("overlay", "overlay")
    assert mounts.unmount(target) is True
    assert mounts.unmount(target) is False
    assert not mounts.is_mounted(target)


@pytest.mark.usefixtures("kernel")
def test_an_overlay_without_upper_is_read_only(place: Path) -> None:
    mounts.mount(Overlay((place / "lower", place / "source"), None, None, place / "target"))
    with pytest.raises(OSError, match="Read-only"):
        (place / "target/new").touch()


@pytest.mark.usefixtures("kernel")
def test_redirects_are_off(place: Path) -> None:
    (place / "lower/d").mkdir()
    mounts.mount(Overlay((place / "lower",), place / "upper", place / "work", place / "target"))
    with pytest.raises(OSError, match="cross-device"):
        (place / "target/d").rename(place / "target/e")


@pytest.mark.usefixtures("kernel")
def test_the_reason_of_a_failure_is_given_and_nothing_is_mounted(place: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for lower, target in ((place / "nothing", place / "target"), (place / "lower", place / "nowhere")):
        with pytest.raises(HostError, match="No such file or directory"):
            mounts.mount(Overlay((lower,), place / "upper", place / "work", target))
    assert not mounts.is_mounted(place / "target")
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_long_paths_do_not_matter(place: Path) -> None:
    deep = place / ("d" * 200) / ("e" * 200)
    deep.mkdir(parents=True)
    (deep / "x").touch()
    mounts.mount(Overlay((place / "lower", deep), place / "upper", place / "work", place / "target"))
    assert (place / "target/x").exists()


def test_binds_of_directories_and_files(place: Path) -> None:
    mounts.mount(Bind(place / "source", place / "target"))
    assert (place / "target/file").read_text() == "content"
    (place / "upper/file").touch()
    mounts.mount(Bind(place / "source/file", place / "upper/file", read_only=True))
    with pytest.raises(OSError, match="Read-only"):
        (place / "upper/file").write_text("changed")
    (place / "target/file").write_text("changed")
    assert mounts.mounts_below(place) == (place / "upper/file", place / "target")


def test_a_read_only_bind_keeps_the_flags_of_its_source(place: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nosuid,nodev,noexec", "tmpfs", place / "source"], check=True)
    mounts.mount(Bind(place / "source", place / "target", read_only=True))
    (entry,) = (entry for entry in mounts.table() if entry.target == place / "target")
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(entry.options)


def test_what_is_mounted_later_stays_private_unless_recursive(place: Path) -> None:
    (place / "source/sub").mkdir()
    mounts.mount(Bind(place / "lower", place / "source/sub"))
    mounts.mount(Bind(place / "source", place / "target"))
    assert not mounts.is_mounted(place / "target/sub")
    mounts.unmount(place / "target")
    mounts.mount(Bind(place / "source", place / "target", recursive=True))
    assert (place / "target/sub/from-below").exists()


def test_a_busy_mount_says_so_and_can_be_detached(place: Path) -> None:
    mounts.mount(Bind(place / "source", place / "target"))
    with (place / "target/file").open():
        with pytest.raises(HostError, match="in use") as caught:
            mounts.unmount(place / "target")
        assert "fuser" in caught.value.hint
        assert mounts.unmount(place / "target", detach=True)
    assert not mounts.is_mounted(place / "target")


def test_a_bind_needs_both_ends(place: Path) -> None:
    with pytest.raises(HostError, match="No such file"):
        mounts.mount(Bind(place / "nothing", place / "target"))
    with pytest.raises(HostError, match="Not a directory"):
        mounts.mount(Bind(place / "source/file", place / "target"))
