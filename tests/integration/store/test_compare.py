"""Every way in which an unpacked layer can differ from the list of its files is found, by path."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.store.archive.reader import Entry, Kind
from reconciler.store.archive.writer import archive
from reconciler.store.check.compare import compare
from reconciler.store.layers import whiteout
from reconciler.store.layers.extract import extract
from reconciler.store.layers.lower import LowerLayers

pytestmark = pytest.mark.root

CAPABILITY = bytes.fromhex("0100000202040000000000000000000000000000")
DEEP = b"/".join([b"d" * 200] * 30)
ENTRIES: list[tuple[Entry, bytes]] = [
    (Entry(b"etc", Kind.DIRECTORY, 0o755), b""),
    (Entry(b"etc/passwd", Kind.FILE, 0o644, 0, 0, 5, 10**9), b"root\n"),
    (Entry(b"etc/other", Kind.HARDLINK, link=b"etc/passwd"), b""),
    (
        Entry(b"etc/single", Kind.FILE, 0o4755, 1, 2, 3, 10**9)._replace(
            xattrs=((b"security.capability", CAPABILITY),)
        ),
        b"abc",
    ),
    (Entry(b"etc/link", Kind.SYMLINK, link=b"passwd"), b""),
    (Entry(b"etc/fifo", Kind.FIFO, 0o600), b""),
    (Entry(b"etc/null", Kind.CHARACTER, 0o666, device=(1, 3)), b""),
    (Entry(b"etc/.wh.gone", Kind.FILE), b""),
    (Entry(b"opaque", Kind.DIRECTORY, 0o700), b""),
    (Entry(b"opaque/.wh..wh..opq", Kind.FILE), b""),
    (Entry(b"\xff\nodd", Kind.FILE, 0o600), b""),
    (Entry(DEEP + b"/file", Kind.FILE, 0o600, size=4), b"deep"),
]


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    target, lower = tmp_path / "layer", tmp_path / "lower"
    (lower / "etc" / "gone").mkdir(parents=True)
    target.mkdir(mode=0o700)
    files = os.open(tmp_path / "layer.files", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        extract(archive(ENTRIES), target, lambda: LowerLayers((lower,)), files)
    finally:
        os.close(files)
    return target


def lines(layer: Path) -> list[str]:
    return compare(layer, layer.with_name("layer.files")).lines


def kept(path: Path, change: Callable[[Path], object]) -> None:
    """Changes a file and puts its times back, as a failing disk does."""
    status = path.lstat()
    change(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


def replaced(path: Path, change: Callable[[Path], object]) -> None:
    """Puts something else under a name; its directory's time is put back."""
    with_times = path.parent.lstat()
    path.unlink()
    change(path)
    os.utime(path.parent, ns=(with_times.st_atime_ns, with_times.st_mtime_ns))


def test_a_layer_as_it_was_unpacked_has_no_difference(layer: Path) -> None:
    found = compare(layer, layer.with_name("layer.files"))
    assert found.is_none, found.lines
    assert found.entries == 13 + 30 - 1


