"""Exclusive locks between processes, by flock(2).

The kernel drops a lock when its last descriptor closes, so a killed holder never leaves one behind, and no pid file
has to be believed (case S38). A lock belongs to the open file: it also excludes other threads, and a child made by a
fork without exec shares it. Descriptors here are close-on-exec.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from reconciler.errors import LockedError
from reconciler.linux import durable

if TYPE_CHECKING:
    from types import TracebackType

_POLL_SECONDS = 0.02


class FileLock:
    """A lock on a file of its own, made when it is not there; it stays afterwards unless it is removed."""

    _flags = os.O_RDWR | os.O_CREAT
    _hint = "wait until it is done, or end it"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self, timeout: float) -> Self:
        """Takes the lock, waiting up to ``timeout`` seconds. Raises ``LockedError`` naming the holder, ``HostError``.

        The lock is given back by ``release`` or at the end of a ``with`` block over the result.
        """
        if self._descriptor is not None:
            raise RuntimeError(f"the lock on {self.path} is taken already by this object")
        with durable.guarded("lock", self.path):
            descriptor = self._take(timeout)
            while not _is_at(self.path, descriptor):
                # Its last holder removed it between our opening and our locking: others lock the file that is there.
                os.close(descriptor)
                descriptor = self._take(timeout)
        self._descriptor = descriptor
        return self

    def _take(self, timeout: float) -> int:
        descriptor = os.open(self.path, self._flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if not _wait(descriptor, timeout):
                raise LockedError(f"{self.path} is in use by {_holder(descriptor)}", hint=self._hint)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    @property
    def held(self) -> bool:
        return self._descriptor is not None

    def release(self) -> None:
        """Gives the lock back; a no-op when it is not held."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            # Closing alone would not do while a forked child has a copy of the descriptor.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def remove(self) -> None:
        """Gives the lock back and takes its file away; a no-op when it is not held."""
        if self._descriptor is not None:
            with durable.guarded("remove", self.path):
                self.path.unlink(missing_ok=True)
            self.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class DirectoryLock(FileLock):
    """A lock on a directory itself, which must be there: nothing is made."""

    _flags = os.O_RDONLY | os.O_DIRECTORY
    _hint = "wait until it is done, or allow more time with --lock-timeout"


def try_lock(descriptor: int) -> bool:
    """Takes the lock of an open file if nobody has it. Raises ``OSError``."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def is_locked(path: Path) -> bool:
    """Whether a process of our pid namespace holds the lock of a file, told without touching the lock itself."""
    try:
        status = path.stat()
        listing = Path("/proc/locks").read_text()
    except OSError:
        return False
    return _holder_of(listing, status) is not None


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _wait(descriptor: int, timeout: float) -> bool:
    # A blocking flock cannot be given a deadline without signals, which belong to the main thread.
    deadline = time.monotonic() + timeout
    while not try_lock(descriptor):
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            return False
        time.sleep(min(_POLL_SECONDS, remaining))
    return True


def _holder(descriptor: int) -> str:
    """Who holds the lock, as well as /proc/locks tells: it lists only processes of our pid namespace."""
    try:
        pid = _holder_of(Path("/proc/locks").read_text(), os.fstat(descriptor))
        if pid is None:
            return "another process"
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "another process"
    return f"process {pid} ({name})"


def _holder_of(listing: str, status: os.stat_result) -> int | None:
    # proc_locks(5): "1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF", device numbers in hexadecimal.
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    found = re.search(rf"FLOCK\s+ADVISORY\s+WRITE\s+(\d+)\s+{place}\s", listing)
    return int(found[1]) if found is not None and int(found[1]) > 0 else None
