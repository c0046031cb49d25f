"""The writable layer of a container as an archive of what changed (OCI image-spec, layer.md, "Change Types").

The same tree always gives the same bytes: entries in byte order of their names, parents before children, the marker of
an opaque directory before what is in it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from reconciler.errors import ConflictError, InvalidError
from reconciler.linux import durable
from reconciler.log import Logger
from reconciler.oci.digest import Digest
from reconciler.store import archive_writer, whiteout
from reconciler.store.archive import Entry, Kind
from reconciler.store.compression import CHUNK, GzipWriter
from reconciler.store.layer_tree import shown
from reconciler.store.lower import LowerLayers
from reconciler.store.pipeline import WriteBehind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from reconciler.store.lower import Found, PathParts

_log = Logger("store")
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHARACTER,
    stat.S_IFBLK: Kind.BLOCK_DEVICE,
    stat.S_IFIFO: Kind.FIFO,
}
_HOLES = ("trusted.overlay.redirect", "trusted.overlay.metacopy")
# linux/capability.h: revision 3 is revision 2 with the user namespace's root id at its end.
_CAPABILITY_2, _CAPABILITY_3, _REVISION = 0x02000000, 0x03000000, 0xFF000000


@dataclass(frozen=True, slots=True)
class CommittedLayer:
    """A layer as a blob: digest and size of the gzip stream, diff ID of what is in it. ``entries`` 0: no change."""

    digest: Digest
    size: int
    diff_id: Digest
    entries: int

    @property
    def is_empty(self) -> bool:
        return self.entries == 0


def commit_layer(
    upper: Path, lowers: Sequence[Path], out: BinaryIO, exclude: Collection[str] = frozenset()
) -> CommittedLayer:
    """Writes what ``upper`` changes over ``lowers`` (top first) to ``out``, as a gzip-compressed layer.

    ``exclude`` are paths without a leading slash where the runtime made mount points: an empty file or directory
    there that the layers below do not have is left out, and so are directories that only lead to such ones.

    Raises ``InvalidError`` for what a layer cannot hold, ``ConflictError`` when a file changes while it is read,
    ``HostError`` when something cannot be read or written.
    """
    compressed = _Compressed(upper, out)
    with WriteBehind(compressed.write) as behind, durable.guarded("read", upper):
        walk = _Walk(upper, LowerLayers(lowers), frozenset(_parts(path) for path in exclude))
        batch = bytearray()
        for piece in walk.archive():
            batch += piece
            if len(batch) >= CHUNK:
                behind.write(bytes(batch))
                batch.clear()
        behind.write(bytes(batch) + archive_writer.END)
    return compressed.finish(walk.entries)


class _Compressed:
    """Hashes, compresses and writes; in the thread that ``WriteBehind`` runs it in."""

    def __init__(self, upper: Path, out: BinaryIO) -> None:
        self._upper = upper
        self._out = out
        self._gzip = GzipWriter()
        self._diff = hashlib.sha256()
        self._blob = hashlib.sha256()
        self._size = 0

    def write(self, data: bytes) -> None:
        self._diff.update(data)
        self._put(self._gzip.compress(data))

    def finish(self, entries: int) -> CommittedLayer:
        self._put(self._gzip.finish())
        return CommittedLayer(
            digest=Digest("sha256:" + self._blob.hexdigest()),
            size=self._size,
            diff_id=Digest("sha256:" + self._diff.hexdigest()),
            entries=entries,
        )

    def _put(self, data: bytes) -> None:
        self._blob.update(data)
        self._size += len(data)
        with durable.guarded("write the layer of", self._upper):
            self._out.write(data)


@dataclass(slots=True)
class _Frame:
    """A directory being walked. ``header`` waits until something below it is written, or until its end."""

    path: bytes
    parts: PathParts
    status: os.stat_result
    names: Iterator[bytes]
    below: Found | None
    header: bytes
    has_stubs: bool = False

    @property
    def is_merged(self) -> bool:
        return self.below is not None and not whiteout.is_opaque(self.path)


class _Walk:
    def __init__(self, upper: Path, lower: LowerLayers, exclude: frozenset[PathParts]) -> None:
        self._lower = lower
        self._exclude = exclude
        self._links: dict[int, bytes] = {}
        self._stack = [self._root(os.fsencode(upper))]
        self.entries = 0

    def archive(self) -> Iterator[bytes]:
        """The archive without its end blocks."""
        while self._stack:
            frame = self._stack[-1]
            name = next(frame.names, None)
            if name is None:
                yield from self._leave()
                continue
            if name.startswith(whiteout.PREFIX):
                raise InvalidError(
                    f"{shown((*frame.parts, name))} cannot be stored: in a layer, .wh. marks what was deleted",
                    hint="rename or delete it in the container",
                )
            path, parts = frame.path + b"/" + name, (*frame.parts, name)
            try:
                yield from self._entry(frame, path, parts, os.lstat(path))
            except FileNotFoundError:
                raise _changed(parts) from None

    def _entry(self, frame: _Frame, path: bytes, parts: PathParts, status: os.stat_result) -> Iterator[bytes]:
        if stat.S_ISDIR(status.st_mode):
            yield from self._enter(frame, path, parts, status)
        elif whiteout.is_whiteout(status):
            if frame.is_merged and self._lower.lookup(parts) is not None:
                mark = (*frame.parts, whiteout.PREFIX + parts[-1])
                yield from self._write(archive_writer.header(Entry(b"/".join(mark), Kind.FILE, mode=0)))
        elif stat.S_ISSOCK(status.st_mode):
            _log.info("socket-left-out", path=shown(parts))
        elif self._is_stub(parts, status):
            frame.has_stubs = True
        elif status.st_nlink > 1 and status.st_ino in self._links:
            entry = _entry(parts, status, ())._replace(kind=Kind.HARDLINK, size=0, link=self._links[status.st_ino])
            yield from self._write(archive_writer.header(entry))
        else:
            if status.st_nlink > 1:
                self._links[status.st_ino] = b"/".join(parts)
            if stat.S_ISREG(status.st_mode):
                yield from self._file(path, parts)
            else:
                entry = _entry(parts, status, _xattrs(path, parts))
                if stat.S_ISLNK(status.st_mode):
                    entry = entry._replace(link=os.readlink(path), mode=0o777)  # noqa: PTH115 - paths here are bytes
                yield from self._write(archive_writer.header(entry))

    def _file(self, path: bytes, parts: PathParts) -> Iterator[bytes]:
        handle = os.open(path, _FILE)
        try:
            status = os.fstat(handle)
            yield from self._write(archive_writer.header(_entry(parts, status, _xattrs(handle, parts))))
            rest = status.st_size
            while rest:
                piece = os.read(handle, min(rest, CHUNK))
                if not piece:
                    raise _changed(parts)
                yield piece
                rest -= len(piece)
            after = os.fstat(handle)
            if (after.st_size, after.st_mtime_ns, after.st_ctime_ns) != (
                status.st_size,
                status.st_mtime_ns,
                status.st_ctime_ns,
            ):
                raise _changed(parts)
        finally:
            os.close(handle)
        yield archive_writer.padding(status.st_size)

    def _write(self, header: bytes) -> Iterator[bytes]:
        """A header, after those of the directories that lead to it."""
        for frame in self._stack:
            if frame.header:
                yield frame.header
                self.entries += 1
                frame.header = b""
        yield header
        self.entries += 1

    def _root(self, path: bytes) -> _Frame:
        """The root has an entry only when its owner, mode or attributes changed: its time moves with any change."""
        status = os.lstat(path)
        below = self._lower.lookup(())
        attributes = _attributes(below.path, below.status) if below is not None else (0o755, 0, 0, ())
        header = b""
        if _attributes(path, status) != attributes:
            header = archive_writer.header(_entry((b".",), status, _xattrs(path, ())))
        return _Frame(path, (), status, _names(path), below, header)

    def _enter(self, parent: _Frame, path: bytes, parts: PathParts, status: os.stat_result) -> Iterator[bytes]:
        below = self._lower.lookup(parts) if parent.is_merged else None
        if below is not None and not below.is_directory:
            below = None
        header = archive_writer.header(_entry(parts, status, _xattrs(path, parts)))
        self._stack.append(_Frame(path, parts, status, _names(path), below, header))
        if below is not None and whiteout.is_opaque(path):
            mark = Entry(b"/".join((*parts, whiteout.OPAQUE_NAME)), Kind.FILE, mode=0)
            yield from self._write(archive_writer.header(mark))

    def _leave(self) -> Iterator[bytes]:
        """Ends a directory: of one that has written nothing, decides whether it is a change by itself."""
        frame = self._stack[-1]
        if frame.header and self._is_change(frame):
            header, frame.header = frame.header, b""
            yield from self._write(header)
        elif frame.header and frame.below is None and len(self._stack) > 1:
            self._stack[-2].has_stubs = True
        self._stack.pop()

    def _is_change(self, frame: _Frame) -> bool:
        if not frame.parts:
            return True
        if frame.below is None:
            return not frame.has_stubs and frame.parts not in self._exclude
        if _attributes(frame.path, frame.status) != _attributes(frame.below.path, frame.below.status):
            return True
        return not frame.has_stubs and frame.status.st_mtime_ns != frame.below.status.st_mtime_ns

    def _is_stub(self, parts: PathParts, status: os.stat_result) -> bool:
        is_empty_file = stat.S_ISREG(status.st_mode) and status.st_size == 0
        return is_empty_file and parts in self._exclude and self._lower.lookup(parts) is None


def _entry(parts: PathParts, status: os.stat_result, xattrs: tuple[tuple[bytes, bytes], ...]) -> Entry:
    kind = _KINDS[stat.S_IFMT(status.st_mode)]
    is_device = kind in (Kind.CHARACTER, Kind.BLOCK_DEVICE)
    return Entry(
        name=b"/".join(parts),
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        size=status.st_size if kind is Kind.FILE else 0,
        mtime=status.st_mtime_ns,
        device=(os.major(status.st_rdev), os.minor(status.st_rdev)) if is_device else (0, 0),
        xattrs=xattrs,
    )


def _attributes(path: bytes, status: os.stat_result) -> tuple[int, int, int, tuple[tuple[bytes, bytes], ...]]:
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, _xattrs(path, ())


def _xattrs(target: bytes | int, parts: PathParts) -> tuple[tuple[bytes, bytes], ...]:
    """The extended attributes that belong into a layer, by name."""
    follow = isinstance(target, int)  # a descriptor is what it is; of a path, the link itself
    found = []
    try:
        keys = os.listxattr(target, follow_symlinks=follow)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return ()
    for key in sorted(keys):
        if key in _HOLES:
            raise InvalidError(
                f"{shown(parts)} cannot be stored: overlayfs keeps part of it elsewhere ({key})",
                hint="the kernel's overlay options redirect_dir and metacopy must be off for this store",
            )
        if key.startswith(whiteout.OVERLAY_XATTRS):
            continue
        value = os.getxattr(target, key, follow_symlinks=follow)
        found.append((os.fsencode(key), _portable(value) if key == "security.capability" else value))
    return tuple(found)


def _portable(capability: bytes) -> bytes:
    """A file capability without the root id of a user namespace, which means nothing on another host."""
    magic = int(struct.unpack_from("<I", capability)[0])
    if magic & _REVISION != _CAPABILITY_3:
        return capability
    return struct.pack("<I", magic & ~_REVISION | _CAPABILITY_2) + capability[4:-4]


def _names(path: bytes) -> Iterator[bytes]:
    return iter(sorted(os.listdir(path)))  # noqa: PTH208 - paths here are bytes


def _parts(path: str) -> PathParts:
    return tuple(os.fsencode(path).strip(b"/").split(b"/"))


def _changed(parts: PathParts) -> ConflictError:
    return ConflictError(f"{shown(parts)} changed during the commit", hint="stop the container, then commit")
