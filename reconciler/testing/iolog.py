"""A recording of everything that a workload does to the disk below one root, with what it wrote.

The recorder is an observer (``linux.watch``). What is not announced byte by byte is read from the disk at the moment
when it becomes durable: the content of a file at its fsync, the whole root at a syncfs, the database at each commit.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.linux.watch import Operation, Phase

_DATABASE = ("commit", "checkpoint")


@dataclass(frozen=True, slots=True)
class Record:
    """One operation in one phase; paths are relative to the root.

    ``data`` is what was written, or what the file holds at its fsync. ``database`` is state.db and its log, of a
    commit or a checkpoint. ``copy`` is the root as it was at a syncfs.
    """

    phase: Phase
    name: str
    path: str
    target: str = ""
    data: bytes = b""
    offset: int = 0
    database: tuple[bytes, bytes] | None = None
    copy: Path | None = None

    @property
    def kind(self) -> str:
        return self.name.partition(":")[2]


class IoLog:
    """Records into a file, over as many processes as the workload takes one after the other."""

    def __init__(self, root: Path, directory: Path) -> None:
        self._root = root
        self._directory = directory
        self._file = directory / "log"
        self._lock = threading.Lock()
        self._process = 0
        self._written = 0
        self.die_after: int | None = None
        """Kills the recorded process once so many records are written."""
        directory.mkdir()
        self._file.touch()

    def begin(self) -> None:
        """In the process that is to be recorded; its children are not."""
        self._process = os.getpid()

    def __call__(self, phase: Phase, operation: Operation) -> None:
        if os.getpid() != self._process or not operation.path.is_relative_to(self._root):
            return
        if phase == "middle" or (phase == "before" and operation.kind not in _DATABASE):
            return
        with self._lock, self._file.open("ab") as file:
            pickle.dump(self._record(phase, operation), file)
            file.flush()
            self._written += 1
            if self._written == self.die_after:
                os.kill(os.getpid(), signal.SIGKILL)

    def records(self) -> list[Record]:
        return list(self._read())

    def _read(self) -> Iterator[Record]:
        with self._file.open("rb") as file:
            while file.peek(1):
                yield pickle.load(file)

    def _record(self, phase: Phase, operation: Operation) -> Record:
        data, database, copy = bytes(operation.data), None, None
        if operation.kind == "fsync":
            data = operation.path.read_bytes()
        elif operation.kind in _DATABASE:
            database = (_content(operation.path), _content(Path(f"{operation.path}-wal")))
        elif operation.kind == "syncfs":
            copy = self._directory / os.urandom(8).hex()
            subprocess.run(["cp", "-a", self._root, copy], check=True)
        target = "" if operation.target is None else str(operation.target.relative_to(self._root))
        path = str(operation.path.relative_to(self._root))
        return Record(phase, operation.name, path, target, data, operation.offset, database, copy)


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""
