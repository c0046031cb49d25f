"""The files of an image archive by name: of a tar archive, or of a directory. Everything read is bounded.

No name in an archive becomes a path of this host: it is looked up in a table, and links lead to other names of it.
"""

from __future__ import annotations

import contextlib
import io
import os
import posixpath
import stat
from typing import TYPE_CHECKING, BinaryIO, Protocol

from reconciler.errors import InvalidError
from reconciler.linux import durable
from reconciler.oci.sizes import DEFAULT_MANIFEST_BYTES
from reconciler.store.archive.compression import decompress, detect
from reconciler.store.archive.reader import ArchiveReader, Kind, Source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_MEMBERS = 100_000
_MAX_LINKS = 10
_CHUNK = 1 << 20
_MAGIC = 16  # bytes that tell any compression
_AGAIN = "make it again, or fetch it again"
# A document of this name decides what is loaded: readers differ on which of two is meant.
_UNIQUE = frozenset({"index.json", "manifest.json", "oci-layout"})


class ImageFiles(Protocol):
    """Files by their names, which have no leading ``./``."""

    def has(self, name: str) -> bool:
        """Whether there is such a file."""

    def size(self, name: str) -> int:
        """Its bytes. Raises ``InvalidError`` when it is not there."""

    def open(self, name: str) -> BinaryIO:
        """Its content as a stream. Raises ``InvalidError`` when it is not there."""


def read_file(files: ImageFiles, name: str, limit: int) -> bytes:
    """A whole file of at most ``limit`` bytes. Raises ``InvalidError``."""
    if files.size(name) > limit:
        raise InvalidError(f"{name[:200]!a} in the image archive has more than {limit} bytes")
    with files.open(name) as file:
        return file.read(limit)


class ArchiveFiles:
    """The files of an uncompressed tar archive. One pass finds them; of several with one name the last counts.

    The stream must be seekable, and stays the caller's. Raises ``InvalidError`` for what is no tar archive or has more
    than ``MAX_MEMBERS``, and ``IntegrityError`` for one that ends too early.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._files: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        start = stream.tell()
        source = Source(iter(lambda: stream.read(_CHUNK), b""))
        for count, entry in enumerate(ArchiveReader(source)):
            if count >= MAX_MEMBERS:
                raise InvalidError(f"the image archive has more than {MAX_MEMBERS} members")
            name = _normal(os.fsdecode(entry.name))
            if name in _UNIQUE:
                self._check_document(name, entry.size)
            self._files.pop(name, None)
            self._links.pop(name, None)
            if entry.kind is Kind.FILE:
                self._files[name] = (start + source.offset, entry.size)
            elif entry.kind is Kind.SYMLINK:
                self._links[name] = _normal(posixpath.join(posixpath.dirname(name), os.fsdecode(entry.link)))
            elif entry.kind is Kind.HARDLINK:
                self._links[name] = _normal(os.fsdecode(entry.link))

    def has(self, name: str) -> bool:
        return name in self._files or name in self._links

    def size(self, name: str) -> int:
        return self._find(name)[1]

    def open(self, name: str) -> BinaryIO:
        return io.BufferedReader(_Part(self._stream, *self._find(name)), _CHUNK)

    def _check_document(self, name: str, size: int) -> None:
        # Here, for finding out later would be after reading all of it.
        if size > DEFAULT_MANIFEST_BYTES:
            raise InvalidError(f"{name} in the image archive has {size} bytes; {DEFAULT_MANIFEST_BYTES} are allowed")
        if self.has(name):
            raise InvalidError(f"the image archive has {name} twice", hint=_AGAIN)

    def _find(self, name: str) -> tuple[int, int]:
        target = _normal(name)
        for _ in range(_MAX_LINKS):
            if target in self._files:
                return self._files[target]
            if target not in self._links:
                break
            target = self._links[target]
        raise _missing(name)


class DirectoryFiles:
    """The files of an OCI layout that is a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def has(self, name: str) -> bool:
        return (self._directory / name).is_file()

    def size(self, name: str) -> int:
        with self.open(name) as file:
            return os.fstat(file.fileno()).st_size

    def open(self, name: str) -> BinaryIO:
        path = self._directory / name
        with durable.guarded("read", path):
            try:
                # A FIFO would block for ever.
                file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
            except (FileNotFoundError, NotADirectoryError):
                raise _missing(name) from None
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise InvalidError(f"{path} is no regular file")
        return file


@contextlib.contextmanager
def seekable(stream: BinaryIO, directory: Path) -> Iterator[BinaryIO]:
    """The uncompressed content of ``stream`` as something to seek in.

    That is the stream itself where it is a plain file, else a temporary copy in ``directory`` that has no name: it is
    gone with its process. Raises ``IntegrityError`` for a damaged compressed stream, and ``HostError``.
    """
    if stream.seekable():
        start = stream.tell()
        head = stream.read(_MAGIC)
        stream.seek(start)
        if detect(head) == "none":
            yield stream
            return
    # Imported here: a plain file needs none.
    import tempfile

    with contextlib.ExitStack() as stack:
        with durable.guarded("write to", directory):
            copy = stack.enter_context(tempfile.TemporaryFile(dir=directory, prefix="new-"))
        for chunk in decompress(stream):
            with durable.guarded("write to", directory):
                copy.write(chunk)
        with durable.guarded("write to", directory):
            copy.seek(0)
        yield copy


class _Part(io.RawIOBase):
    """A run of bytes of another stream, which has no position of its own as far as this one is concerned."""

    def __init__(self, stream: BinaryIO, offset: int, size: int) -> None:
        self._stream = stream
        self._at = offset
        self._end = offset + size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        self._stream.seek(self._at)
        data = self._stream.read(min(len(buffer), self._end - self._at))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _normal(name: str) -> str:
    return posixpath.normpath(name).lstrip("/")


def _missing(name: str) -> InvalidError:
    return InvalidError(f"the image archive lacks {name[:200]!a}", hint=_AGAIN)
