"""What an unpack wrote, recorded beside the layer: ROOT/layers/<chain hex>.files.

The record is a gzip stream of entries in the order in which they were applied, written while the layer is unpacked and
never changed afterwards, so that its memory is bounded however many entries there are. A later entry for a path
replaces an earlier one; one for a directory over a directory replaces its attributes only. ``listing`` plays it back.

A layer unpacked by a version without such records has none. Nothing can then be said about its files.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from reconciler.errors import IntegrityError, NotFoundError
from reconciler.linux import durable
from reconciler.store.archive.compression import CHUNK, GzipWriter, decompress
from reconciler.value import dataclass

if TYPE_CHECKING:
    from collections.abc import Container, Iterator
    from pathlib import Path

    from reconciler.store.archive.compression import Readable

SUFFIX = ".files"

_MAGIC = b"reconciler files 1\n"
_END = 0xFF
_NANO = 1_000_000_000
# Kind, mode, uid, gid, size or device, seconds, nanoseconds, checksum; then the lengths of path, link and attributes.
_HEAD = struct.Struct("<BxHIIQqIIIII")
_XATTR = struct.Struct("<HI")


class RecordedKind(Enum):
    """The types of an archive's entries, and what else overlayfs keeps in a layer."""

    FILE = ord("0")
    HARDLINK = ord("1")
    SYMLINK = ord("2")
    CHARACTER = ord("3")
    BLOCK_DEVICE = ord("4")
    DIRECTORY = ord("5")
    FIFO = ord("6")
    WHITEOUT = ord("w")
    OPAQUE = ord("o")
    """The directory hides what lower layers have in it."""
    REMOVED = ord("r")
    """Taken away again while the layer was finished."""


class Recorded(NamedTuple):
    """One entry. ``path`` is relative to the layer's root and goes through no links; the root itself is ``b""``.

    ``mtime`` is in nanoseconds since the epoch; ``checksum`` is the CRC-32 of a file's content; ``link`` is what a
    symbolic link says, or the path that a hard link shares its file with. A hard link, whiteout, opaque mark and
    removal have no attributes of their own. ``xattrs`` are those that were set, without overlayfs's own.
    """

    path: bytes
    kind: RecordedKind
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = 0
    checksum: int = 0
    link: bytes = b""
    device: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Listed:
    """What a path of a layer is in the end. Paths with the same ``inode`` are names of one file.

    ``recorded.path`` is the name that the file was made under, which may be another one or gone.
    """

    recorded: Recorded
    inode: int
    opaque: bool = False


class FileListWriter:
    """Appends to a record. ``descriptor`` is an empty file, open for reading and writing, and stays its owner's."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._gzip: GzipWriter | None = None
        self._pending = [_MAGIC]
        self._size = 0
        self._count = 0

    def add(
        self,
        path: bytes,
        kind: int,
        mode: int = 0,
        uid: int = 0,
        gid: int = 0,
        size: int = 0,
        mtime: int = 0,
        checksum: int = 0,
        link: bytes = b"",
        xattrs: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        """Appends one entry: the fields of ``Recorded``, ``kind`` as its value, a device's number as ``size``."""
        seconds, nanoseconds = divmod(mtime, _NANO)
        packed = _packed(xattrs) if xattrs else b""
        head = _HEAD.pack(kind, mode, uid, gid, size, seconds, nanoseconds, checksum, len(path), len(link), len(packed))
        self._pending += (head, path, link, packed)
        self._count += 1
        self._size += len(head) + len(path) + len(link) + len(packed)
        if self._size > CHUNK:
            self._write()

    def replay(self, kinds: Container[int]) -> Iterator[Recorded]:
        """The entries of some kinds that were added so far, in order. Others may be added meanwhile."""
        self._write(last=True)
        yield from _read(_FromDescriptor(self._descriptor, os.fstat(self._descriptor).st_size), kinds)

    def finish(self) -> None:
        """To be called once, after the last entry: a record without its end counts as damaged."""
        self._pending.append(_HEAD.pack(_END, 0, 0, 0, self._count, 0, 0, 0, 0, 0, 0))
        self._write(last=True)

    def _write(self, *, last: bool = False) -> None:
        """Writes what is pending; ``last`` ends the gzip member, so that all of it can be read."""
        if self._pending:
            self._gzip = self._gzip or GzipWriter()
            durable.write_all(self._descriptor, self._gzip.compress(b"".join(self._pending)))
            self._pending.clear()
            self._size = 0
        if last and self._gzip is not None:
            durable.write_all(self._descriptor, self._gzip.finish())
            self._gzip = None


def read_file_list(path: Path) -> Iterator[Recorded]:
    """All entries of a record, in the order in which they were applied.

    Raises ``NotFoundError`` when there is no record, ``IntegrityError`` when it is damaged or has no end (only reading
    all of it tells), ``HostError`` when it cannot be read.
    """
    with durable.guarded("read", path):
        try:
            stream = path.open("rb")
        except FileNotFoundError:
            raise NotFoundError(f"layer sha256:{path.stem} has no list of its files") from None
        with stream:
            yield from _read(stream, _ALL, whole=True)


