"""The writable layer of a container as an archive of what changed (OCI image-spec, layer.md, "Change Types").

The same tree always gives the same bytes: entries in byte order of their names, parents before children, the marker of
an opaque directory before what is in it. Files with holes are written whole: where the holes are is the filesystem's
choice, not the container's.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from typing import TYPE_CHECKING

from reconciler.errors import InvalidError
from reconciler.linux import durable
from reconciler.log import Logger
from reconciler.oci.digest import Digest
from reconciler.store.archive import writer as archive_writer
from reconciler.store.archive.compression import CHUNK, GzipWriter
from reconciler.store.archive.reader import Entry, Kind
from reconciler.store.layers import whiteout
from reconciler.store.layers.attributes import Xattrs, xattrs
from reconciler.store.layers.changes import Change, changed, changes
from reconciler.store.layers.tree import shown
from reconciler.store.pipeline import WriteBehind
from reconciler.value import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    from reconciler.store.layers.lower import PathParts

_log = Logger("store")
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# What opening a file gives when something else has its name by now.
_REPLACED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHARACTER,
    stat.S_IFBLK: Kind.BLOCK_DEVICE,
    stat.S_IFIFO: Kind.FIFO,
}


@dataclass(frozen=True, slots=True)
class CommittedLayer:
    """A layer that was written: the digest of the archive before it was compressed. ``entries`` 0: no change."""

    diff_id: Digest
    entries: int

    @property
    def is_empty(self) -> bool:
        return self.entries == 0


def commit_layer(
    upper: Path, lowers: Sequence[Path], write: Callable[[bytes], object], stubs: Collection[str] = frozenset()
) -> CommittedLayer:
    """Gives what ``upper`` changes over ``lowers`` (top first) to ``write``, as a gzip-compressed layer.

    ``stubs`` are the runtime's mount points, which are left out as ``changes`` says; sockets are, too. ``write`` is
    called in another thread.

    Raises ``InvalidError`` for what a layer cannot hold, ``ConflictError`` when a file changes while it is read,
    ``HostError`` when something cannot be read, and what ``write`` raises.
    """
    hasher, gzip, archive = hashlib.sha256(), GzipWriter(), Archive()
    batch = bytearray()

    def compress(data: bytes) -> None:
        write(gzip.compress(data))

    with WriteBehind(compress) as behind, durable.guarded("read", upper):

        def hand_over() -> None:
            # Hashed here and compressed there: both release the GIL.
            hasher.update(batch)
            behind.write(bytes(batch))
            batch.clear()

        for change in changes(upper, lowers, stubs):
            for piece in archive.pieces(change):
                batch += piece
                if len(batch) >= CHUNK:
                    hand_over()
        batch += archive_writer.END
        hand_over()
    write(gzip.finish())
    return CommittedLayer(Digest("sha256:" + hasher.hexdigest()), archive.entries)


class Archive:
    """Turns changes into the blocks of an archive, but for its end."""

    def __init__(self) -> None:
        self.entries = 0
        self._links: dict[int, bytes] = {}

    def pieces(self, change: Change) -> Iterable[bytes]:
        """The header and the body of one change; nothing for a socket."""
        parts, status = change.parts, change.status
        if parts and parts[-1].startswith(whiteout.PREFIX):
            raise InvalidError(
                f"{shown(parts)} cannot be stored: in a layer, .wh. marks what was deleted",
                hint="rename or delete it in the container",
            )
        if stat.S_ISSOCK(status.st_mode):
            _log.info("socket-left-out", path=shown(parts))
            return ()
        self.entries += 1
        if change.is_deletion:
            return (_mark((*parts[:-1], whiteout.PREFIX + parts[-1])),)
        if stat.S_ISDIR(status.st_mode):
            own = archive_writer.header(_entry(parts or (b".",), status, xattrs(change.path, parts)))
            if not change.is_opaque:
                return (own,)
            self.entries += 1
            return own, _mark((*parts, whiteout.OPAQUE_NAME))
        if status.st_nlink > 1:
            name = b"/".join(parts)
            first = self._links.setdefault(status.st_ino, name)
            if first != name:
                link = _entry(parts, status, ())._replace(kind=Kind.HARDLINK, size=0, link=first)
                return (archive_writer.header(link),)
        if stat.S_ISREG(status.st_mode):
            return _file(change) if status.st_size > CHUNK else (_small_file(change),)
        entry = _entry(parts, status, xattrs(change.path, parts))
        if stat.S_ISLNK(status.st_mode):
            entry = entry._replace(link=os.readlink(change.path), mode=0o777)  # noqa: PTH115 - bytes
        return (archive_writer.header(entry),)


def _small_file(change: Change) -> bytes:
    """A regular file of at most ``CHUNK`` bytes, as ``_file`` gives it; of those a layer may have ten thousands."""
    before, parts = change.status, change.parts
    size = before.st_size
    handle = _opened(change)
    try:
        found = xattrs(handle, parts)
        data = os.read(handle, size) if size else b""
        _check_unchanged(change, handle)
    finally:
        os.close(handle)
    if len(data) != size:
        raise changed(parts)
    name, mode = b"/".join(parts), stat.S_IMODE(before.st_mode)
    own = archive_writer.plain_header(name, mode, before.st_uid, before.st_gid, size, before.st_mtime_ns)
    if own is None or found:
        own = archive_writer.header(_entry(parts, before, found))
    return own + data + archive_writer.padding(size)


def _file(change: Change) -> Iterator[bytes]:
    """A regular file, which must stay from its first look to its last byte what it was."""
    before, parts = change.status, change.parts
    handle = _opened(change)
    try:
        yield archive_writer.header(_entry(parts, before, xattrs(handle, parts)))
        rest = before.st_size
        while rest:
            piece = os.read(handle, min(rest, CHUNK))
            if not piece:
                raise changed(parts)
            yield piece
            rest -= len(piece)
        _check_unchanged(change, handle)
    finally:
        os.close(handle)
    yield archive_writer.padding(before.st_size)


def _opened(change: Change) -> int:
    try:
        return os.open(change.path, _FILE)
    except OSError as error:
        if error.errno not in _REPLACED:
            raise
        raise changed(change.parts) from None


def _check_unchanged(change: Change, handle: int) -> None:
    before, after = change.status, os.fstat(handle)
    # The change time moves with content and attributes alike, and no program can set it back.
    if after.st_ctime_ns != before.st_ctime_ns or after.st_ino != before.st_ino or after.st_size != before.st_size:
        raise changed(change.parts)


def _mark(parts: PathParts) -> bytes:
    return archive_writer.header(Entry(b"/".join(parts), Kind.FILE, mode=0))


def _entry(parts: PathParts, status: os.stat_result, found: Xattrs) -> Entry:
    kind = _KINDS[stat.S_IFMT(status.st_mode)]
    # rdev is 0 of all but devices.
    device = (os.major(status.st_rdev), os.minor(status.st_rdev)) if status.st_rdev else (0, 0)
    size = status.st_size if kind is Kind.FILE else 0
    mode, mtime = stat.S_IMODE(status.st_mode), status.st_mtime_ns
    return Entry(b"/".join(parts), kind, mode, status.st_uid, status.st_gid, size, mtime, b"", device, found)
