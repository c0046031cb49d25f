"""Work on a stream of chunks in a thread of its own, a bounded number of chunks ahead of its consumer."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType


class Hasher(Protocol):
    def update(self, data: bytes, /) -> None: ...


def hashed(chunks: Iterator[bytes], hasher: Hasher) -> Iterator[bytes]:
    """The same chunks, each put into ``hasher`` on its way."""
    for chunk in chunks:
        hasher.update(chunk)
        yield chunk


class ReadAhead:
    """Runs an iterator in a thread while the block lasts; iterating gives its chunks, or raises what it raised.

    Leaving the block early stops the thread after the chunk it is at, and waits for it.
    """

    def __init__(self, chunks: Iterator[bytes], depth: int = 16) -> None:
        self._chunks = chunks
        self._queue: queue.Queue[bytes | BaseException | None] = queue.Queue(depth)
        self._stop = False
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop = True
        while not self._ended:
            self._ended = not isinstance(self._queue.get(), bytes)
        self._thread.join()

    def __iter__(self) -> Iterator[bytes]:
        while not self._ended:
            item = self._queue.get()
            if isinstance(item, bytes):
                yield item
                continue
            self._ended = True
            if item is not None:
                raise item

    def _run(self) -> None:
        try:
            for chunk in self._chunks:
                self._queue.put(chunk)
                if self._stop:
                    break
        except BaseException as error:  # noqa: BLE001 - it is raised again in the consumer's thread
            self._queue.put(error)
        else:
            self._queue.put(None)


class WriteBehind:
    """Calls a function with chunks in a thread while the block lasts; leaving the block waits until all are done.

    What the function raises is raised by the next ``write`` or on leaving the block.
    """

    def __init__(self, function: Callable[[bytes], None], depth: int = 16) -> None:
        self._function = function
        self._queue: queue.Queue[bytes | None] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="write-behind", daemon=True)

    def write(self, chunk: bytes) -> None:
        """Hands over one chunk; waits while too many are pending."""
        if self._error is not None:
            raise self._error
        self._queue.put(chunk)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()
        if error is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (chunk := self._queue.get()) is not None:
            if self._error is not None:
                continue  # the writer must not block on a full queue before it learns of the failure
            try:
                self._function(chunk)
            except BaseException as error:  # noqa: BLE001 - it is raised again in the producer's thread
                self._error = error
