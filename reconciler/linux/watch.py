"""Announcing changes on disk, so that tests can watch, fail or kill at each of them.

Every change that a crash may cut off has the name of its call site (``point``) and a kind: ``blob:fsync``. It is
announced before and after it happens, and those that happen bit by bit (a write, the removal of a tree) in the middle
as well. While nobody watches, an announcement costs one look at a variable.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Literal

from reconciler.value import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path
    from types import TracebackType

    Observer = Callable[["Phase", "Operation"], None]

Phase = Literal["before", "middle", "after"]
Kind = Literal[
    "create", "write", "truncate", "fsync", "fsync-directory", "syncfs", "rename", "link", "unlink", "mkdir", "rmdir",
    "remove-tree", "entry", "mount", "unmount", "commit", "migrate", "checkpoint",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Operation:
    """One change: ``kind`` of ``path``; ``target`` of a rename or a link; ``data`` of a write, and where it begins."""

    point: str
    kind: Kind
    path: Path
    target: Path | None = None
    data: bytes | memoryview = b""
    offset: int = 0

    @property
    def name(self) -> str:
        """``<point>:<kind>``, as one names a place to fail at."""
        return f"{self.point}:{self.kind}"


class _Watch:
    observer: Observer | None = None


@contextlib.contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Calls ``observer(phase, operation)`` at every announcement, in all threads, until the block ends. For tests.

    A forked child goes on announcing to its copy. An ``OSError`` that the observer raises is handled as if the
    operation itself had failed; raised ``after``, as one that failed though it was done.
    """
    before, _Watch.observer = _Watch.observer, observer
    try:
        yield
    finally:
        _Watch.observer = before


def active() -> bool:
    """Whether somebody watches."""
    return _Watch.observer is not None


def operation(
    point: str,
    kind: Kind,
    path: Path,
    *,
    target: Path | None = None,
    data: bytes | memoryview = b"",
    offset: int = 0,
) -> AbstractContextManager[Callable[[], None] | None]:
    """The block is this operation: announced at its beginning, and at its end unless it raises.

    Gives a function that announces the middle, or None while nobody watches.
    """
    observer = _Watch.observer
    return _UNWATCHED if observer is None else _Announced(observer, Operation(point, kind, path, target, data, offset))


_UNWATCHED: AbstractContextManager[None] = contextlib.nullcontext()


class _Announced:
    def __init__(self, observer: Observer, announced: Operation) -> None:
        self._observer = observer
        self._operation = announced

    def __enter__(self) -> Callable[[], None]:
        self._observer("before", self._operation)
        return lambda: self._observer("middle", self._operation)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._observer("after", self._operation)
