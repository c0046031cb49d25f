"""What a writable layer changes over the layers below it, in one order: byte order of the names, parents first."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from reconciler.errors import ConflictError
from reconciler.linux import durable
from reconciler.store.layers import whiteout
from reconciler.store.layers.attributes import attributes
from reconciler.store.layers.merged import Merged, Shortcuts, look, names, real_path
from reconciler.store.layers.tree import shown
from reconciler.value import dataclass

if TYPE_CHECKING:
    from reconciler.store.layers.lower import PathParts

Kind = Literal["A", "C", "D"]


class Change(NamedTuple):
    """One thing that the writable layer holds. A named tuple, for a layer may have ten thousands of them.

    ``path`` is where it lies on the host. ``below`` is what the layers below have in the place of its directory.
    ``is_new``: a directory that shows nothing of what they have in its own place. ``is_opaque``: one that hides that
    by itself, not by lying in another one that does.
    """

    parts: PathParts
    path: bytes
    status: os.stat_result
    below: Merged
    is_deletion: bool = False
    is_new: bool = False
    is_opaque: bool = False


@dataclass(frozen=True, slots=True)
class ListedChange:
    """A path that was added (A), changed (C) or deleted (D), as ``docker diff`` marks it. ``path`` begins with /."""

    kind: Kind
    path: bytes


def changes(upper: Path, lowers: Sequence[Path], stubs: Collection[str] = frozenset()) -> Iterator[Change]:
    """What ``upper`` changes over ``lowers`` (top first). The directories that lead to a change come before it.

    ``stubs`` are paths in the container where the runtime made mount points: an empty file or directory there that
    the layers below do not have is left out, and so are directories that only lead to such ones. The root is among
    the changes only when its own mode, owner or extended attributes are.

    Raises ``ConflictError`` when something vanishes while it is read, ``OSError`` when something cannot be read.
    """
    below = tuple(os.fsencode(layer) for layer in lowers)
    walk = _Walk(os.fsencode(upper), below, stubs)
    try:
        yield from walk.changes()
    finally:
        walk.close()


def listed(upper: Path, lowers: Sequence[Path], stubs: Collection[str] = frozenset()) -> list[ListedChange]:
    """The same as people read it, by path: what an opaque directory hides is deleted, the root is not listed.

    Raises ``ConflictError`` and ``HostError``.
    """
    found: list[ListedChange] = []
    with durable.guarded("read", upper):
        for change in changes(upper, lowers, stubs):
            if not change.parts:
                continue
            path = b"/" + b"/".join(change.parts)
            if change.is_deletion:
                found.append(ListedChange("D", path))
                continue
            below = look(change.below, change.parts[-1])
            found.append(ListedChange("A" if below is None else "C", path))
            if change.is_new and below is not None:
                hidden = names(below.merged) - names((change.path,))
                found += [ListedChange("D", path + b"/" + name) for name in hidden]
    return sorted(found, key=lambda change: change.path)


@dataclass(slots=True)
class _Frame:
    """A directory being walked. ``waiting``: not yet told of, until something below it is or it is left.

    ``path`` and ``merged`` are the directory and what it is merged with, ``hidden`` is what else the layers below have
    in its place; ``below`` is the directory that it lies over.
    """

    change: Change
    path: bytes
    merged: Merged
    hidden: Merged
    names: Iterator[bytes]
    shortcuts: Shortcuts
    below: tuple[bytes, os.stat_result] | None
    waiting: bool = True
    has_stubs: bool = False


class _Walk:
    def __init__(self, upper: bytes, below: Merged, stubs: Collection[str]) -> None:
        root = Change((), upper, os.lstat(upper), ())
        place = (below[0], os.lstat(below[0])) if below else None
        self._stack = [_Frame(root, upper, below, (), _sorted_names(upper), Shortcuts(), place)]
        every = (upper, *below)
        self._stubs = frozenset(real_path(every, tuple(os.fsencode(path).split(b"/"))) for path in stubs)

    def close(self) -> None:
        for frame in self._stack:
            frame.shortcuts.close()

    def changes(self) -> Iterator[Change]:
        parts: PathParts = ()
        try:
            while self._stack:
                frame = self._stack[-1]
                name = next(frame.names, None)
                if name is None:
                    if frame.waiting and self._is_change_by_itself(frame):
                        yield from self._waiting()
                    self._stack.pop().shortcuts.close()
                    continue
                path, parts = frame.path + b"/" + name, (*frame.change.parts, name)
                found = Change(parts, path, os.lstat(path), frame.merged or frame.hidden)
                if stat.S_ISDIR(found.status.st_mode):
                    if self._enter(frame, found).change.is_opaque:
                        yield from self._waiting()
                elif (change := self._change(frame, found)) is not None:
                    if frame.waiting:
                        yield from self._waiting()
                    yield change
        except (FileNotFoundError, NotADirectoryError):
            raise changed(parts) from None

    def _change(self, frame: _Frame, change: Change) -> Change | None:
        """What something else than a directory comes to; None for what is no change."""
        status, name = change.status, change.parts[-1]
        if whiteout.is_whiteout(status):
            return change._replace(is_deletion=True) if look(frame.merged, name) is not None else None
        is_empty_file = not status.st_size and stat.S_ISREG(status.st_mode)
        if is_empty_file and change.parts in self._stubs and look(frame.merged, name) is None:
            frame.has_stubs = True
            return None
        return change

    def _enter(self, parent: _Frame, change: Change) -> _Frame:
        shortcuts = Shortcuts()
        try:
            path = shortcuts.shortened(change.path)
            below = look(change.below, change.parts[-1])
            place: tuple[bytes, os.stat_result] | None = None
            merged = hidden = tuple(shortcuts.shortened(directory) for directory in below.merged) if below else ()
            if below is not None and parent.merged and merged and not whiteout.is_opaque(path):
                place, hidden = (below.path, below.status), ()
            else:
                change = change._replace(is_new=bool(hidden), is_opaque=bool(parent.merged and hidden))
                merged = ()
            frame = _Frame(change, path, merged, hidden, _sorted_names(path), shortcuts, place)
        except BaseException:
            shortcuts.close()
            raise
        self._stack.append(frame)
        return frame

    def _waiting(self) -> Iterator[Change]:
        """The directories on the way down that were not told of yet. The root only if it is a change by itself."""
        for frame in self._stack:
            if frame.waiting:
                frame.waiting = False
                if frame.change.parts or self._root_changed(frame):
                    yield frame.change

    def _is_change_by_itself(self, frame: _Frame) -> bool:
        """Of a directory with nothing told of below it, whether it is a change all the same."""
        if not frame.change.parts:
            return self._root_changed(frame)
        if frame.below is None:
            if not frame.has_stubs and frame.change.parts not in self._stubs:
                return True
            self._stack[-2].has_stubs = True
            return False
        if _differ(frame, frame.below):
            return True
        return not frame.has_stubs and frame.change.status.st_mtime_ns != frame.below[1].st_mtime_ns

    @staticmethod
    def _root_changed(frame: _Frame) -> bool:
        """Its time does not count: it moves with any change."""
        if frame.below is not None:
            return _differ(frame, frame.below)
        return attributes(frame.path, frame.change.status) != (0o755, 0, 0, ())


def _differ(frame: _Frame, below: tuple[bytes, os.stat_result]) -> bool:
    return attributes(frame.path, frame.change.status, frame.change.parts) != attributes(*below)


def _sorted_names(path: bytes) -> Iterator[bytes]:
    return iter(sorted(os.listdir(path)))  # noqa: PTH208 - paths here are bytes


def changed(parts: PathParts) -> ConflictError:
    """The error for something that is no longer as it was when its reading began."""
    return ConflictError(
        f"{shown(parts)} changed during the commit", hint="stop the container, or let the commit pause it"
    )
