"""Specs in directories and files of this host, as they are at the moment of reading."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from reconciler.errors import HostError, InvalidError, NotFoundError
from reconciler.linux import durable
from reconciler.source.port import MAX_FILES, MAX_SPEC_BYTES, Place, Revision, SpecFile, is_spec_name

_READS = 3


class DirectorySource:
    """One or several paths: a directory's own spec files (``recursive``: also its subdirectories'), or a file.

    Symbolic links are followed to files, not to directories. A path keeps its name when it is itself a link, so that
    a link switched to another directory is a new revision of the same source. Nothing is remembered: what was good
    before a restart is not known after it.
    """

    def __init__(self, paths: Sequence[Path | str], *, recursive: bool = False) -> None:
        if not paths:
            raise InvalidError("no spec path was given", hint="name a directory or a file")
        for path in paths:
            if "\0" in str(path):
                raise InvalidError(f"{str(path)!a} is not a path", hint="remove the NUL character")
        self._shown = tuple(dict.fromkeys(Path(path) for path in paths))
        self._recursive = recursive

    @property
    def identity(self) -> str:
        return "dir:" + ":".join(sorted({os.path.abspath(path) for path in self._shown}))  # noqa: PTH100 - keeps links

    @property
    def watched(self) -> tuple[Path, ...]:
        return self._shown

    @property
    def recursive(self) -> bool:
        return self._recursive

    def read(self) -> Revision:
        """Reads every spec file. An existing directory without any gives a revision without files.

        Raises ``NotFoundError`` when a path is not there, ``HostError`` or ``InvalidError`` naming what cannot be read.
        """
        for attempt in range(1, _READS + 1):
            try:
                files = tuple(SpecFile(str(path), read_bounded(path, MAX_SPEC_BYTES)) for path in self._names())
                break
            except NotFoundError:
                # An editor that saves by renaming makes a name vanish for a moment.
                if attempt == _READS:
                    raise
        total = hashlib.sha256()
        for file in files:
            total.update(f"{file.name}\0{len(file.data)}\0".encode("utf-8", "surrogateescape"))
            total.update(file.data)
        return Revision(total.hexdigest(), files, DirectoryTree())

    def last_good(self) -> None:
        return None

    def accept(self, revision: Revision) -> None:
        """Nothing to do: the paths themselves are all there is."""

    def _names(self) -> list[Path]:
        found: dict[Path, None] = {}
        for path in self._shown:
            for name in self._below(path) if path.is_dir() else [path]:
                found[name] = None
                if len(found) > MAX_FILES:
                    raise InvalidError(f"more than {MAX_FILES} spec files in {path}", hint="name a smaller directory")
        return sorted(found)

    def _below(self, directory: Path) -> Iterator[Path]:
        with _reading(directory):
            entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
        for entry in entries:
            path = directory / entry.name
            if entry.is_dir(follow_symlinks=False):
                if self._recursive and not entry.name.startswith("."):
                    yield from self._below(path)
            elif is_spec_name(entry.name) and not entry.is_dir():
                yield path


class DirectoryTree:
    """The live files beside specs on this host. A path may lead anywhere: who writes the specs is trusted here."""

    def locate(self, spec: str, name: str) -> Place:
        """The absolute path, links kept; whether anything is there is not asked."""
        return Place(_beside(spec, name))

    def read(self, spec: str, name: str, limit: int) -> bytes:
        return read_bounded(_beside(spec, name), limit)

    def fingerprint(self, spec: str, name: str) -> tuple[str, int]:
        path = _beside(spec, name)
        with _reading(path), _open_regular(path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return digest, file.tell()

    def export(self) -> None:
        """Nothing to do: live files are there already."""


def read_bounded(path: Path, limit: int) -> bytes:
    """The content of a regular file. Raises ``NotFoundError``, ``HostError``, or ``InvalidError`` above ``limit``."""
    with _reading(path), _open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise InvalidError(f"{path} is larger than the {limit} bytes allowed", hint="make it smaller")
    return data


def _beside(spec: str, name: str) -> Path:
    if "\0" in name:
        raise InvalidError(f"{name!a} is not a path", hint="remove the NUL character")
    return Path(os.path.abspath(Path(spec).parent / name))  # noqa: PTH100 - keeps links


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist", hint="check the path") from error
    except OSError as error:
        raise durable.host_error(error, "read", path) from error


@contextmanager
def _open_regular(path: Path) -> Iterator[BufferedReader]:
    # O_NONBLOCK: opening a FIFO that nobody writes to would wait for ever.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise HostError(f"{path} is not a regular file", hint="name a regular file")
        yield file
