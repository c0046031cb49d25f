"""The list of a layer's files says what the layer's directory holds, however it came to be."""

from __future__ import annotations

import os
import stat
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.errors import IntegrityError, NotFoundError, ReconcilerError
from reconciler.linux.tree import remove_tree
from reconciler.store.archive.reader import Entry, Kind
from reconciler.store.archive.writer import archive
from reconciler.store.layers import whiteout
from reconciler.store.layers.extract import extract
from reconciler.store.layers.file_list import FileListWriter, Listed, Recorded, RecordedKind, listing, read_file_list
from reconciler.store.layers.lower import LowerLayers

pytestmark = pytest.mark.root

_NODES = {
    stat.S_IFREG: RecordedKind.FILE,
    stat.S_IFLNK: RecordedKind.SYMLINK,
    stat.S_IFCHR: RecordedKind.CHARACTER,
    stat.S_IFBLK: RecordedKind.BLOCK_DEVICE,
    stat.S_IFDIR: RecordedKind.DIRECTORY,
    stat.S_IFIFO: RecordedKind.FIFO,
}


def walk(root: Path) -> Iterator[tuple[bytes, bytes]]:
    pending = [b""]
    while pending:
        path = pending.pop()
        full = os.fsencode(root) + b"/" + path
        yield path, full
        if stat.S_ISDIR(os.lstat(full).st_mode):
            pending += [path + b"/" + name if path else name for name in os.listdir(full)]  # noqa: PTH208


