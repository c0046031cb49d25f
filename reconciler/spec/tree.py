"""Where spec files, and the files they name, are read from.

``LocalTree`` reads a directory as it is now; a git source brings its own ``Tree`` of one commit.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from reconciler.errors import HostError, InvalidError, NotFoundError
from reconciler.model.resources import FileContent
from reconciler.spec.errors import shown
from reconciler.spec.reader import MAX_BYTES
from reconciler.value import dataclass

SUFFIXES = (".yaml", ".yml", ".json")
MAX_FILES = 10_000
_CHUNK = 1024 * 1024
HeadCheck = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class SpecFile:
    """One spec file. ``path`` is how messages name it; paths in it are relative to ``directory``.

    ``directory_name`` is what a compose file without ``name:`` takes its stack from.
    """

    path: str
    data: bytes
    directory: str
    directory_name: str


class Tree(Protocol):
    """Read access to files. Paths are as a spec writes them: relative to ``directory`` unless absolute.

    Every method raises ``NotFoundError``, ``InvalidError`` (not a regular file, too large, outside the tree) or
    ``HostError`` (it cannot be read).
    """

    confined: bool
    """Whether paths may not lead out of the tree; absolute ones are then only for secrets and binds of the host."""

    def find(self, paths: Sequence[str], recursive: bool) -> Sequence[SpecFile]:
        """The spec files that ``paths`` (files and directories) name, each once, sorted within a directory."""

    def read(self, directory: str, path: str, limit: int) -> bytes:
        """A file's bytes, at most ``limit`` of them."""

    def content(self, directory: str, path: str, check: HeadCheck) -> FileContent:
        """Where a file is on this host, its size, and the sha256 of its bytes.

        ``check`` is given its first bytes, all of a short file, and may raise.
        """

    def export(self, directory: str, path: str) -> tuple[str, str]:
        """The absolute path at which a bind mount finds ``path``, and the git object it is, or ""."""


class LocalTree:
    """The files of this host; with ``root``, only those under it, also through symbolic links."""

    def __init__(self, root: Path | None = None) -> None:
        self._root = root.resolve() if root else None
        self.confined = root is not None

    def find(self, paths: Sequence[str], recursive: bool) -> Sequence[SpecFile]:
        found: dict[str, SpecFile] = {}
        try:
            names = [name for path in paths for name in _expand(path, recursive)]
        except OSError as error:
            place = os.fsdecode(error.filename or "")
            raise HostError(f"cannot read {shown(place)}: {error.strerror}", hint="check its permissions") from None
        for name in names:
            real = os.path.realpath(name)
            if real not in found:
                if len(found) >= MAX_FILES:
                    raise InvalidError(f"more than {MAX_FILES} spec files", hint="name fewer directories")
                directory = os.path.dirname(name) or "."  # noqa: PTH120 - messages keep the path as it was given
                data = self.read("", name, MAX_BYTES)
                found[real] = SpecFile(name, data, directory, Path(directory).resolve().name)
        return list(found.values())

    def read(self, directory: str, path: str, limit: int) -> bytes:
        with _opened(self._locate(directory, path), path) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise InvalidError(f"{shown(path)} has more than the {limit} bytes allowed", hint="make it smaller")
        return data

    def content(self, directory: str, path: str, check: HeadCheck) -> FileContent:
        place = self._locate(directory, path)
        digest, size = hashlib.sha256(), 0
        with _opened(place, path) as file:
            chunk = file.read(_CHUNK)
            check(chunk)
            while chunk:
                digest.update(chunk)
                size += len(chunk)
                chunk = file.read(_CHUNK)
        return FileContent(place, digest.hexdigest(), size)

    def export(self, directory: str, path: str) -> tuple[str, str]:
        return self._locate(directory, path), ""

    def _locate(self, directory: str, path: str) -> str:
        """The absolute path. Raises ``InvalidError`` for one that leaves the root."""
        if "\0" in path:
            raise InvalidError(f"malformed path {shown(path)}", hint="remove the NUL")
        place = os.path.abspath(os.path.join(directory, path))  # noqa: PTH100, PTH118 - lexical, as Compose reads it
        if self._root is not None:
            real = Path(os.path.realpath(place))
            if real != self._root and self._root not in real.parents:
                raise InvalidError(f"{shown(path)} leads out of {self._root}", hint="keep what specs name beside them")
        return place


def read_secret(tree: Tree, directory: str, path: str, limit: int) -> tuple[bytes, str]:
    """A secret file's bytes, and a warning or "". Links are followed; anything but a regular file is refused.

    A file that everyone may read, or that belongs to neither root nor this user, is used with a warning; an empty
    one is refused with ``InvalidError``.
    """
    source = LocalTree() if os.path.isabs(path) else tree  # noqa: PTH117
    data = source.read(directory, path, limit)
    if not data:
        raise InvalidError(f"secret file {shown(path)} is empty", hint="write the secret into it")
    if not isinstance(source, LocalTree):
        return data, ""
    try:
        status = Path(directory, path).stat()
    except OSError:  # gone since it was read
        return data, ""
    if status.st_mode & stat.S_IROTH:
        return data, f"secret file {shown(path)} is readable by everyone; chmod 0400 it"
    if status.st_uid not in (0, os.geteuid()):
        return data, f"secret file {shown(path)} belongs to user {status.st_uid}, who may change it"
    return data, ""


def _expand(path: str, recursive: bool) -> Iterator[str]:
    place = Path(path)
    if not place.is_dir():
        if not place.exists():
            raise NotFoundError(
                f"there is no file or directory {shown(path)}", hint="name a directory or a file of specs"
            )
        yield path
        return
    for entry in sorted(os.listdir(path)):  # noqa: PTH208 - keeps the path as it was given
        inner = entry if path == "." else os.path.join(path, entry)  # noqa: PTH118
        if entry.startswith("."):
            continue
        if Path(inner).is_dir():
            if recursive and not Path(inner).is_symlink():
                yield from _expand(inner, recursive)
        elif entry.endswith(SUFFIXES):
            yield inner


@contextmanager
def _opened(place: str, shown_path: str) -> Iterator[BinaryIO]:
    """A regular file, opened so that a FIFO or a device in its place cannot block us."""
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise NotFoundError(
                f"there is no file {shown(shown_path)}", hint="create it, or correct the path"
            ) from None
        if error.errno == errno.ENXIO:
            raise InvalidError(f"{shown(shown_path)} is not a regular file", hint="name a file") from None
        raise HostError(f"cannot read {shown(shown_path)}: {error.strerror}", hint="check its permissions") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidError(f"{shown(shown_path)} is not a regular file", hint="name a file")
    with os.fdopen(descriptor, "rb") as file:
        yield file