def listing(recorded: Iterator[Recorded]) -> dict[bytes, Listed]:
    """What the layer's directory holds after all these entries: by path, directories before what is in them.

    Opaque marks become part of their directory; what was replaced or removed is not in it.
    """
    root = _Node(Listed(Recorded(b"", RecordedKind.DIRECTORY), 0))
    for number, entry in enumerate(recorded, 1):
        _play(root, entry, number)
    found: dict[bytes, Listed] = {}
    pending = [(b"", root)]
    while pending:
        path, node = pending.pop()
        found[path] = node.listed
        prefix = path + b"/" if path else b""
        pending += ((prefix + name, child) for name, child in sorted(node.children.items(), reverse=True))
    return found


def file_checksum() -> Any:
    """The function ``crc32(data, value=0)``: isal's where there is one, which is ten times as fast as zlib's."""
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib.crc32
    return isal_zlib.crc32


_ALL = frozenset(kind.value for kind in RecordedKind)


class _Node:
    __slots__ = ("children", "listed")

    def __init__(self, listed: Listed) -> None:
        self.listed = listed
        self.children: dict[bytes, _Node] = {}


def _play(root: _Node, entry: Recorded, number: int) -> None:
    parent, node = None, root
    parts = entry.path.split(b"/") if entry.path else []
    for at, name in enumerate(parts):
        parent = node
        found = node.children.get(name)
        if found is None and at < len(parts) - 1:
            raise IntegrityError(f"the list of files has {ascii(entry.path)} before its directory")
        node = found or _Node(root.listed)
    if entry.kind is RecordedKind.REMOVED and parent is not None:
        parent.children.pop(parts[-1], None)
        return
    if entry.kind is RecordedKind.OPAQUE:
        node.listed = replace(node.listed, opaque=True)
        return
    if entry.kind is RecordedKind.DIRECTORY and (parent is None or parts[-1] in parent.children):
        before = node.listed
        if before.recorded.kind is RecordedKind.DIRECTORY:
            node.listed = Listed(entry, before.inode, before.opaque)
            return
    if parent is None:
        raise IntegrityError("the list of files has something else than a directory as its root")
    listed = Listed(entry, number)
    if entry.kind is RecordedKind.HARDLINK:
        listed = _at(root, entry.link)
    parent.children[parts[-1]] = _Node(listed)


def _at(root: _Node, path: bytes) -> Listed:
    node = root
    for name in path.split(b"/"):
        if name not in node.children:
            raise IntegrityError(f"the list of files has a hard link to {ascii(path)} before that")
        node = node.children[name]
    return node.listed


def _packed(xattrs: tuple[tuple[bytes, bytes], ...]) -> bytes:
    return b"".join(_XATTR.pack(len(key), len(value)) + key + value for key, value in xattrs)


def _unpacked(data: bytes) -> tuple[tuple[bytes, bytes], ...]:
    found = []
    at = 0
    while at < len(data):
        key_length, value_length = _XATTR.unpack_from(data, at)
        at += _XATTR.size
        found.append((data[at : at + key_length], data[at + key_length : at + key_length + value_length]))
        at += key_length + value_length
    return tuple(found)


def _read(stream: Readable, kinds: Container[int], *, whole: bool = False) -> Iterator[Recorded]:
    """The entries of ``kinds``. ``whole``: raises ``IntegrityError`` unless the stream ends with its end."""
    data = b""
    count = at = 0
    ended = False
    started = False
    for chunk in decompress(stream):
        data = data[at:] + chunk
        at = 0
        if not started:
            if not data.startswith(_MAGIC):
                raise IntegrityError("this is no list of files, or one of a newer version")
            started, at = True, len(_MAGIC)
        while len(data) - at >= _HEAD.size:
            fields = _HEAD.unpack_from(data, at)
            after = at + _HEAD.size + fields[8] + fields[9] + fields[10]
            if after > len(data):
                break
            if fields[0] == _END:
                ended = fields[4] == count
            elif fields[0] in kinds:
                yield _entry(fields, data, at + _HEAD.size)
            elif fields[0] not in _ALL:
                raise IntegrityError("the list of files has an entry of an unknown kind")
            count += 1
            at = after
    if whole and (not ended or at != len(data)):
        raise IntegrityError("the list of files is cut off")


def _entry(fields: tuple[int, ...], data: bytes, at: int) -> Recorded:
    kind, mode, uid, gid, size, seconds, nanoseconds, checksum, path, link, xattrs = fields
    is_device = kind in _DEVICES
    link_at, xattrs_at = at + path, at + path + link
    return Recorded(
        data[at:link_at],
        RecordedKind(kind),
        mode,
        uid,
        gid,
        0 if is_device else size,
        seconds * _NANO + nanoseconds,
        checksum,
        data[link_at:xattrs_at],
        size if is_device else 0,
        _unpacked(data[xattrs_at : xattrs_at + xattrs]) if xattrs else (),
    )


_DEVICES = (RecordedKind.CHARACTER.value, RecordedKind.BLOCK_DEVICE.value)


class _FromDescriptor:
    """The first bytes of a file as a stream, whatever its descriptor's offset, which stays as it is."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._rest = size
        self._at = 0

    def read(self, count: int) -> bytes:
        data = os.pread(self._descriptor, min(count, self._rest), self._at)
        self._at += len(data)
        self._rest -= len(data)
        return data
