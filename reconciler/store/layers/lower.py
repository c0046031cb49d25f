"""What the layers below show at a path, without mounting them."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from reconciler.store.layers import whiteout
from reconciler.value import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

PathParts = tuple[bytes, ...]

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Found:
    """Something in a lower layer: where it lies, and its status. ``path`` is relative to the descriptor ``layer``, if
    the layer was given as one."""

    path: bytes
    status: os.stat_result
    layer: int | None = None

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.status.st_mode)

    def target(self) -> bytes:
        """What a symbolic link says."""
        return os.readlink(self.path, dir_fd=self.layer)

    def xattrs(self) -> tuple[tuple[bytes, bytes], ...]:
        """The extended attributes of a directory, without overlayfs's own."""
        handle = os.open(self.path, _OPEN | os.O_DIRECTORY, dir_fd=self.layer)
        try:
            keys = [key for key in os.listxattr(handle) if not key.startswith(whiteout.OVERLAY_XATTRS)]
            return tuple((os.fsencode(key), os.getxattr(handle, key)) for key in keys)
        finally:
            os.close(handle)


class LowerLayers:
    """A stack of unpacked layers, top first, seen as overlayfs would show it.

    A layer is a path, or the descriptor of its directory, which stays its owner's. They are gone through again for
    each question, as far as it takes. Layers do not change once they are ready, so a path whose every directory was
    seen to be one is safe to use.
    """

    def __init__(self, layers: Iterable[Path | int]) -> None:
        self._layers = layers

    def lookup(self, parts: PathParts) -> Found | None:
        """What is visible at a path that has no links on its way; None when nothing is."""
        for layer in self._layers:
            found, ends = _within(layer, parts)
            if found is not None or ends:
                return found
        return None

    def names(self, parts: PathParts) -> frozenset[bytes]:
        """The names visible in a directory; empty when there is no directory."""
        visible: set[bytes] = set()
        hidden: set[bytes] = set()
        for layer in self._layers:
            found, ends = _within(layer, parts)
            if found is not None:
                if not found.is_directory:
                    break
                listed = _listed(found)
                visible |= {name for name, gone in listed.items() if not gone and name not in hidden}
                hidden |= listed.keys()
            if ends:
                break
        return frozenset(visible)


def _listed(directory: Found) -> dict[bytes, bool]:
    """The names in one directory of one layer, and whether each is a whiteout."""
    handle = os.open(directory.path, _OPEN | os.O_DIRECTORY, dir_fd=directory.layer)
    try:
        with os.scandir(handle) as entries:
            return {
                os.fsencode(entry.name): whiteout.is_whiteout(entry.stat(follow_symlinks=False)) for entry in entries
            }
    finally:
        os.close(handle)


def _within(layer: int | Path, parts: PathParts) -> tuple[Found | None, bool]:
    """What one layer has at a path, and whether it hides whatever the layers below it have there."""
    handle, path = (layer, b".") if isinstance(layer, int) else (None, os.fsencode(layer))
    ends = False
    status = os.lstat(path, dir_fd=handle)
    for index in range(len(parts) + 1):
        if index:
            path += b"/" + parts[index - 1]
            try:
                status = os.lstat(path, dir_fd=handle)
            except FileNotFoundError:
                return None, ends
        if not stat.S_ISDIR(status.st_mode):
            is_last = index == len(parts)
            return (Found(path, status, handle) if is_last and not whiteout.is_whiteout(status) else None), True
        # The root of a layer cannot be opaque: overlayfs does not look for the mark there.
        ends = ends or (index > 0 and _is_opaque(handle, path))
    return Found(path, status, handle), ends


def _is_opaque(layer: int | None, path: bytes) -> bool:
    if layer is None:
        return whiteout.is_opaque(path)
    directory = os.open(path, _OPEN | os.O_DIRECTORY, dir_fd=layer)
    try:
        return whiteout.is_opaque(directory)
    finally:
        os.close(directory)
