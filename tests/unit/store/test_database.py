"""state.db: never half migrated, never silently empty, and read without a trace."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.errors import HostError
from reconciler.linux import watch
from reconciler.store.database import Schema, WritableDatabase
from reconciler.store.readonly import ReadOnlyDatabase
from reconciler.testing.faults import FaultAt

FIRST = "CREATE TABLE notes (text TEXT); CREATE TABLE more (x); INSERT INTO more VALUES (1);"
SECOND = "ALTER TABLE notes ADD COLUMN author TEXT NOT NULL DEFAULT 'nobody; really'; DROP TABLE more;"
OLD, NEW = Schema("notes", (FIRST,)), Schema("notes", (FIRST, SECOND))


def write(database: WritableDatabase, text: str) -> None:
    with database.transaction() as connection:
        connection.execute("INSERT INTO notes (text) VALUES (?)", (text,))


def texts(database: WritableDatabase | ReadOnlyDatabase) -> list[str]:
    return [row["text"] for row in database.query("SELECT text FROM notes ORDER BY rowid")]


def trace(root: Path) -> dict[str, tuple[int, int, int, str]]:
    """All there is to see of a directory: what a reader must leave exactly as it was."""
    found = {}
    for path in (root, *root.iterdir()):
        status = path.stat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[path.name] = (status.st_ino, status.st_mtime_ns, status.st_size, content)
    return found


@pytest.fixture
def database(root: Path) -> Iterator[WritableDatabase]:
    opened = WritableDatabase(root, (OLD,))
    yield opened
    opened.close()


CRASHING_WRITER = """
import os, signal, sys
from pathlib import Path
from reconciler.store.database import Schema, WritableDatabase
database = WritableDatabase(Path(sys.argv[1]), (Schema("notes", (sys.argv[2],)),))
for text in ("one", "two"):
    with database.transaction() as connection:
        connection.execute("INSERT INTO notes (text) VALUES (?)", (text,))
with database.transaction() as connection:
    connection.execute("INSERT INTO notes (text) VALUES ('uncommitted')")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def crash(root: Path) -> None:
    """Leaves a root as a writer does that is killed in a transaction."""
    done = subprocess.run([sys.executable, "-c", CRASHING_WRITER, str(root), FIRST], timeout=30)
    assert done.returncode == -signal.SIGKILL
    assert (root / "state.db-wal").stat().st_size > 0


def test_a_transaction_is_whole_or_nothing(database: WritableDatabase) -> None:
    with pytest.raises(ZeroDivisionError), database.transaction() as connection:
        connection.execute("INSERT INTO notes (text) VALUES ('lost')")
        raise ZeroDivisionError
    write(database, "kept")
    assert texts(database) == ["kept"]


def test_an_inner_transaction_is_part_of_the_outer_one(database: WritableDatabase) -> None:
    with pytest.raises(ZeroDivisionError), database.transaction():
        write(database, "inner")
        assert texts(database) == ["inner"]
        raise ZeroDivisionError
    assert texts(database) == []


def test_eight_threads_share_a_handle(database: WritableDatabase) -> None:
    def work(name: int) -> None:
        for number in range(20):
            write(database, f"{name}-{number}")
            assert f"{name}-{number}" in texts(database)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts(database)) == 160