CHANGES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "flip": (
        lambda top: kept(top / "etc/single", lambda path: path.write_bytes(b"abC")),
        ["etc/single: content; extended attribute security.capability"],
    ),
    "grow": (
        lambda top: kept(top / "etc/single", lambda path: path.write_bytes(b"abcd")),
        ["etc/single: size 4, not 3; extended attribute security.capability"],
    ),
    "mode": (lambda top: (top / "etc/single").chmod(0o755), ["etc/single: mode 0755, not 4755"]),
    "time": (lambda top: os.utime(top / "etc/single", (5, 5)), ["etc/single: modification time"]),
    "target": (
        lambda top: kept(top / "etc", lambda _: replaced(top / "etc/link", lambda path: path.symlink_to("shadow"))),
        ["etc/link: modification time; the target of the link"],
    ),
    "capability": (
        lambda top: os.removexattr(top / "etc/single", "security.capability"),
        ["etc/single: extended attribute security.capability"],
    ),
    "attribute": (
        lambda top: os.setxattr(top / "etc/passwd", "user.x", b"1"),
        ["etc/other: extended attribute user.x", "etc/passwd: extended attribute user.x"],
    ),
    "opaque": (
        lambda top: os.removexattr(top / "opaque", whiteout.OPAQUE_XATTR),
        ["opaque: no longer hides what is below"],
    ),
    "made opaque": (
        lambda top: os.setxattr(top / "etc", whiteout.OPAQUE_XATTR, b"y"),
        ["etc: hides what is below"],
    ),
    "missing": (lambda top: kept(top / "etc", lambda path: (path / "fifo").unlink()), ["etc/fifo: missing"]),
    "extra": (lambda top: kept(top / "etc", lambda path: (path / "new").write_text("")), ["etc/new: extra"]),
    "directory's time": (lambda top: (top / "etc/new").write_text(""), ["etc/new: extra", "etc: modification time"]),
    "hard link outside": (
        lambda top: os.link(top / "etc/single", top.with_name("stolen")),
        ["etc/single: 2 hard links, not 1"],
    ),
    "hard link broken": (
        lambda top: kept(top / "etc", lambda _: _copy_over(top / "etc/other")),
        [
            "etc/other: 1 hard links, not 2",
            "etc/passwd: is no longer the same file as its other names",
        ],
    ),
    "whiteout gone": (
        lambda top: kept(top / "etc", lambda path: (path / "gone").unlink()),
        ["etc/gone: missing"],
    ),
    "whiteout made a file": (
        lambda top: replaced(top / "etc/gone", lambda path: path.write_text("")),
        ["etc/gone: is a file, not a whiteout"],
    ),
    "device": (
        lambda top: replaced(top / "etc/null", lambda path: os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))),
        ["etc/null: mode 0644, not 0666; modification time; device 1:5"],
    ),
    "root": (lambda top: top.chmod(0o777), [".: mode 0777, not 0755"]),
    "odd name": (
        lambda top: (top / os.fsdecode(b"\xff\nodd")).chmod(0o644),
        ["\\udcff\\nodd: mode 0644, not 0600"],
    ),
    "directory made a file": (
        lambda top: kept(top, lambda _: (shutil.rmtree(top / "opaque"), (top / "opaque").write_text(""))),
        ["opaque: is a file, not a directory"],
    ),
    "directory made a link": (
        lambda top: kept(
            top, lambda _: ((top / "etc").rename(top.with_name("etc")), (top / "etc").symlink_to("../etc"))
        ),
        [
            "etc: is a symlink, not a directory",
            *sorted(f"etc/{name}: missing" for name in ("passwd", "other", "single", "link", "fifo", "null", "gone")),
        ],
    ),
}


def _copy_over(path: Path) -> None:
    copy = path.with_name("copy")
    subprocess.run(["cp", "-p", path, copy], check=True)
    copy.rename(path)


@pytest.mark.parametrize("change", CHANGES)
def test_a_difference_is_named_by_path(layer: Path, change: str) -> None:
    ruin, expected = CHANGES[change]
    ruin(layer)
    assert lines(layer) == sorted(expected)


def test_a_path_longer_than_the_kernel_takes_is_compared(layer: Path) -> None:
    handle = os.open(layer, os.O_RDONLY)
    for part in DEEP.split(b"/"):
        below = os.open(part, os.O_RDONLY | os.O_DIRECTORY, dir_fd=handle)
        os.close(handle)
        handle = below
    os.chmod("file", 0o777, dir_fd=handle)
    os.close(handle)
    assert lines(layer) == [f"{DEEP.decode()}/file: mode 0777, not 0600"]


@pytest.mark.parametrize(
    ("ruin", "code"),
    [
        (lambda path: path.unlink(), "no-list"),
        (lambda path: path.write_bytes(b""), "bad-list"),
        (lambda path: path.write_bytes(b"no list at all"), "bad-list"),
        (lambda path: os.truncate(path, path.stat().st_size // 2), "bad-list"),
        (
            lambda path: path.write_bytes(bytes(b ^ 16 if i == 40 else b for i, b in enumerate(path.read_bytes()))),
            "bad-list",
        ),
        (lambda path: (path.unlink(), path.mkdir()), "bad-list"),
    ],
)
def test_a_damaged_list_is_told_from_none(layer: Path, ruin: Callable[[Path], object], code: str) -> None:
    ruin(layer.with_name("layer.files"))
    assert compare(layer, layer.with_name("layer.files")).code == code


def test_a_list_that_is_a_fifo_does_not_hang_the_check(layer: Path) -> None:
    files = layer.with_name("layer.files")
    files.unlink()
    os.mkfifo(files)
    assert compare(layer, files).code == "bad-list"


def test_what_is_mounted_over_a_layer_is_a_difference(layer: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", layer / "opaque"], check=True)
    try:
        assert lines(layer) == ["opaque: something is mounted there"]
    finally:
        subprocess.run(["umount", layer / "opaque"], check=True)