def on_disk(root: Path) -> tuple[dict[bytes, Recorded], set[bytes], set[frozenset[bytes]]]:
    """What is in a directory: attributes by path, the opaque directories, and the paths that share a file."""
    found, opaque, shared = {}, set(), dict[int, set[bytes]]()
    for path, full in walk(root):
        status = os.lstat(full)
        shared.setdefault(status.st_ino, set()).add(path)
        if whiteout.is_whiteout(status):
            found[path] = Recorded(path, RecordedKind.WHITEOUT)
            continue
        if whiteout.is_opaque(full) and not stat.S_ISLNK(status.st_mode):
            opaque.add(path)
        kind = _NODES[stat.S_IFMT(status.st_mode)]
        keys = sorted(os.listxattr(full, follow_symlinks=False))
        found[path] = Recorded(
            path,
            kind,
            stat.S_IMODE(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_size if kind is RecordedKind.FILE else 0,
            status.st_mtime_ns,
            zlib.crc32(Path(os.fsdecode(full)).read_bytes()) if kind is RecordedKind.FILE else 0,
            os.readlink(full) if kind is RecordedKind.SYMLINK else b"",  # noqa: PTH115
            status.st_rdev,
            tuple(
                (os.fsencode(key), os.getxattr(full, key, follow_symlinks=False))
                for key in keys
                if not key.startswith(whiteout.OVERLAY_XATTRS)
            ),
        )
    return found, opaque, {frozenset(paths) for paths in shared.values()}


def as_on_disk(listed: dict[bytes, Listed]) -> tuple[dict[bytes, Recorded], set[bytes], set[frozenset[bytes]]]:
    shared = dict[int, set[bytes]]()
    for path, item in listed.items():
        shared.setdefault(item.inode, set()).add(path)
    return (
        {
            path: item.recorded._replace(path=path, xattrs=tuple(sorted(item.recorded.xattrs)))
            for path, item in listed.items()
        },
        {path for path, item in listed.items() if item.opaque},
        {frozenset(paths) for paths in shared.values()},
    )


NAMES = st.sampled_from([b"a", b"b", b"c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(b"/".join)
KINDS = st.sampled_from([Kind.FILE, Kind.FILE, Kind.DIRECTORY, Kind.DIRECTORY, Kind.SYMLINK, Kind.HARDLINK, Kind.FIFO])


@st.composite
def members(draw: st.DrawFn) -> tuple[Entry, bytes]:
    path, kind = draw(PATHS), draw(KINDS)
    if draw(st.integers(0, 4)) == 0:
        *above, name = path.split(b"/")
        mark = draw(st.sampled_from([b".wh." + name, whiteout.OPAQUE_NAME]))
        return Entry(b"/".join((*above, mark)), Kind.FILE), b""
    body = draw(st.binary(max_size=3)) if kind is Kind.FILE else b""
    link = draw(PATHS) if kind in (Kind.SYMLINK, Kind.HARDLINK) else b""
    xattrs = ((b"user.k", b"v"),) if kind is Kind.FILE and draw(st.booleans()) else ()
    mode = 0o777 if kind is Kind.SYMLINK else draw(st.sampled_from([0o644, 0o4755, 0o2770, 0]))
    entry = Entry(path, kind, mode, draw(st.integers(0, 2)), 7, len(body), draw(st.integers(-5, 5)) * 10**9, link)
    return entry._replace(xattrs=xattrs), body


def unpack(entries: list[tuple[Entry, bytes]], target: Path, record: Path, lowers: tuple[Path, ...]) -> None:
    remove_tree(target, point="test")
    target.mkdir(mode=0o700)
    files = os.open(record, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC)
    try:
        extract(archive(entries), target, lambda: LowerLayers(lowers), files)
    finally:
        os.close(files)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(members(), max_size=12), st.lists(members(), max_size=6))
def test_the_list_played_back_is_the_directory(
    tmp_path: Path, entries: list[tuple[Entry, bytes]], below: list[tuple[Entry, bytes]]
) -> None:
    try:
        unpack(below, tmp_path / "lower", tmp_path / "lower.files", ())
        unpack(entries, tmp_path / "layer", tmp_path / "layer.files", (tmp_path / "lower",))
    except ReconcilerError:
        return
    for name in ("lower", "layer"):
        listed = listing(read_file_list(tmp_path / f"{name}.files"))
        assert as_on_disk(listed) == on_disk(tmp_path / name)


def test_a_damaged_or_missing_list_is_told_apart(tmp_path: Path) -> None:
    record = tmp_path / f"{'ab' * 32}.files"
    with pytest.raises(NotFoundError, match="sha256:abab"):
        list(read_file_list(record))
    unpack([(Entry(b"f", Kind.FILE, size=1), b"x")], tmp_path / "layer", record, ())
    whole = record.read_bytes()
    entries = list(read_file_list(record))
    assert {entry.path for entry in entries} == {b"", b"f"}
    for end in range(len(whole)):
        record.write_bytes(whole[:end])
        with pytest.raises(IntegrityError):
            list(read_file_list(record))
    for at in range(len(whole)):
        record.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        try:
            assert list(read_file_list(record)) == entries  # a gzip header has bytes without meaning
        except IntegrityError:
            continue


def test_the_checksum_and_device_numbers_are_kept(tmp_path: Path) -> None:
    device = Entry(b"d", Kind.CHARACTER, 0o600, device=(4095, 1048575))
    unpack([(Entry(b"f", Kind.FILE, size=300_000), bytes(300_000)), (device, b"")], tmp_path / "l", tmp_path / "r", ())
    found = {entry.path: entry for entry in read_file_list(tmp_path / "r")}
    assert found[b"f"].checksum == zlib.crc32(bytes(300_000))
    assert (os.major(found[b"d"].device), os.minor(found[b"d"].device), found[b"d"].size) == (4095, 1048575, 0)


def test_recording_costs_little(tmp_path: Path) -> None:
    files = os.open(tmp_path / "r", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    started = time.process_time()
    writer = FileListWriter(files)
    for number in range(8742):
        writer.add(b"usr/share/doc/package-%d/changelog.gz" % number, RecordedKind.FILE.value, 0o644, size=number)
    writer.finish()
    spent = time.process_time() - started
    size = os.fstat(files).st_size
    os.close(files)
    assert sum(1 for _ in read_file_list(tmp_path / "r")) == 8742
    assert (spent < 0.2, size < 30 * 8742) == (True, True), (spent, size)
