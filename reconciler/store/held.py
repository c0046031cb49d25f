"""Blobs that stay readable whoever removes them meanwhile: they are open, and the bytes of an open file stay.

A lease would have to be written down, and a reader writes nothing.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable
from typing import TYPE_CHECKING, BinaryIO, Self

from reconciler.errors import NotFoundError
from reconciler.linux import durable

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from reconciler.oci.digest import Digest
    from reconciler.store.content import ContentStore


class HeldBlobs:
    """The blobs ``digests`` of a store, readable until the end of the ``with`` block.

    Making one raises ``NotFoundError`` when a blob is gone, and ``HostError`` when more files cannot be opened.
    """

    def __init__(self, content: ContentStore, digests: Iterable[Digest]) -> None:
        self._content = content
        self._open: dict[Digest, int] = {}
        # An image may have 500 layers, and a process most often 1,024 files unless it asks for more.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        try:
            for digest in dict.fromkeys(digests):
                self._open[digest] = self._hold(digest)
        except BaseException:
            self._close()
            raise

    def size(self, digest: Digest) -> int:
        """Bytes of the blob."""
        return os.fstat(self._open[digest]).st_size

    def open(self, digest: Digest) -> BinaryIO:
        """The blob from its start, not verified. Only one stream of a blob may be in use at a time."""
        os.lseek(self._open[digest], 0, os.SEEK_SET)
        return os.fdopen(os.dup(self._open[digest]), "rb")

    def path(self, digest: Digest) -> Path:
        """Where the blob is, or was."""
        return self._content.path(digest)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _hold(self, digest: Digest) -> int:
        path = self._content.path(digest)
        with durable.guarded("read", path):
            try:
                return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                raise NotFoundError(f"blob {digest} is not in the store", hint="pull or load the image again") from None

    def _close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])
