"""The layer directory while it is being filled: its directories, found and made by the archive's paths."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.errors import InvalidError
from reconciler.store import whiteout

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconciler.store.lower import Found, LowerLayers, PathParts

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_LINKS = 40  # as the kernel's, path_resolution(7)
_MAX_OPEN = 64


@dataclass(frozen=True, slots=True)
class Directory:
    """An open directory of the layer. ``parts`` is its real path from the layer's root, free of links."""

    handle: int
    parts: PathParts


class LayerTree:
    """Walks and makes directories below one root, component by component, never through a link.

    Links are read and resolved here, so ``/`` and ``..`` in them mean the layer's root. A component that this layer
    does not have is looked up in the layers below: a directory there is copied without its content (mode, owner,
    extended attributes, time), a link there is followed as if it were here, anything else gives way to a plain 0755
    directory of root's.
    """

    def __init__(self, root: int, below: Callable[[], LowerLayers]) -> None:
        self.root = Directory(root, ())
        self._below = below
        # Only real directories are remembered, under their real path, and any removal forgets them all: what is
        # remembered can therefore not have become a link.
        self._open: dict[PathParts, Directory] = {(): self.root}
        self._opaque: set[PathParts] = set()
        self._whiteouts: list[PathParts] = []
        self.times: dict[PathParts, int] = {}
        self._adopt(self.root, self.below(()))

    def close(self) -> None:
        """Closes what was opened here; the root's descriptor stays its owner's."""
        for directory in self._open.values():
            if directory is not self.root:
                os.close(directory.handle)
        self._open = {(): self.root}

    def below(self, parts: PathParts) -> Found | None:
        """What lower layers show at a real path, as far as this layer lets it through."""
        return None if self._is_hidden(parts) else self._below().lookup(parts)

    def directory(self, parts: PathParts) -> Directory:
        """The directory at a path, made with its parents where it is missing (an implied parent).

        Raises ``InvalidError`` when something else is in the way.
        """
        found = self._walk(parts, required=True)
        assert found is not None
        return found

    def find(self, parts: PathParts) -> Directory | None:
        """The directory at a path if this layer or one below shows one there (made here in the latter case)."""
        return self._walk(parts, required=False)

    def remove(self, parent: Directory, name: bytes) -> None:
        """Removes whatever has this name, links not followed."""
        status = os.lstat(name, dir_fd=parent.handle)
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(name, dir_fd=parent.handle)
        else:
            handle = os.open(name, _DIRECTORY, dir_fd=parent.handle)
            try:
                empty_directory(handle)
            finally:
                os.close(handle)
            os.rmdir(name, dir_fd=parent.handle)
        self.close()

    def make(self, parent: Directory, name: bytes, *, opaque: bool = False) -> Directory:
        """Makes one directory with mode 0700, for the caller to give its attributes."""
        os.mkdir(name, 0o700, dir_fd=parent.handle)
        directory = self._remember(parent, name, os.open(name, _DIRECTORY, dir_fd=parent.handle))
        if opaque:
            self.hide_below(directory)
        return directory

    def hide_below(self, directory: Directory) -> None:
        """Makes a directory opaque: of what it shows, only this layer's part stays."""
        # overlayfs does not look for the mark on the root of a layer: finish() does that one name by name.
        if directory.parts:
            os.setxattr(directory.handle, whiteout.OPAQUE_XATTR, whiteout.OPAQUE_VALUE)
        self._opaque.add(directory.parts)

    def white_out(self, parent: Directory, name: bytes) -> None:
        """Hides one name of the layers below. The name must be free in this layer."""
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=parent.handle)
        self._whiteouts.append((*parent.parts, name))

    def finish(self) -> None:
        """To be called once, after the last entry."""
        if () in self._opaque:
            self._hide_below_root()
        # A whiteout in a directory that is not merged with one below shows up as a name that cannot be stat'ed.
        for parts in self._whiteouts:
            if self._is_hidden(parts) and (found := self._existing(parts)) is not None:
                parent, status = found
                if whiteout.is_whiteout(status):
                    os.unlink(parts[-1], dir_fd=parent.handle)
        # Times come last, for all this moved them. A later entry may have replaced a directory, or one above it.
        for parts, mtime in sorted(self.times.items()):
            if not parts:
                os.utime(self.root.handle, ns=(mtime, mtime))
            elif (found := self._existing(parts)) is not None and stat.S_ISDIR(found[1].st_mode):
                os.utime(parts[-1], ns=(mtime, mtime), dir_fd=found[0].handle, follow_symlinks=False)

    def _existing(self, parts: PathParts) -> tuple[Directory, os.stat_result] | None:
        """What this layer has at a real path, with its directory."""
        parent = self.find(parts[:-1])
        if parent is None or parent.parts != parts[:-1]:
            return None
        status = status_of(parent, parts[-1])
        return None if status is None else (parent, status)

    def _hide_below_root(self) -> None:
        for name in sorted(self._below().names(())):
            status = status_of(self.root, name)
            if status is None:
                os.mknod(name, stat.S_IFCHR, 0, dir_fd=self.root.handle)
            elif stat.S_ISDIR(status.st_mode):
                self.hide_below(self.directory((name,)))

    def _is_hidden(self, parts: PathParts) -> bool:
        return bool(self._opaque) and any(parts[:end] in self._opaque for end in range(len(parts)))

    def _walk(self, parts: PathParts, *, required: bool) -> Directory | None:
        known = len(parts)
        while parts[:known] not in self._open:
            known -= 1
        current = self._open[parts[:known]]
        pending = deque(parts[known:])
        links = 0
        while pending:
            name = pending.popleft()
            if name in (b"", b"."):
                continue
            if name == b"..":
                # The real path of the parent has no links: this walks straight down, once.
                current = self.directory(current.parts[:-1])
                continue
            step = self._step(current, name, required=required)
            if step is None:
                return None
            if isinstance(step, Directory):
                current = step
                continue
            links += 1
            if links > _MAX_LINKS:
                raise InvalidError(f"too many symbolic links on the way to {shown(parts)}")
            pending.extendleft(reversed(step.split(b"/")))
            if step.startswith(b"/"):
                current = self.root
        return current

    def _step(self, parent: Directory, name: bytes, *, required: bool) -> Directory | bytes | None:
        """One component down: a directory, or the target of the link found there, or None (only if not required)."""
        parts = (*parent.parts, name)
        if (known := self._open.get(parts)) is not None:
            return known
        try:
            return self._remember(parent, name, os.open(name, _DIRECTORY, dir_fd=parent.handle))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return self._implied(parent, name, required=required)
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
        status = os.lstat(name, dir_fd=parent.handle)
        if stat.S_ISLNK(status.st_mode):
            return os.readlink(name, dir_fd=parent.handle)
        if not required:
            return None
        if not whiteout.is_whiteout(status):
            raise InvalidError(f"{shown(parts)} is in the way: it is not a directory")
        self.remove(parent, name)
        made = self.make(self.directory(parent.parts), name, opaque=True)
        self._adopt(made, None)
        return made

    def _implied(self, parent: Directory, name: bytes, *, required: bool) -> Directory | bytes | None:
        below = self.below((*parent.parts, name))
        if below is not None and below.is_symlink:
            return os.readlink(below.path)  # noqa: PTH115 - paths here are bytes
        if not required and (below is None or not below.is_directory):
            return None
        made = self.make(parent, name)
        self._adopt(made, below if below is not None and below.is_directory else None)
        return made

    def _adopt(self, directory: Directory, below: Found | None) -> None:
        """Gives an implied directory the attributes that it has below, or neutral ones."""
        if below is None:
            os.fchown(directory.handle, 0, 0)
            os.fchmod(directory.handle, 0o755)
            self.times[directory.parts] = 0
            return
        os.fchown(directory.handle, below.status.st_uid, below.status.st_gid)
        os.fchmod(directory.handle, stat.S_IMODE(below.status.st_mode))
        for key in os.listxattr(below.path):
            if not key.startswith(whiteout.OVERLAY_XATTRS):
                os.setxattr(directory.handle, key, os.getxattr(below.path, key))
        self.times[directory.parts] = below.status.st_mtime_ns

    def _remember(self, parent: Directory, name: bytes, handle: int) -> Directory:
        if len(self._open) >= _MAX_OPEN:
            self.close()
        directory = Directory(handle, (*parent.parts, name))
        self._open[directory.parts] = directory
        return directory


