"""ROOT/state.db: metadata in SQLite.

``Database`` is what tables are built on: reads that see one consistent state, and transactions. There are two kinds:
``WritableDatabase`` here, of which one writer at a time makes use, and ``readonly.ReadOnlyDatabase``, which leaves no
trace on disk.

Tables belong to the rooms that use them: each registers a ``Schema``, and opening for writing migrates them all in
one transaction.
"""

from __future__ import annotations

import abc
import contextlib
import os
import sqlite3
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from reconciler.errors import HostError
from reconciler.linux import durable, watch
from reconciler.value import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

T = TypeVar("T")

FILE = "state.db"
# Marks the file as ours ("rcnc"): a foreign SQLite file is damage, not an empty state.
APPLICATION_ID = 0x72636E63
_BUSY_SECONDS = 10
_SIDE_FILES = 1 << 16  # what the log and its index begin with
_POINT = "database"  # the name of this call site in linux.watch
# A root that holds one of these has had a database.
_HOLDS_STATE = ("blobs/sha256", "layers", "containers")


class LostDatabaseError(HostError):
    """The file is damaged, not ours, or not where it must have been: nothing will make it readable again."""


@dataclass(frozen=True, slots=True)
class Schema:
    """The tables of one owner. ``versions[n]`` is the SQL script that leads from version n to n + 1.

    A published script is never edited, only followed by another.
    """

    name: str
    versions: tuple[str, ...]


class Database(abc.ABC):
    """A handle on the state, for the threads of one process. It must not be used after a fork (case S40).

    A process that is about to write closes its read-only handles first: SQLite shares the log's index among all
    handles of a process, read-only if the first of them was.
    """

    def __init__(self, path: Path, schemas: Sequence[Schema]) -> None:
        self.path = path
        self._schemas = tuple(schemas)
        self._lock = threading.RLock()
        self._process = os.getpid()

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """All rows of one SELECT. Raises ``HostError`` when the file cannot be read or is damaged."""
        return self.consistent(lambda: self._connection().execute(sql, parameters).fetchall())

    @abc.abstractmethod
    def consistent(self, work: Callable[[], T]) -> T:
        """The result of ``work``, all of whose queries see one state. ``work`` may be run more than once."""

    @abc.abstractmethod
    def transaction(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        """One write transaction: committed (fsynced) at the end of the block, rolled back if it raises.

        Inside another transaction of the same thread it joins that one. No other writer, thread or process, is in a
        transaction at the same time. Raises ``HostError`` when nothing can be written.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Ends the use of the handle."""

    @abc.abstractmethod
    def _connection(self) -> sqlite3.Connection:
        """The open connection."""

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError(f"the handle on {self.path} was opened before a fork; open another one")


class WritableDatabase(Database):
    """The writer's handle. Whoever opens it holds the root's lock."""

    def __init__(self, root: Path, schemas: Sequence[Schema]) -> None:
        """Opens ROOT/state.db, making or migrating it as needed.

        Raises ``HostError``: the file is missing from a root that was in use, is damaged, or is newer than us.
        """
        super().__init__(root / FILE, schemas)
        if not self.path.exists():
            _create(self.path)
        with translated(self.path):
            self._open = connect(f"{self.path.absolute().as_uri()}?mode=rw")
            try:
                check_file(self._open, self.path)
                _prepare(self._open, self.path)
                with self.transaction() as connection:
                    migrate(connection, self._schemas, self.path, lambda: watch.operation(_POINT, "migrate", self.path))
            except BaseException:
                self._open.close()
                raise

    def consistent(self, work: Callable[[], T]) -> T:
        with self._lock, translated(self.path):
            connection = self._connection()
            if connection.in_transaction:
                return work()
            connection.execute("BEGIN")
            try:
                return work()
            finally:
                roll_back(connection)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, translated(self.path):
            connection = self._connection()
            if connection.in_transaction:
                yield connection
                return
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                with durable.guarded("commit to", self.path), watch.operation(_POINT, "commit", self.path):
                    connection.execute("COMMIT")
            finally:
                roll_back(connection)

    def close_pass(self) -> None:
        """Moves everything into state.db itself and empties the log beside it, so that readers need no side file.

        A reader in the middle of a query may prevent it: nothing is lost, the next pass does it.
        """
        with (
            self._lock,
            translated(self.path),
            durable.guarded("tidy", self.path),
            watch.operation(_POINT, "checkpoint", self.path),
        ):
            self._connection().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        with self._lock, translated(self.path):
            self._check_process()
            self._open.close()

    def _connection(self) -> sqlite3.Connection:
        self._check_process()
        return self._open


def connect(uri: str) -> sqlite3.Connection:
    """A connection with explicit transactions and rows that know their column names."""
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=_BUSY_SECONDS)
    connection.row_factory = sqlite3.Row
    return connection


