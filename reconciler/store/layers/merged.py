"""Directories as overlayfs would merge them, one level at a time, without mounting anything.

A merged directory is the tuple of the directories that make it up, top first: empty when nothing is there. Two merged
directories that are equal show the same.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from reconciler.store.layers import whiteout

if TYPE_CHECKING:
    from reconciler.store.layers.lower import PathParts

Merged = tuple[bytes, ...]

_MAX_LINKS = 40  # as the kernel's, path_resolution(7)
# The kernel takes paths of 4095 bytes, and a name may have 255.
_LONG = 3000


class Seen(NamedTuple):
    """What a name shows: the topmost one's path and status; and of a directory, what it is merged of."""

    path: bytes
    status: os.stat_result
    merged: Merged


def look(merged: Merged, name: bytes) -> Seen | None:
    """What ``name`` shows in a merged directory; None when nothing, or it is deleted. Raises ``OSError``."""
    top: tuple[bytes, os.stat_result] | None = None
    below: list[bytes] = []
    for directory in merged:
        path = directory + b"/" + name
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(status.st_mode):
            if top is None and not whiteout.is_whiteout(status):
                return Seen(path, status, ())
            break
        top = top or (path, status)
        below.append(path)
        if whiteout.is_opaque(path):
            break
    return Seen(*top, tuple(below)) if top else None


def names(merged: Merged) -> set[bytes]:
    """Every name that a merged directory shows."""
    shown: set[bytes] = set()
    decided: set[bytes] = set()
    for directory in merged:
        listed = set(os.listdir(directory)) - decided  # noqa: PTH208 - paths here are bytes
        shown |= {name for name in listed if not whiteout.is_whiteout(os.lstat(directory + b"/" + name))}
        decided |= listed
    return shown


def real_path(merged: Merged, parts: PathParts) -> PathParts:
    """Where a path leads, its links followed as in a root of its own. What is not there stays as it is, and so does
    the whole path when its links go round in a circle.
    """
    trail: list[tuple[bytes, Merged]] = []
    pending = deque(parts)
    links = 0
    while pending:
        name = pending.popleft()
        if name in (b"", b"."):
            continue
        if name == b"..":
            del trail[-1:]
            continue
        seen = look(trail[-1][1] if trail else merged, name)
        if seen is not None and stat.S_ISLNK(seen.status.st_mode):
            links += 1
            if links > _MAX_LINKS:
                return parts
            target = os.readlink(seen.path)  # noqa: PTH115 - paths here are bytes
            if target.startswith(b"/"):
                trail.clear()
            pending.extendleft(reversed(target.split(b"/")))
            continue
        trail.append((name, seen.merged if seen else ()))
    return tuple(name for name, _ in trail)


class Shortcuts:
    """Keeps paths within what the kernel takes, whatever the depth: a long one goes on from an open directory.

    Equal paths stay equal. ``close`` ends the use of all that were given.
    """

    def __init__(self) -> None:
        self._handles: dict[bytes, int] = {}

    def shortened(self, directory: bytes) -> bytes:
        """The same directory, by a path that has room for one more name."""
        if len(directory) < _LONG:
            return directory
        if directory not in self._handles:
            self._handles[directory] = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        return b"/proc/self/fd/%d" % self._handles[directory]

    def close(self) -> None:
        while self._handles:
            os.close(self._handles.popitem()[1])
