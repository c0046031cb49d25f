"""What the layers below show at a path, without mounting them."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.store import whiteout

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PathParts = tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """Something in a lower layer: where it lies on the host, and its status."""

    path: bytes
    status: os.stat_result

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.status.st_mode)


class LowerLayers:
    """A stack of unpacked layers, top first, seen as overlayfs would show it.

    Layers do not change once they are ready, so a path whose every directory was seen to be one is safe to use.
    """

    def __init__(self, layers: Sequence[Path]) -> None:
        self._layers = tuple(os.fsencode(layer) for layer in layers)

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
                with os.scandir(found.path) as entries:
                    listed = {entry.name: whiteout.is_whiteout(entry.stat(follow_symlinks=False)) for entry in entries}
                visible |= {name for name, gone in listed.items() if not gone and name not in hidden}
                hidden |= listed.keys()
            if ends:
                break
        return frozenset(visible)


def _within(layer: bytes, parts: PathParts) -> tuple[Found | None, bool]:
    """What one layer has at a path, and whether it hides whatever the layers below it have there."""
    path = layer
    ends = False
    status = os.lstat(path)
    for index in range(len(parts) + 1):
        if index:
            path += b"/" + parts[index - 1]
            try:
                status = os.lstat(path)
            except FileNotFoundError:
                return None, ends
        if not stat.S_ISDIR(status.st_mode):
            is_last = index == len(parts)
            return (Found(path, status) if is_last and not whiteout.is_whiteout(status) else None), True
        # The root of a layer cannot be opaque: overlayfs does not look for the mark there.
        ends = ends or (index > 0 and whiteout.is_opaque(path))
    return Found(path, status), ends