def roll_back(connection: sqlite3.Connection) -> None:
    """Ends a transaction, if one is still open: SQLite itself rolls back after some failures, such as a full disk."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def migrate(
    connection: sqlite3.Connection,
    schemas: Sequence[Schema],
    path: Path,
    announcement: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
) -> None:
    """Brings every schema to its last version, within the caller's transaction; ``announcement`` is each statement's.

    Raises ``HostError`` for a file newer than us.
    """
    current = versions(connection, schemas, path)
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_versions (name TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID"
    )
    for schema in schemas:
        for script in schema.versions[current[schema.name] :]:
            for statement in _statements(script):
                with durable.guarded("migrate", path), announcement():
                    connection.execute(statement)
        if current[schema.name] < len(schema.versions):
            connection.execute(
                "INSERT OR REPLACE INTO schema_versions VALUES (?, ?)", (schema.name, len(schema.versions))
            )


def check_file(connection: sqlite3.Connection, path: Path) -> None:
    """Raises ``LostDatabaseError`` for a file that is not ours, or empty: SQLite would take that for a new database."""
    with durable.guarded("read", path):
        empty = path.stat().st_size == 0
    if empty:
        raise LostDatabaseError(f"{path} is damaged: it has no content", hint=_RESTORE)
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise LostDatabaseError(f"{path} is not a database of this program", hint=_RESTORE)


def check_not_lost(path: Path) -> None:
    """Raises ``LostDatabaseError`` where one must have been: an empty one in its place would have everything pruned."""
    for name in _HOLDS_STATE:
        directory = path.parent / name
        if directory.is_dir() and any(directory.iterdir()):
            raise LostDatabaseError(f"{path} is missing, though {directory} is not empty", hint=_RESTORE)


def versions(connection: sqlite3.Connection, schemas: Sequence[Schema], path: Path) -> dict[str, int]:
    """The stored version of each schema, 0 for one not yet there. Raises ``HostError`` for one newer than us."""
    known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_versions'").fetchone()
    stored = dict(connection.execute("SELECT name, version FROM schema_versions").fetchall()) if known else {}
    for schema in schemas:
        if stored.get(schema.name, 0) > len(schema.versions):
            raise HostError(
                f"{path} was written by a newer version of this program "
                f"({schema.name} tables: version {stored[schema.name]}, known here: {len(schema.versions)})",
                hint="use that version, or a newer one",
            )
    return {schema.name: stored.get(schema.name, 0) for schema in schemas}


_RESTORE = "rebuild it with: reconciler store verify --repair; or restore state.db from a backup"
_HINTS = {
    sqlite3.SQLITE_FULL: "free space on the filesystem that holds it, then try again",
    sqlite3.SQLITE_CORRUPT: _RESTORE,
    sqlite3.SQLITE_NOTADB: _RESTORE,
    sqlite3.SQLITE_BUSY: "another writer is at work; try again when it is done",
    sqlite3.SQLITE_IOERR: "check the disk: the kernel log (dmesg) has the details",
    sqlite3.SQLITE_CANTOPEN: "check that the directory is yours and its filesystem is mounted read-write",
    sqlite3.SQLITE_READONLY: "mount the filesystem read-write",
}


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turns SQLite's errors into ``HostError``, except violated constraints, which are the caller's."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except sqlite3.DatabaseError as error:
        # The low byte is the primary result code (sqlite.org/rescode.html).
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and _is_full(path.parent):
            # SQLite does not tell why it cannot make its side files.
            message = f"cannot use {path}: no space left on its filesystem ({error})"
            raise HostError(message, hint=_HINTS[sqlite3.SQLITE_FULL]) from error
        kind = LostDatabaseError if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) else HostError
        raise kind(f"cannot use {path}: {error}", hint=_HINTS.get(code, "")) from error


def _is_full(directory: Path) -> bool:
    try:
        status = os.statvfs(directory)
    except OSError:
        return False
    return status.f_bavail * status.f_frsize < _SIDE_FILES or bool(status.f_files and not status.f_favail)


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise LostDatabaseError(f"{path} is damaged: {verdict}", hint=_RESTORE)
    if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise HostError(f"{path} cannot use write-ahead logging", hint="put the root on a local filesystem")


def _create(path: Path) -> None:
    """Makes an empty database under its name in one step: a file of zero bytes there is always damage."""
    check_not_lost(path)
    temporary = path.with_name(f".{FILE}.{os.urandom(4).hex()}.tmp")
    try:
        # SQLite takes an empty file for a new database, and keeps its mode for the files beside it.
        os.close(durable.create(temporary, point=_POINT))
        with translated(temporary), contextlib.closing(connect(f"{temporary.absolute().as_uri()}?mode=rw")) as fresh:
            fresh.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            fresh.execute("PRAGMA journal_mode = WAL")
        durable.publish(temporary, path, point=_POINT)
    except BaseException:
        with contextlib.suppress(HostError):  # swept by the next writer
            durable.unlink(temporary, point=_POINT, sync=False)
        raise


def _statements(script: str) -> Iterator[str]:
    # Not executescript: it commits first, and a migration is one transaction.
    statement = ""
    for piece in script.split(";"):
        statement += piece + ";"
        if sqlite3.complete_statement(statement):
            if statement.strip() != ";":
                yield statement
            statement = ""