def status_of(parent: Directory, name: bytes) -> os.stat_result | None:
    """The status of a name in a directory, not following a link; None when there is none."""
    try:
        return os.lstat(name, dir_fd=parent.handle)
    except FileNotFoundError:
        return None


def shown(parts: PathParts) -> str:
    """A path of the archive for a message: printable whatever its bytes."""
    text = ascii(os.fsdecode(b"/" + b"/".join(parts)))[1:-1]
    return text if len(text) <= 200 else text[:200] + "..."


def empty_directory(directory: int) -> None:
    """Removes everything inside a directory. Raises ``OSError``; ``EBUSY`` stands for a mount.

    Subdirectories are first moved up into ``directory`` itself and emptied there, so that no depth of nesting costs
    descriptors, stack or path length.
    """
    names = (f".removing-{number}".encode() for number in itertools.count())
    doomed: list[bytes] = []

    def clear(handle: int) -> None:
        for entry in _entries(handle):
            name, is_directory = entry
            if not is_directory:
                os.unlink(name, dir_fd=handle)
                continue
            target = next(names)
            while _exists(target, directory):
                target = next(names)
            os.rename(name, target, src_dir_fd=handle, dst_dir_fd=directory)
            doomed.append(target)

    clear(directory)
    while doomed:
        name = doomed.pop()
        child = os.open(name, _DIRECTORY, dir_fd=directory)
        try:
            clear(child)
        finally:
            os.close(child)
        os.rmdir(name, dir_fd=directory)


def _entries(directory: int) -> list[tuple[bytes, bool]]:
    # scandir on a descriptor gives text; surrogateescape brings every name back to its bytes.
    with os.scandir(directory) as entries:
        return [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]


def _exists(name: bytes, directory: int) -> bool:
    try:
        os.lstat(name, dir_fd=directory)
    except FileNotFoundError:
        return False
    return True
