"""Locks between processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.errors import HostError, LockedError
from reconciler.linux.lock import DirectoryLock, FileLock

HOLDER = """
import sys
from pathlib import Path
from reconciler.linux.lock import DirectoryLock
with DirectoryLock(Path(sys.argv[1])).acquire(0):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.communicate()


def test_the_holder_is_named(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(LockedError, match=rf"in use by process {holder.pid} \(") as caught:
        DirectoryLock(tmp_path).acquire(0.05)
    assert "--lock-timeout" in caught.value.hint
    assert caught.value.exit_code == 5


def test_s38_a_killed_holder_leaves_no_lock(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    with DirectoryLock(tmp_path).acquire(10) as lock:
        assert lock.held
    assert not lock.held


def test_waiting_ends_when_the_holder_is_done(tmp_path: Path) -> None:
    first = DirectoryLock(tmp_path).acquire(0)
    thread = threading.Thread(target=lambda: DirectoryLock(tmp_path).acquire(10).release())
    thread.start()
    first.release()
    thread.join(10)
    assert not thread.is_alive()
    DirectoryLock(tmp_path).acquire(0).release()


def test_two_locks_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    with DirectoryLock(tmp_path).acquire(0), pytest.raises(LockedError, match=f"process {os.getpid()}"):
        DirectoryLock(tmp_path).acquire(0)


def test_a_lock_ends_with_its_block_even_if_that_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), DirectoryLock(tmp_path).acquire(0):
        raise ZeroDivisionError
    lock = DirectoryLock(tmp_path).acquire(0)
    lock.release()
    lock.release()


def test_locking_a_directory_makes_nothing_and_follows_no_link(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="No such file"):
        DirectoryLock(tmp_path / "missing").acquire(0)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(HostError):
        DirectoryLock(tmp_path / "link").acquire(0)
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_s38_a_second_daemon_is_refused_and_a_stale_file_means_nothing(tmp_path: Path) -> None:
    path = tmp_path / "daemon.lock"
    path.write_text("4711\n")
    with FileLock(path).acquire(0), pytest.raises(LockedError):
        FileLock(path).acquire(0)
    FileLock(path).acquire(0).release()
    with DirectoryLock(tmp_path).acquire(0), FileLock(path).acquire(0):
        pass


def test_a_lock_whose_file_was_removed_while_it_was_waited_for_is_taken_on_the_file_that_is_there(
    tmp_path: Path,
) -> None:
    path = tmp_path / "lock"
    first = FileLock(path).acquire(0)
    waiting = threading.Thread(target=lambda: taken.append(second.acquire(10)))
    taken: list[FileLock] = []
    second = FileLock(path)
    waiting.start()
    first.remove()
    waiting.join()
    assert taken == [second]
    with pytest.raises(LockedError):
        FileLock(path).acquire(0)
    second.remove()
    assert not path.exists()
