"""An unpacked layer against the list of what was unpacked: what is missing, extra or changed, by path.

Overlayfs never writes to a lower layer, so any difference is damage: a failing disk, or somebody's hand.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import field
from typing import TYPE_CHECKING

from reconciler.errors import NotFoundError, ReconcilerError
from reconciler.store.check.damage import MAX_DETAILS, NO_LIST
from reconciler.store.layers import whiteout
from reconciler.store.layers.file_list import Listed, Recorded, RecordedKind, file_checksum, listing, read_file_list
from reconciler.value import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from reconciler.oci.digest import Digest

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_BUFFER = 1 << 20
_SPAN = 3000
"""Bytes of a path that are resolved at once: the kernel takes 4095, and archives have longer ones."""
_HOSTS_OWN = (whiteout.OPAQUE_XATTR, "security.selinux", "security.ima", "security.evm")
"""Attributes that are compared by themselves, or that the host gives to every file."""
_KINDS = {
    stat.S_IFREG: RecordedKind.FILE,
    stat.S_IFLNK: RecordedKind.SYMLINK,
    stat.S_IFCHR: RecordedKind.CHARACTER,
    stat.S_IFBLK: RecordedKind.BLOCK_DEVICE,
    stat.S_IFDIR: RecordedKind.DIRECTORY,
    stat.S_IFIFO: RecordedKind.FIFO,
}


@dataclass(slots=True)
class Difference:
    """How a layer differs from its list. ``lines`` are the first ``MAX_DETAILS``, each ``path: what``; ``entries``
    counts what was compared.

    ``code`` is changed-files; no-list (there is none: nothing can be said), bad-list or unreadable.
    """

    code: str = "changed-files"
    reason: str = ""
    entries: int = 0
    missing: int = 0
    extra: int = 0
    changed: int = 0
    lines: list[str] = field(default_factory=list)

    @property
    def is_none(self) -> bool:
        return self.code == "changed-files" and not (self.missing or self.extra or self.changed)

    @property
    def text(self) -> str:
        """The end of a sentence that begins with the layer."""
        if self.reason:
            return self.reason
        parts = ((self.missing, "missing"), (self.extra, "extra"), (self.changed, "changed"))
        return "differs from what was unpacked: " + ", ".join(f"{count} {what}" for count, what in parts if count)

    def add(self, path: bytes, what: str) -> None:
        if len(self.lines) < MAX_DETAILS:
            self.lines.append(f"{ascii(os.fsdecode(path))[1:-1] or '.'}: {what}")


def compare_layers(layers: Iterable[tuple[Digest, Path, Path]], threads: int | None = None) -> dict[Digest, Difference]:
    """How each layer compares: given as its chain ID, its directory and the list of its files.

    Never raises for what is on disk.
    """
    with ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="compare") as pool:
        return dict(pool.map(lambda layer: (layer[0], compare(layer[1], layer[2])), layers))


def compare(directory: Path, files: Path) -> Difference:
    """How the layer in ``directory`` differs from its list ``files``."""
    try:
        if os.path.lexists(files) and not stat.S_ISREG(files.lstat().st_mode):  # opening a FIFO would wait for ever
            return Difference("bad-list", "the list of its files is no file")
        listed = listing(read_file_list(files))
    except NotFoundError:
        return Difference(NO_LIST, "has no list of its files: it was unpacked by an earlier version")
    except (ReconcilerError, ValueError, EOFError, OSError) as error:
        return Difference("bad-list", f"the list of its files cannot be read: {error}")
    try:
        root = os.open(directory, _DIRECTORY)
    except OSError as error:
        return Difference("unreadable", f"its directory cannot be opened: {error.strerror}")
    try:
        return _Comparison(root, listed).run()
    finally:
        os.close(root)


class _Comparison:
    def __init__(self, root: int, listed: dict[bytes, Listed]) -> None:
        self._root = root
        self._device = os.fstat(root).st_dev
        self._listed = listed
        self._difference = Difference()
        self._checksum = file_checksum()
        self._buffer = bytearray(_BUFFER)
        self._names: dict[int, int] = defaultdict(int)
        for item in listed.values():
            self._names[item.inode] += 1
        self._inodes: dict[int, int] = {}

    def run(self) -> Difference:
        seen = {b""}
        self._compare(b"", self._root, b".")
        pending = [b""]
        while pending:
            path = pending.pop()
            try:
                handle = self._open(path)
            except OSError as error:
                self._changed(path, f"cannot be opened: {error.strerror}")
                seen.update(self._below(path))
                continue
            try:
                for name in _names(handle):
                    full = path + b"/" + name if path else name
                    seen.add(full)
                    if self._compare(full, handle, name):
                        pending.append(full)
            except OSError as error:
                self._changed(path, f"cannot be read: {error.strerror}")
                seen.update(self._below(path))
            finally:
                os.close(handle)
        for path in self._listed.keys() - seen:
            self._difference.missing += 1
            self._difference.add(path, "missing")
        self._difference.lines.sort()
        return self._difference

    def _compare(self, path: bytes, parent: int, name: bytes) -> bool:
        """Compares one entry; True for a directory to look into."""
        self._difference.entries += 1
        try:
            status = os.lstat(name, dir_fd=parent)
        except OSError as error:
            self._changed(path, f"cannot be looked at: {error.strerror}")
            return False
        listed = self._listed.get(path)
        if listed is None:
            self._difference.extra += 1
            self._difference.add(path, "extra")
            return False  # what is in an extra directory is extra too: one line says it
        if status.st_dev != self._device:
            self._changed(path, "something is mounted there")
            return False
        try:
            found = list(self._differences(listed, status, parent, name))
        except OSError as error:
            found = [f"cannot be read: {error.strerror}"]
        if found:
            self._changed(path, "; ".join(found))
        return stat.S_ISDIR(status.st_mode) and listed.recorded.kind is RecordedKind.DIRECTORY

    def _differences(self, listed: Listed, status: os.stat_result, parent: int, name: bytes) -> Iterator[str]:
        wanted = listed.recorded
        kind = RecordedKind.WHITEOUT if whiteout.is_whiteout(status) else _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is not wanted.kind:
            yield f"is {_called(kind)}, not {_called(wanted.kind)}"
            return
        if kind is not RecordedKind.DIRECTORY:
            yield from self._links(listed, status)
        if kind is RecordedKind.WHITEOUT:
            return
        yield from _attributes(wanted, status)
        if kind is RecordedKind.SYMLINK:
            if os.readlink(name, dir_fd=parent) != wanted.link:
                yield "the target of the link"
        elif kind is RecordedKind.FILE and status.st_size == wanted.size and self._crc(name, parent) != wanted.checksum:
            yield "content"
        yield from self._xattrs(listed, b"/proc/self/fd/%d/%s" % (parent, name))

    def _links(self, listed: Listed, status: os.stat_result) -> Iterator[str]:
        """Names of one file must be so on disk, and nobody else may have another."""
        if self._inodes.setdefault(listed.inode, status.st_ino) != status.st_ino:
            yield "is no longer the same file as its other names"
        elif status.st_nlink != self._names[listed.inode]:
            yield f"{status.st_nlink} hard links, not {self._names[listed.inode]}"

    def _crc(self, name: bytes, parent: int) -> int:
        handle = os.open(name, _FILE, dir_fd=parent)
        try:
            checksum = 0
            view = memoryview(self._buffer)
            while size := os.readv(handle, [self._buffer]):
                checksum = self._checksum(view[:size], checksum)
            return checksum
        finally:
            os.close(handle)

    def _xattrs(self, listed: Listed, path: bytes) -> Iterator[str]:
        wanted = dict(listed.recorded.xattrs)
        names = os.listxattr(path, follow_symlinks=False)
        opaque = whiteout.OPAQUE_XATTR in names
        if opaque != listed.opaque:
            yield "hides what is below" if opaque else "no longer hides what is below"
        names = [key for key in names if key not in _HOSTS_OWN]
        found = {os.fsencode(key): os.getxattr(path, key, follow_symlinks=False) for key in names}
        for key in sorted(wanted.keys() | found.keys()):
            if wanted.get(key) != found.get(key):
                yield f"extended attribute {ascii(os.fsdecode(key))[1:-1]}"

    def _open(self, path: bytes) -> int:
        handle = os.open(b".", _DIRECTORY, dir_fd=self._root)
        while path:
            cut = len(path) if len(path) <= _SPAN else path.rindex(b"/", 0, _SPAN)
            step, path = path[:cut], path[cut + 1 :]
            try:
                below = os.open(step, _DIRECTORY, dir_fd=handle)
            finally:
                os.close(handle)
            handle = below
        return handle

    def _below(self, path: bytes) -> Iterator[bytes]:
        return (other for other in self._listed if other.startswith(path + b"/") or not path)

    def _changed(self, path: bytes, what: str) -> None:
        self._difference.changed += 1
        self._difference.add(path, what)


def _attributes(wanted: Recorded, status: os.stat_result) -> Iterator[str]:
    mode = stat.S_IMODE(status.st_mode)
    if mode != wanted.mode and wanted.kind is not RecordedKind.SYMLINK:  # a link's own mode means nothing
        yield f"mode {mode:04o}, not {wanted.mode:04o}"
    if (status.st_uid, status.st_gid) != (wanted.uid, wanted.gid):
        yield f"owner {status.st_uid}:{status.st_gid}, not {wanted.uid}:{wanted.gid}"
    if wanted.kind is RecordedKind.FILE and status.st_size != wanted.size:
        yield f"size {status.st_size}, not {wanted.size}"
    if status.st_mtime_ns != wanted.mtime:
        yield "modification time"
    if wanted.kind in (RecordedKind.CHARACTER, RecordedKind.BLOCK_DEVICE) and status.st_rdev != wanted.device:
        yield f"device {os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


def _names(handle: int) -> list[bytes]:
    with os.scandir(handle) as entries:
        return [os.fsencode(entry.name) for entry in entries]


def _called(kind: RecordedKind | None) -> str:
    return "a socket" if kind is None else f"a {kind.name.lower().replace('_', ' ')}"
