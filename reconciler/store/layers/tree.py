"""The layer directory while it is being filled: its directories, found and made by the archive's paths."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from reconciler.errors import InvalidError
from reconciler.store.archive.limits import DEFAULTS, Limits
from reconciler.store.emptying import empty_directory, entries
from reconciler.store.layers import whiteout
from reconciler.store.layers.file_list import RecordedKind
from reconciler.store.layers.xattrs import set_xattrs
from reconciler.value import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconciler.store.layers.file_list import FileListWriter
    from reconciler.store.layers.lower import Found, LowerLayers, PathParts
    from reconciler.store.layers.xattrs import Xattrs

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_LINKS = 40  # as the kernel's, path_resolution(7)
_MAX_OPEN = 64
# On a directory that only whiteouts needed so far. Of overlayfs's namespace, so no archive can set it.
_BORROWED = "trusted.overlay.borrowed"
_LABEL = "security.selinux"  # every file has one where there is SELinux, and it cannot be removed
_KIND_DIRECTORY = RecordedKind.DIRECTORY.value
_KIND_WHITEOUT = RecordedKind.WHITEOUT.value
_KIND_OPAQUE = RecordedKind.OPAQUE.value
_KIND_REMOVED = RecordedKind.REMOVED.value


class Attributes(NamedTuple):
    """Of a directory. ``mode`` holds permission bits only; ``mtime`` is in nanoseconds since the epoch."""

    mode: int
    uid: int
    gid: int
    mtime: int
    xattrs: Xattrs = ()


_NEUTRAL = Attributes(0o755, 0, 0, 0)


@dataclass(eq=False, slots=True)
class Directory:
    """An open directory of the layer. ``parts`` is its real path from the layer's root, free of links.

    ``hides``: nothing of the layers below shows in it. ``plain``: what is made in it gets the mode and owner that its
    maker asks for, since it has no set-group-id bit and no default access list. ``borrowed``: it is here only to hold
    whiteouts, and goes when what it was copied from is hidden.
    """

    handle: int
    parts: PathParts
    hides: bool = False
    plain: bool = False
    borrowed: bool = False

    def path(self, *names: bytes) -> bytes:
        """The path of it, or of something in it, from the layer's root."""
        return b"/".join((*self.parts, *names))