def test_s40_no_handle_crosses_a_fork(database: WritableDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        with pytest.raises(RuntimeError, match="before a fork"):
            texts(database)


def test_s40_a_forked_child_cannot_use_its_parents_handle(database: WritableDatabase) -> None:
    write(database, "before")
    child = os.fork()
    if not child:
        refused = 0
        for use in (lambda: texts(database), lambda: write(database, "child"), database.close, database.close_pass):
            try:
                use()
            except RuntimeError:
                refused += 1
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
    write(database, "after")
    assert texts(database) == ["before", "after"]


def test_s40_threads_share_one_handle_one_at_a_time(database: WritableDatabase) -> None:
    threads = [threading.Thread(target=write, args=(database, str(number))) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(texts(database)) == [str(number) for number in range(8)]


def test_s37_a_migration_stopped_at_any_statement_leaves_the_old_version(root: Path) -> None:
    old = WritableDatabase(root, (OLD,))
    write(old, "kept")
    old.close()
    for stop in range(3):
        fault = FaultAt(stop + 1, errno.EIO)
        with watch.observed(fault), pytest.raises(HostError):
            WritableDatabase(root, (NEW,))
        unchanged = WritableDatabase(root, (OLD,))
        assert unchanged.query("SELECT * FROM more")[0]["x"] == 1
        unchanged.close()
    assert fault.seen == ["database:migrate", "database:migrate", "database:commit"]
    new = WritableDatabase(root, (NEW,))
    assert new.query("SELECT author FROM notes")[0]["author"] == "nobody; really"
    new.close()


def test_s37_a_migration_killed_at_any_statement_leaves_the_old_version(root: Path) -> None:
    WritableDatabase(root, (OLD,)).close()
    program = """
import sys
from pathlib import Path
from reconciler.linux import watch
from reconciler.store.database import Schema, WritableDatabase
from reconciler.testing.faults import FaultAt
with watch.observed(FaultAt(int(sys.argv[2]))):
    WritableDatabase(Path(sys.argv[1]), (Schema("notes", tuple(sys.argv[3:])),))
"""
    for stop in (1, 2, 3):
        done = subprocess.run([sys.executable, "-c", program, str(root), str(stop), FIRST, SECOND], timeout=30)
        assert done.returncode == -signal.SIGKILL
        unchanged = WritableDatabase(root, (OLD,))
        assert unchanged.query("SELECT * FROM more")[0]["x"] == 1
        unchanged.close()


def test_a_database_appears_only_when_it_is_whole(root: Path) -> None:
    for stop in range(4):
        fault = FaultAt(stop + 1, errno.ENOSPC)
        with watch.observed(fault), pytest.raises(HostError):
            WritableDatabase(root, (OLD,))
        assert [path.name for path in root.iterdir()] == (["state.db"] if stop == 3 else [])
        for path in root.iterdir():
            path.unlink()
    assert fault.seen == [f"database:{kind}" for kind in ("create", "fsync", "rename", "fsync-directory", "unlink")]


@pytest.mark.parametrize("kind", [WritableDatabase, ReadOnlyDatabase])
def test_a_newer_schema_is_refused(root: Path, kind: type[WritableDatabase | ReadOnlyDatabase]) -> None:
    WritableDatabase(root, (NEW,)).close()
    with pytest.raises(HostError, match=r"newer version .*notes tables: version 2, known here: 1"):
        kind(root, (OLD,))


@pytest.mark.parametrize("kind", [WritableDatabase, ReadOnlyDatabase])
@pytest.mark.parametrize("damage", ["zero bytes", "garbage", "truncated", "foreign", "overwritten"])
def test_s35_a_damaged_file_is_never_an_empty_start(
    root: Path, kind: type[WritableDatabase | ReadOnlyDatabase], damage: str
) -> None:
    path = root / "state.db"
    healthy = WritableDatabase(root, (OLD,))
    with healthy.transaction() as connection:
        connection.executemany("INSERT INTO notes (text) VALUES (?)", [("x" * 1000,)] * 100)
    healthy.close()
    content = path.read_bytes()
    if damage == "foreign":
        path.unlink()
        with sqlite3.connect(path) as foreign:
            foreign.execute("CREATE TABLE theirs (x)")
        foreign.close()
    else:
        path.write_bytes(
            {
                "zero bytes": b"",
                "garbage": b"\xa5" * 20000,
                "truncated": content[: len(content) // 2],
                "overwritten": content[:4096] + b"\xa5" * (len(content) - 4096),
            }[damage]
        )
    before = path.read_bytes()
    with pytest.raises(HostError) as caught:
        texts(kind(root, (OLD,)))
    assert str(path) in str(caught.value)
    assert "backup" in caught.value.hint
    assert path.read_bytes() == before


def test_s35_a_missing_file_beside_blobs_is_never_an_empty_start(root: Path) -> None:
    (root / "blobs" / "sha256").mkdir(parents=True)
    (root / "blobs" / "sha256" / ("ab" * 32)).touch()
    with pytest.raises(HostError, match="missing"):
        WritableDatabase(root, (OLD,))
    assert not (root / "state.db").exists()


def test_a_reader_of_a_root_without_a_database_sees_empty_tables(root: Path) -> None:
    before = trace(root)
    assert texts(ReadOnlyDatabase(root, (OLD,))) == []
    assert texts(ReadOnlyDatabase(root / "not-there", (OLD,))) == []
    assert trace(root) == before


def test_a_reader_cannot_write(root: Path, database: WritableDatabase) -> None:
    reader = ReadOnlyDatabase(root, (OLD,))
    with pytest.raises(RuntimeError):
        reader.transaction()
    with pytest.raises(HostError, match="readonly"):
        reader.query("INSERT INTO notes (text) VALUES ('x') RETURNING text")


def test_a_reader_of_a_clean_root_leaves_no_trace(root: Path) -> None:
    writer = WritableDatabase(root, (OLD,))
    write(writer, "one")
    writer.close_pass()
    writer.close()
    assert [path.name for path in root.iterdir()] == ["state.db"]
    before = trace(root)
    reader = ReadOnlyDatabase(root, (OLD,))
    assert texts(reader) == ["one"]
    reader.close()
    assert trace(root) == before


WRITER = """
import sys
from pathlib import Path
from reconciler.store.database import Schema, WritableDatabase
database = WritableDatabase(Path(sys.argv[1]), (Schema("notes", (sys.argv[2],)),))
for line in sys.stdin:
    if line == "end of pass\\n":
        database.close_pass()
    else:
        with database.transaction() as connection:
            connection.execute("INSERT INTO notes (text) VALUES (?)", (line.strip(),))
    print("done", flush=True)
database.close()
"""


class OtherProcess:
    """A writer at work in a process of its own."""

    def __init__(self, root: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(root), FIRST], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def write(self, line: str) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"

    def end(self) -> None:
        self._process.communicate(timeout=30)


@pytest.fixture
def writer(root: Path) -> Iterator[OtherProcess]:
    process = OtherProcess(root)
    yield process
    process.end()


def test_a_reader_beside_a_writer_misses_no_row_and_leaves_no_trace(root: Path, writer: OtherProcess) -> None:
    writer.write("0")
    reader = ReadOnlyDatabase(root, (OLD,))
    for number in range(1, 6):
        writer.write(str(number))
        if number == 3:
            writer.write("end of pass")
            assert (root / "state.db-wal").stat().st_size == 0
        before = trace(root)
        assert texts(reader) == [str(n) for n in range(number + 1)]
        fresh = ReadOnlyDatabase(root, (OLD,))
        assert texts(fresh) == [str(n) for n in range(number + 1)]
        fresh.close()
        assert trace(root) == before
    writer.end()
    assert texts(reader) == [str(n) for n in range(6)]
    reader.close()


def test_a_reader_sees_one_state_while_a_writer_goes_on(root: Path, writer: OtherProcess) -> None:
    writer.write("one")
    reader = ReadOnlyDatabase(root, (OLD,))

    def work() -> tuple[list[str], list[str]]:
        first = texts(reader)
        writer.write("two")
        return first, texts(reader)

    assert reader.consistent(work) == (["one"], ["one"])
    assert texts(reader) == ["one", "two"]
    reader.close()


def test_a_reader_of_a_file_that_changes_below_it_reads_again(root: Path) -> None:
    writer = WritableDatabase(root, (OLD,))
    write(writer, "one")
    writer.close()
    reader = ReadOnlyDatabase(root, (OLD,))
    runs = []

    def work() -> list[str]:
        found = texts(reader)
        if not runs:
            again = WritableDatabase(root, (OLD,))
            write(again, "two")
            again.close()
        runs.append(found)
        return found

    assert reader.consistent(work) == ["one", "two"]
    assert runs == [["one"], ["one", "two"]]


def test_s34_a_reader_of_a_crashed_root_sees_what_was_committed_and_leaves_no_trace(root: Path) -> None:
    crash(root)
    before = trace(root)
    reader = ReadOnlyDatabase(root, (OLD,))
    assert texts(reader) == ["one", "two"]
    reader.close()
    assert trace(root) == before


def test_s34_a_reader_of_a_log_without_its_index_leaves_no_trace(root: Path, tmp_path: Path) -> None:
    crash(root)
    (root / "state.db-shm").unlink()
    before = trace(root)
    reader = ReadOnlyDatabase(root, (OLD,))
    assert texts(reader) == ["one", "two"]
    reader.close()
    assert trace(root) == before


def test_s34_a_writer_recovers_a_crashed_root(root: Path) -> None:
    crash(root)
    reader = ReadOnlyDatabase(root, (OLD,))
    assert texts(reader) == ["one", "two"]
    other = OtherProcess(root)
    other.write("three")
    assert texts(reader) == ["one", "two", "three"]
    other.write("end of pass")
    assert texts(reader) == ["one", "two", "three"]
    other.end()
    reader.close()
    writer = WritableDatabase(root, (OLD,))
    assert texts(writer) == ["one", "two", "three"]
    writer.close()


def test_a_reader_of_an_older_schema_sees_the_new_one_and_leaves_no_trace(root: Path) -> None:
    writer = WritableDatabase(root, (OLD,))
    write(writer, "one")
    writer.close()
    before = trace(root)
    reader = ReadOnlyDatabase(root, (NEW,))
    assert [tuple(row) for row in reader.query("SELECT text, author FROM notes")] == [("one", "nobody; really")]
    assert trace(root) == before
