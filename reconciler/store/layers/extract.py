"""Extracting an archive into a layer directory, in the form that overlayfs wants on disk.

An archive is hostile until shown otherwise: no system call ever gets a path that the archive wrote, only single names
relative to a directory that ``LayerTree`` found.

Layers are unpacked in a process of their own (``worker``), which has the layer's directory as its root. The same code
runs in any process, which is how tests watch it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.errors import InvalidError
from reconciler.linux import durable, watch
from reconciler.log import Logger
from reconciler.store.archive import sparse
from reconciler.store.archive.limits import DEFAULTS, Limits
from reconciler.store.archive.reader import ArchiveReader, Entry, Kind, Source
from reconciler.store.layers import whiteout
from reconciler.store.layers.file_list import FileListWriter, RecordedKind, file_checksum
from reconciler.store.layers.tree import Attributes, Directory, LayerTree, shown, status_of
from reconciler.store.layers.xattrs import Xattrs, drop_inherited, set_xattrs
from reconciler.value import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from reconciler.store.layers.lower import LowerLayers, PathParts

_log = Logger("store")
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DISK_BLOCK = 4096
_MAX_NAME = 255  # of one component, limits.h
_BAD_NAMES = (errno.ENAMETOOLONG, errno.EINVAL, errno.EMLINK, errno.ERANGE, errno.E2BIG)
_DEVICES = (Kind.CHARACTER, Kind.BLOCK_DEVICE)
_NODE_TYPES = {Kind.CHARACTER: stat.S_IFCHR, Kind.BLOCK_DEVICE: stat.S_IFBLK, Kind.FIFO: stat.S_IFIFO}


@dataclass(frozen=True, slots=True)
class Extracted:
    """What an archive came to: its number of entries, and the bytes its files take on disk, in whole blocks."""

    entries: int
    size: int


def extract(
    chunks: Iterator[bytes],
    target: Path,
    below: Callable[[], LowerLayers],
    files: int | None = None,
    limits: Limits = DEFAULTS,
    *,
    confined: int | None = None,
) -> Extracted:
    """Extracts an uncompressed archive into the empty directory ``target``, reading ``chunks`` to the end.

    ``below`` is asked for the lower layers when they are first needed, and may wait for them. ``files`` is the
    descriptor of an empty file, open for reading and writing, for the list of what was written (``file_list``).
    ``confined`` is the descriptor of ``target`` in a process of its own: with that as its root, a umask of 0 and no
    other thread that uses the working directory.

    Nothing outside ``target`` changes. Raises ``InvalidError`` for an archive that breaks the rules, ``LimitError`` for
    one that goes beyond ``limits``, ``IntegrityError`` for a truncated one, ``HostError`` when the host cannot store
    it; ``target`` is then for the caller to remove.
    """
    with contextlib.ExitStack() as opened, durable.guarded("unpack into", target):
        root = confined
        if root is None:
            root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            opened.callback(os.close, root)
        if files is None:
            files = os.memfd_create("files")
            opened.callback(os.close, files)
        recorded = FileListWriter(files)
        tree = LayerTree(root, below, recorded, limits)
        opened.callback(tree.close)
        extracted = _Extraction(tree, recorded, is_confined=confined is not None).run(
            ArchiveReader(Source(chunks), limits)
        )
        recorded.finish()
        return extracted


class _Extraction:
    def __init__(self, tree: LayerTree, files: FileListWriter, *, is_confined: bool) -> None:
        self._is_confined = is_confined
        self._tree = tree
        self._files = files
        self._checksum = file_checksum()

    def run(self, archive: ArchiveReader) -> Extracted:
        entries = size = 0
        apply = self._announced if watch.active() else self._apply
        for entry in archive:
            entries += 1
            size += -(-entry.size // _DISK_BLOCK) * _DISK_BLOCK
            try:
                apply(entry, archive)
            except OSError as error:
                raise _explained(error, entry) from error
        self._tree.finish()
        return Extracted(entries, size)

    def _announced(self, entry: Entry, archive: ArchiveReader) -> None:
        with watch.operation("unpack", "entry", Path(os.fsdecode(entry.name))):
            self._apply(entry, archive)

    def _apply(self, entry: Entry, archive: ArchiveReader) -> None:
        parts = _parts(entry.name)
        if whiteout.PREFIX in entry.name and any(part.startswith(whiteout.PREFIX) for part in parts):
            self._whiteout(parts)
        elif entry.kind is Kind.DIRECTORY:
            self._directory(parts, entry)
        elif entry.kind is Kind.SOCKET:
            _log.info("socket-skipped", path=_where(entry))
        elif not parts:
            raise InvalidError(f"the entry at byte {entry.offset} would replace the root directory")
        else:
            parent = self._tree.directory(parts[:-1])
            match entry.kind:
                case Kind.FILE:
                    self._file(parent, parts[-1], entry, archive)
                case Kind.HARDLINK:
                    self._hard_link(parent, parts[-1], entry)
                case Kind.SYMLINK:
                    self._symlink(parent, parts[-1], entry)
                case _:
                    self._node(parent, parts[-1], entry)

    def _file(self, parent: Directory, name: bytes, entry: Entry, archive: ArchiveReader) -> None:
        uid, gid, mode = entry.uid, entry.gid, entry.mode
        # Made with its final mode where nothing else has a say in that.
        is_plain = self._is_confined and parent.plain and mode <= 0o777
        created = mode if is_plain else 0o600
        try:
            handle = os.open(name, _CREATE, created, dir_fd=parent.handle)
        except FileExistsError:
            parent = self._cleared(parent, name)
            is_plain = is_plain and parent.plain
            handle = os.open(name, _CREATE, created, dir_fd=parent.handle)
        checksum = 0
        try:
            if entry.sparse is not None:
                checksum = sparse.write(handle, entry.sparse, archive.body(), self._checksum)
            else:
                for piece in archive.body():
                    durable.write_all(handle, piece)
                    checksum = self._checksum(piece, checksum)
            if uid or gid or not is_plain:
                os.fchown(handle, uid, gid)
            if not parent.plain:
                drop_inherited(handle)
            if not is_plain:
                os.fchmod(handle, mode)
            # After chown, which takes security.capability away.
            xattrs = set_xattrs(handle, entry.xattrs, _where(entry), is_file=True) if entry.xattrs else ()
            os.utime(handle, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(handle)
        self._record(parent, name, entry, xattrs, checksum)

    def _directory(self, parts: PathParts, entry: Entry) -> None:
        attributes = Attributes(entry.mode, entry.uid, entry.gid, entry.mtime, entry.xattrs)
        self._tree.set_attributes(self._open_or_make(parts), attributes)

    def _open_or_make(self, parts: PathParts) -> Directory:
        if not parts:
            return self._tree.root
        parent, name = self._tree.directory(parts[:-1]), parts[-1]
        status = status_of(parent, name)
        if status is None:
            return self._tree.make(parent, name)
        if stat.S_ISDIR(status.st_mode):
            return self._tree.directory((*parent.parts, name))
        # What was here hid whatever the layers below have: the directory must go on hiding it.
        return self._tree.make(self._cleared(parent, name), name, opaque=True)

    def _hard_link(self, parent: Directory, name: bytes, entry: Entry) -> None:
        target = _parts(entry.link)
        source = self._tree.find(target[:-1]) if target else None
        status = status_of(source, target[-1]) if source is not None else None
        if source is None or status is None or whiteout.is_whiteout(status):
            raise InvalidError(
                f"{shown((*parent.parts, name))} is a hard link to {shown(target)}, which does not come before it"
            )
        if stat.S_ISDIR(status.st_mode):
            raise InvalidError(f"{shown(_parts(entry.name))} is a hard link to a directory")
        place = (*parent.parts, name)
        if (*source.parts, target[-1])[: len(place)] == place:
            raise InvalidError(f"{shown(place)} is a hard link to itself, or to something inside itself")
        # Both were found one after the other: either may have been closed meanwhile.
        parent = self._tree.directory(parent.parts)
        if status_of(parent, name) is not None:
            parent = self._cleared(parent, name)
        source = self._tree.directory(source.parts)
        os.link(target[-1], name, src_dir_fd=source.handle, dst_dir_fd=parent.handle, follow_symlinks=False)
        self._files.add(parent.path(name), RecordedKind.HARDLINK.value, link=source.path(target[-1]))

    def _symlink(self, parent: Directory, name: bytes, entry: Entry) -> None:
        if not entry.link:
            raise InvalidError(f"{shown(_parts(entry.name))} is a symbolic link without a target")
        try:
            os.symlink(entry.link, name, dir_fd=parent.handle)
        except FileExistsError:
            parent = self._cleared(parent, name)
            os.symlink(entry.link, name, dir_fd=parent.handle)
        self._finish_by_name(parent, name, entry)

    def _node(self, parent: Directory, name: bytes, entry: Entry) -> None:
        major, minor = entry.device
        if not 0 <= major < 1 << 12 or not 0 <= minor < 1 << 20:
            raise InvalidError(f"{shown(_parts(entry.name))} has the impossible device number {major}:{minor}")
        if entry.kind is Kind.CHARACTER and entry.device == (0, 0):
            raise InvalidError(f"{shown(_parts(entry.name))} is a character device 0:0, which would be a whiteout")
        if status_of(parent, name) is not None:
            parent = self._cleared(parent, name)
        os.mknod(name, _NODE_TYPES[entry.kind] | 0o600, os.makedev(major, minor), dir_fd=parent.handle)
        self._finish_by_name(parent, name, entry, mode=entry.mode)

    def _finish_by_name(self, parent: Directory, name: bytes, entry: Entry, mode: int | None = None) -> None:
        os.chown(name, entry.uid, entry.gid, dir_fd=parent.handle, follow_symlinks=False)
        if mode is not None:
            if not parent.plain:
                drop_inherited(self._by_name(parent, name))
            # By name, though chmod follows links: this name was made just now, and opening a device does things.
            os.chmod(self._by_name(parent, name), mode)  # noqa: PTH101 - paths here are bytes
        xattrs: Xattrs = ()
        if entry.xattrs:
            xattrs = set_xattrs(self._by_name(parent, name), entry.xattrs, _where(entry), is_file=False)
        os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent.handle, follow_symlinks=False)
        self._record(parent, name, entry, xattrs)

    def _record(self, parent: Directory, name: bytes, entry: Entry, xattrs: Xattrs, checksum: int = 0) -> None:
        is_link = entry.kind is Kind.SYMLINK
        self._files.add(
            parent.path(name),
            entry.kind.value[0],
            0o777 if is_link else entry.mode,
            entry.uid,
            entry.gid,
            os.makedev(*entry.device) if entry.kind in _DEVICES else _length(entry),
            entry.mtime,
            checksum,
            entry.link if is_link else b"",
            xattrs,
        )

    def _whiteout(self, parts: PathParts) -> None:
        if any(part in whiteout.LEGACY_NAMES for part in parts):
            return
        *above, mark = parts
        if not mark.startswith(whiteout.PREFIX) or any(part.startswith(whiteout.PREFIX) for part in above):
            raise InvalidError(f"{shown(parts)} has a whiteout where a directory should be")
        if mark == whiteout.OPAQUE_NAME:
            self._tree.hide_below(self._tree.directory(tuple(above)))
            return
        name = mark[len(whiteout.PREFIX) :]
        if name in (b"", b".", b"..") or name.startswith(whiteout.PREFIX):
            raise InvalidError(f"{shown(parts)} is not a whiteout of anything")
        parent = self._tree.find(tuple(above))
        if parent is not None:
            self._tree.white_out(parent, name)

    def _by_name(self, parent: Directory, name: bytes) -> bytes:
        """A path of something just made, for the calls that Python offers no directory descriptor for."""
        if self._is_confined:
            os.fchdir(parent.handle)
            return name
        return b"/proc/self/fd/%d/%s" % (parent.handle, name)

    def _cleared(self, parent: Directory, name: bytes) -> Directory:
        """Removes what has the name already: the later entry wins. The parent, open again."""
        self._tree.remove(parent, name)
        return self._tree.directory(parent.parts)


def _parts(name: bytes) -> PathParts:
    """A path of the archive by components. Raises ``InvalidError`` for one that no path inside the layer can be."""
    if len(name) <= _MAX_NAME and b"." not in name:
        return tuple(filter(None, name.split(b"/")))
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise InvalidError(f"the path {ascii(os.fsdecode(name))} leads out of the layer")
            parts.pop()
        elif len(part) > _MAX_NAME:
            raise InvalidError(f"the path {shown((name,))} has a name of {len(part)} bytes; {_MAX_NAME} are possible")
        elif part not in (b"", b"."):
            parts.append(part)
    return tuple(parts)


def _where(entry: Entry) -> str:
    return shown(tuple(filter(None, entry.name.split(b"/"))))


def _length(entry: Entry) -> int:
    return entry.size if entry.sparse is None else entry.sparse.size


def _explained(error: OSError, entry: Entry) -> Exception:
    where = _where(entry)
    if error.errno in _BAD_NAMES:
        return InvalidError(f"cannot store {where}: {os.strerror(error.errno or 0)}")
    return durable.host_error(error, "unpack", Path(where))