class LayerTree:
    """Walks and makes directories below one root, component by component, never through a link.

    Links are read and resolved here, so ``/`` and ``..`` in them mean the layer's root. A component that this layer
    does not have is looked up in the layers below: a directory there is copied without its content (mode, owner,
    extended attributes, time), a link there is followed as if it were here, anything else gives way to a plain 0755
    directory of root's.

    Directories and whiteouts are recorded in ``files`` as they are made, and read from there again in the end, so that
    nothing here grows with their number.
    """

    def __init__(
        self, root: int, below: Callable[[], LowerLayers], files: FileListWriter, limits: Limits = DEFAULTS
    ) -> None:
        self.root = Directory(root, ())
        self._below = below
        self._files = files
        self._limits = limits
        # Only real directories are remembered, under their real path, and any removal forgets them all: what is
        # remembered can therefore not have become a link.
        self._open: dict[PathParts, Directory] = {(): self.root}
        self._root_is_set = False
        self._has_whiteouts = self._has_borrowed = False

    def close(self) -> None:
        """Closes what was opened here; the root's descriptor stays its owner's."""
        for directory in self._open.values():
            if directory is not self.root:
                os.close(directory.handle)
        self._open = {(): self.root}

    def directory(self, parts: PathParts) -> Directory:
        """The directory at a path, made with its parents where it is missing (an implied parent).

        Raises ``InvalidError`` when something else is in the way.
        """
        if (known := self._open.get(parts)) is not None and not known.borrowed:
            return known
        found = self._walk(parts, required=True)
        assert found is not None
        return found

    def find(self, parts: PathParts) -> Directory | None:
        """The directory at a path if this layer or one below shows one there (borrowed in the latter case)."""
        return self._walk(parts, required=False)

    def remove(self, parent: Directory, name: bytes) -> None:
        """Removes whatever has this name, links not followed. Closes what was opened."""
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
        """Makes one directory, for the caller to give its attributes with ``set_attributes``."""
        if len(parent.parts) > self._limits.path_depth:  # links can lead deeper than any one path
            raise self._limits.exceeded("path_depth", f"the layer has {len(parent.parts)} directories in one another")
        os.mkdir(name, 0o700, dir_fd=parent.handle)
        handle = os.open(name, _DIRECTORY, dir_fd=parent.handle)
        if opaque:
            os.setxattr(handle, whiteout.OPAQUE_XATTR, whiteout.OPAQUE_VALUE)
        return self._remember(parent, name, handle)

    def set_attributes(self, directory: Directory, wanted: Attributes) -> None:
        """Gives a directory these attributes and no others. Its time comes last of all, in ``finish``."""
        handle = directory.handle
        opaque = False
        for key in os.listxattr(handle):
            if not key.startswith(whiteout.OVERLAY_XATTRS) and key != _LABEL:
                os.removexattr(handle, key)
            opaque = opaque or key == whiteout.OPAQUE_XATTR
        os.fchown(handle, wanted.uid, wanted.gid)
        os.fchmod(handle, wanted.mode)
        kept = set_xattrs(handle, wanted.xattrs, shown(directory.parts), is_file=False) if wanted.xattrs else ()
        directory.plain = not kept and not wanted.mode & stat.S_ISGID
        path = directory.path()
        self._files.add(path, _KIND_DIRECTORY, wanted.mode, wanted.uid, wanted.gid, 0, wanted.mtime, xattrs=kept)
        if opaque:
            self._files.add(path, _KIND_OPAQUE)
        self._root_is_set = self._root_is_set or not path

    def hide_below(self, directory: Directory) -> None:
        """Makes a directory opaque: of what it shows, only this layer's part stays. Closes what was opened."""
        if self._has_borrowed:
            self._give_back(directory.parts)
            directory = self.directory(directory.parts)
        # overlayfs does not look for the mark on the root of a layer: finish() does that one name by name.
        if directory.parts:
            os.setxattr(directory.handle, whiteout.OPAQUE_XATTR, whiteout.OPAQUE_VALUE)
            self._files.add(directory.path(), _KIND_OPAQUE)
        else:
            self.root.hides = True
        self.close()

    def white_out(self, parent: Directory, name: bytes) -> None:
        """Hides one name of the layers below, if they show it: what this layer has itself stays (layer.md)."""
        status = status_of(parent, name)
        if status is not None:
            own = self._existing((*parent.parts, name)) if stat.S_ISDIR(status.st_mode) else None
            if own is None:
                return
            if not own.borrowed:
                self.hide_below(own)
                return
            parent = self._remove_borrowed(parent.parts, name)
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=parent.handle)
        self._files.add(parent.path(name), _KIND_WHITEOUT)
        self._has_whiteouts = True

    def finish(self) -> None:
        """To be called once, after the last entry; asks for the layers below where that was put off."""
        if not self._root_is_set:
            self._adopt(self.root, self._below().lookup(()))
        if self.root.hides:
            self._hide_below_root()
        if self._has_whiteouts:
            self._remove_needless_whiteouts()
        # Times come last, for all this moved them. A later entry may have replaced a directory, or one above it.
        for entry in self._files.replay((_KIND_DIRECTORY,)):
            *above, name = entry.path.split(b"/")
            if not name:
                os.utime(self.root.handle, ns=(entry.mtime, entry.mtime))
            elif (parent := self._existing(tuple(above))) is not None:
                status = status_of(parent, name)
                if status is not None and stat.S_ISDIR(status.st_mode):
                    if self._has_borrowed:
                        self._own(self._existing((*above, name)))
                        parent = self._existing(tuple(above)) or parent
                    os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent.handle, follow_symlinks=False)

    def _remove_needless_whiteouts(self) -> None:
        """A whiteout of nothing can show up as a name that cannot be stat'ed, when its directory is not merged."""
        lower = self._below()
        for entry in self._files.replay((_KIND_WHITEOUT,)):
            *above, name = entry.path.split(b"/")
            parent = self._existing(tuple(above))
            status = None if parent is None else status_of(parent, name)
            if parent is None or status is None or not whiteout.is_whiteout(status):
                continue
            if (parent.hides and parent.parts) or lower.lookup((*above, name)) is None:
                os.unlink(name, dir_fd=parent.handle)
                self._files.add(entry.path, _KIND_REMOVED)

    def _hide_below_root(self) -> None:
        for name in sorted(self._below().names(())):
            self.white_out(self.root, name)

    def _give_back(self, parts: PathParts) -> None:
        """Removes what is only borrowed from a directory that is about to hide what it was borrowed from."""
        pending = [parts]
        while pending:
            place = pending.pop()
            directory = self._existing(place)
            assert directory is not None
            for name, is_directory in entries(directory.handle):
                inner = self._existing((*place, name)) if is_directory else None
                if inner is not None and inner.borrowed:
                    self._remove_borrowed(place, name)
                elif inner is not None:
                    pending.append(inner.parts)

    def _remove_borrowed(self, parts: PathParts, name: bytes) -> Directory:
        """Removes a borrowed directory; the one that it was in, open again."""
        parent = self._existing(parts)
        assert parent is not None
        self._files.add(parent.path(name), _KIND_REMOVED)
        self.remove(parent, name)
        parent = self._existing(parts)
        assert parent is not None
        return parent

    def _own(self, directory: Directory | None) -> None:
        """Makes a borrowed directory the layer's own."""
        if directory is not None and directory.borrowed:
            os.removexattr(directory.handle, _BORROWED)
            directory.borrowed = False

    def _existing(self, parts: PathParts) -> Directory | None:
        """The directory at a real path, if this layer has one there: nothing is made and no link followed."""
        current = self.root
        for end in range(1, len(parts) + 1):
            known = self._open.get(parts[:end])
            if known is None:
                try:
                    handle = os.open(parts[end - 1], _DIRECTORY, dir_fd=current.handle)
                except OSError as error:
                    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                        return None
                    raise
                known = self._remember(current, parts[end - 1], handle)
            current = known
        return current

    def _walk(self, parts: PathParts, *, required: bool) -> Directory | None:
        known = len(parts)
        while parts[:known] not in self._open:
            known -= 1
        if required and self._open[parts[:known]].borrowed:
            known = 0
        current = self._open[parts[:known]]
        pending = deque(parts[known:])
        links = 0
        while pending:
            name = pending.popleft()
            if name in (b"", b"."):
                continue
            if name == b"..":
                # The real path of the parent has no links: this walks straight down, once.
                current = self._existing(current.parts[:-1]) or self.root
                continue
            step = self._step(current, name, required=required)
            if step is None:
                return None
            if isinstance(step, Directory):
                current = step
                if required:
                    self._own(current)
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
        below = None if parent.hides else self._below().lookup((*parent.parts, name))
        if below is not None and below.is_symlink:
            return below.target()
        if not required and (below is None or not below.is_directory):
            return None
        made = self.make(parent, name)
        self._adopt(made, below if below is not None and below.is_directory else None)
        if not required:
            os.setxattr(made.handle, _BORROWED, b"")
            made.borrowed = self._has_borrowed = True
        return made

    def _adopt(self, directory: Directory, below: Found | None) -> None:
        """Gives an implied directory the attributes that it has below, or neutral ones."""
        wanted = _NEUTRAL
        if below is not None:
            status = below.status
            mode = stat.S_IMODE(status.st_mode)
            wanted = Attributes(mode, status.st_uid, status.st_gid, status.st_mtime_ns, below.xattrs())
        self.set_attributes(directory, wanted)

    def _remember(self, parent: Directory, name: bytes, handle: int) -> Directory:
        """Takes over the descriptor of a directory found in ``parent``. May close all that was opened before."""
        keys = os.listxattr(handle)
        hides = parent.hides or (whiteout.OPAQUE_XATTR in keys and whiteout.is_opaque(handle))
        plain = not keys and not os.fstat(handle).st_mode & stat.S_ISGID
        if len(self._open) >= _MAX_OPEN:
            self.close()
        directory = Directory(handle, (*parent.parts, name), hides, plain, _BORROWED in keys)
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
