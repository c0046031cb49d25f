"""Reading ROOT/state.db without a trace: no file made, none changed, no row missed.

SQLite's own read-only mode makes side files, and ``immutable=1`` overlooks what is still in the write-ahead log. So
each state of the files has its way of reading:

- both side files are there (a writer is at work, or one was killed): ``mode=ro&readonly_shm=1``. SQLite takes its
  locks, and rebuilds a lost log index in memory;
- no log, or an empty one: ``immutable=1``. Nothing protects such a read, so the files are looked at again after it,
  and it is repeated if they changed;
- anything else (a log without its index, an older schema): a private copy in memory.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from reconciler.errors import HostError
from reconciler.linux import durable
from reconciler.store.database import (
    FILE,
    Database,
    Schema,
    check_file,
    check_not_lost,
    connect,
    migrate,
    roll_back,
    translated,
    versions,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")
_ATTEMPTS = 20
_State = tuple[tuple[int, int, int] | None, ...]


class ReadOnlyDatabase(Database):
    """The reader's handle. It may be used while a writer is at work, and on a read-only filesystem.

    Where there is no state.db yet it has every table, empty. (``identity`` tells that from a root that lost its
    files.) Raises ``HostError`` for a damaged, foreign or newer file, or one that must have been there.
    """

    def __init__(self, root: Path, schemas: Sequence[Schema]) -> None:
        super().__init__(root / FILE, schemas)
        self._open: sqlite3.Connection | None = None
        self._seen: _State = ()
        self._locked = False
        self._depth = 0
        self.consistent(lambda: None)

    def consistent(self, work: Callable[[], T]) -> T:
        with self._lock:
            self._check_process()
            if self._depth:
                return work()
            with translated(self.path):
                return self._until_undisturbed(work)

    def transaction(self) -> NoReturn:
        raise RuntimeError(f"{self.path} is open for reading only")

    def close(self) -> None:
        with self._lock:
            if self._open is not None:
                self._open.close()
                self._open = None

    def _connection(self) -> sqlite3.Connection:
        self._check_process()
        assert self._open is not None
        return self._open

    def _until_undisturbed(self, work: Callable[[], T]) -> T:
        for _ in range(_ATTEMPTS):
            try:
                self._follow()
                result = self._run(work)
            except (sqlite3.DatabaseError, FileNotFoundError):
                # A writer may have changed the files below us; if none did, the error is real.
                disturbed = self._state() != self._seen
                self.close()
                if not disturbed:
                    raise
            else:
                if self._locked or self._state() == self._seen:
                    return result
                self.close()
        raise HostError(f"{self.path} keeps changing while it is read", hint="try again when the writer is done")

    def _run(self, work: Callable[[], T]) -> T:
        connection = self._connection()
        connection.execute("BEGIN")
        self._depth = 1
        try:
            return work()
        finally:
            self._depth = 0
            roll_back(connection)

    def _follow(self) -> None:
        """Opens the files as they are now, unless what is open already shows them."""
        state = self._state()
        if self._open is not None and (self._locked or state == self._seen):
            return
        self.close()
        self._seen = state
        database, log, index = state
        self._locked = log is not None and index is not None
        if database is None:
            check_not_lost(self.path)
            self._open = self._empty()
        elif log is not None and log[1] > 0 and index is None:
            self._open = self._copy()
        else:
            uri = self.path.absolute().as_uri()
            self._open = connect(f"{uri}?mode=ro&readonly_shm=1" if self._locked else f"{uri}?immutable=1")
        if database is not None:
            check_file(self._open, self.path)
            self._check_schemas()

    def _check_schemas(self) -> None:
        current = versions(self._connection(), self._schemas, self.path)
        if all(current[schema.name] == len(schema.versions) for schema in self._schemas):
            return
        memory = connect("file::memory:")
        with contextlib.closing(self._connection()) as source:
            source.backup(memory)
        self._open, self._locked = memory, False
        migrate(memory, self._schemas, self.path)

    def _copy(self) -> sqlite3.Connection:
        # Imported here: rarely needed, and they would cost every listing some milliseconds.
        import shutil
        import tempfile

        memory = connect("file::memory:")
        with tempfile.TemporaryDirectory(prefix="reconciler-") as directory:
            try:
                for suffix in ("", "-wal"):
                    shutil.copyfile(f"{self.path}{suffix}", Path(directory) / (FILE + suffix))
            except FileNotFoundError:
                raise  # a writer has just tidied up: the caller looks again
            except OSError as error:
                raise durable.host_error(error, "copy", self.path) from error
            with contextlib.closing(connect((Path(directory) / FILE).as_uri())) as source:
                source.backup(memory)
        return memory

    def _empty(self) -> sqlite3.Connection:
        memory = connect("file::memory:")
        migrate(memory, self._schemas, self.path)
        return memory

    def _state(self) -> _State:
        return tuple(_stat(Path(f"{self.path}{suffix}")) for suffix in ("", "-wal", "-shm"))


def _stat(path: Path) -> tuple[int, int, int] | None:
    with durable.guarded("read", path):
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
    return status.st_ino, status.st_size, status.st_mtime_ns
