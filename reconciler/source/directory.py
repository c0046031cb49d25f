"""Specs in directories and files of this host, as they are at the moment of reading."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from reconciler.errors import InvalidError, NotFoundError
from reconciler.source.port import Revision
from reconciler.spec.tree import LocalTree, SpecFile

_READS = 3


class DirectorySource:
    """One or several paths: a directory's own spec files (``recursive``: also its subdirectories'), or a file.

    A path keeps its name when it is a symbolic link, so that a link switched to another directory is a new revision
    of the same source. Nothing is remembered: what was good before a restart is not known after it.
    """

    def __init__(self, paths: Sequence[Path | str], *, recursive: bool = False) -> None:
        if not paths:
            raise InvalidError("no spec path was given", hint="name a directory or a file")
        self._paths = tuple(dict.fromkeys(str(path) for path in paths))
        self._recursive = recursive

    @property
    def identity(self) -> str:
        return "dir:" + ":".join(sorted({os.path.abspath(path) for path in self._paths}))  # noqa: PTH100 - keeps links

    @property
    def watched(self) -> tuple[Path, ...]:
        return tuple(Path(path) for path in self._paths)

    def read(self) -> Revision:
        """Reads every spec file. A directory that is there without any gives a revision without files.

        Raises ``NotFoundError`` when a path is not there, ``HostError`` or ``InvalidError`` naming what cannot be read.
        """
        tree = LocalTree()
        for attempt in range(1, _READS + 1):
            try:
                files = tree.find(self._paths, self._recursive)
                break
            except NotFoundError:
                # An editor that saves by renaming makes a name vanish for a moment.
                if attempt == _READS:
                    raise
        total = hashlib.sha256()
        for file in files:
            total.update(f"{file.path}\0{len(file.data)}\0".encode("utf-8", "surrogateescape"))
            total.update(file.data)
        return Revision(total.hexdigest(), _LiveTree(files), self._paths, self._recursive)

    def last_good(self) -> None:
        return None

    def accept(self, revision: Revision) -> None:
        """Nothing to do: the paths themselves are all there is."""


class _LiveTree(LocalTree):
    """Spec files as they were read, so that they are what the revision's id says; files that they name are live."""

    def __init__(self, files: Sequence[SpecFile]) -> None:
        super().__init__()
        self._files = files

    def find(self, paths: Sequence[str], recursive: bool) -> Sequence[SpecFile]:  # noqa: ARG002
        """The files that were read, whatever is asked for."""
        return self._files

    def write_exports(self) -> None:
        """Nothing to do: live files are there already."""
