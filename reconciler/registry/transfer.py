"""A blob of one registry, read like a file, so that it can go to another without being stored.

    with BlobStream(fetch) as source:
        ...  # source.read(): the bytes as they come, the last of them only when all are verified

A thread fetches and stays a few chunks ahead of the reader. Resuming, mirrors and verification are the download's own.
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from reconciler.oci.digest import Digest
from reconciler.registry.download import Sink
from reconciler.registry.failure import TemporaryError

_AHEAD = 4


class _Abandoned(Exception):
    """The reader went away, or has bytes already that turned out wrong."""


class BlobStream(io.RawIOBase):
    """What ``fetch`` writes into a sink, for reading. Reading raises what ``fetch`` raised.

    Bytes that were read cannot be taken back: when the download must start over, reading raises ``TemporaryError``.
    """

    def __init__(self, fetch: Callable[[Sink], object]) -> None:
        super().__init__()
        self._fetch = fetch
        self._changed = threading.Condition()
        self._chunks: deque[bytes] = deque()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._ended = False
        self._abandoned = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="registry-copy", daemon=True)
            self._thread.start()
        with self._changed:
            while not self._chunks and not self._ended:
                self._changed.wait()
            if not self._chunks:
                if self._failure is not None:
                    raise self._failure
                return 0
            chunk = self._chunks.popleft()
            size = min(len(chunk), len(buffer))
            buffer[:size] = chunk[:size]
            if size < len(chunk):
                self._chunks.appendleft(chunk[size:])
            self._changed.notify_all()
            return size

    def close(self) -> None:
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()
        super().close()

    def _run(self) -> None:
        sink = _HeldBack(self)
        try:
            self._fetch(sink)
            sink.release()
        except _Abandoned:
            self._failure = TemporaryError("the source began to send other bytes than before")
        except BaseException as error:  # noqa: BLE001 - it is the reader's
            self._failure = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def give(self, chunk: bytes) -> None:
        """Hands a chunk to the reader, once there is room."""
        with self._changed:
            while len(self._chunks) >= _AHEAD and not self._abandoned:
                self._changed.wait()
            if self._abandoned:
                raise _Abandoned
            self._chunks.append(chunk)
            self._changed.notify_all()


class _HeldBack:
    """A sink that gives each chunk away when the next one comes, and the last one when it is told to."""

    def __init__(self, stream: BlobStream) -> None:
        self._stream = stream
        self._held = b""
        self._given = False
        self._spoiled = False
        self._hash = hashlib.sha256()
        self.offset = 0

    def digest(self) -> Digest:
        return Digest(f"sha256:{self._hash.hexdigest()}")

    def write(self, chunk: bytes, /) -> None:
        if self._spoiled:
            raise _Abandoned
        if self._held:
            self._given = True
            self._stream.give(self._held)
        self._held = bytes(chunk)
        self._hash.update(chunk)
        self.offset += len(chunk)

    def restart(self) -> None:
        # Not yet an end: the download still has to note which server it was that gave wrong bytes.
        self._spoiled = self._given
        self._held, self._hash, self.offset = b"", hashlib.sha256(), 0

    def release(self) -> None:
        """All is verified: the reader may have the end."""
        if self._held:
            self._stream.give(self._held)
