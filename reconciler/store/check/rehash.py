"""Reading every blob again and comparing it with its name.

SHA-256 releases the GIL, so a few threads hash at the speed of the disk or of the cores, whichever ends first. Each
has one buffer: memory does not depend on what is read.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from typing import TYPE_CHECKING

from reconciler.value import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from reconciler.oci.digest import Digest

    Count = Callable[[int], None]

_BUFFER = 1 << 20
_TYPES = {
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True, slots=True)
class Flaw:
    """What is wrong with a blob: a word for machines and the end of a sentence."""

    code: str
    text: str


def rehash(blobs: Iterable[tuple[Digest, Path]], count: Count, threads: int | None = None) -> dict[Digest, Flaw]:
    """The flaw of every blob that has one; those that vanish meanwhile have none.

    ``count`` hears the bytes of each piece that was read, one call at a time. Never raises for what is on disk.
    """
    from concurrent.futures import ThreadPoolExecutor

    flaws: dict[Digest, Flaw] = {}
    lock = threading.Lock()
    local = threading.local()

    def counted(more: int) -> None:
        with lock:
            count(more)

    def check(blob: tuple[Digest, Path]) -> None:
        if not hasattr(local, "buffer"):
            local.buffer = bytearray(_BUFFER)
        flaw = flaw_of(*blob, local.buffer, counted)
        if flaw is not None:
            flaws[blob[0]] = flaw

    with ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="rehash") as pool:
        for _ in pool.map(check, blobs):
            pass
    return flaws


def flaw_of(digest: Digest, path: Path, buffer: bytearray, count: Count) -> Flaw | None:
    """What is wrong with one blob, or None; also None when it is not there."""
    try:
        # Not blocking: opening a FIFO that stands where a blob should be would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        return Flaw("not-a-file", f"is {kind}") if (kind := _other_kind(path)) else _unreadable(error)
    try:
        kind = _TYPES.get(stat.S_IFMT(os.fstat(descriptor).st_mode))
        if kind is not None:
            return Flaw("not-a-file", f"is {kind}")
        found = _hash(descriptor, buffer, count)
    except OSError as error:
        return _unreadable(error)
    finally:
        os.close(descriptor)
    return None if found == digest.hex else Flaw("wrong-bytes", f"has other bytes, with digest sha256:{found}")


def _hash(descriptor: int, buffer: bytearray, count: Count) -> str:
    # What the page cache holds may be right while the disk is not. Clean pages are dropped before the reading, so
    # that it comes from the disk; and after it, so that a check does not push out what the host works with.
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    hasher = hashlib.sha256()
    view = memoryview(buffer)
    while size := os.readv(descriptor, [buffer]):
        hasher.update(view[:size])
        count(size)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    return hasher.hexdigest()


def _other_kind(path: Path) -> str | None:
    try:
        return _TYPES.get(stat.S_IFMT(path.lstat().st_mode))
    except OSError:
        return None


def _unreadable(error: OSError) -> Flaw:
    return Flaw("unreadable", f"cannot be read: {os.strerror(error.errno or 0)}")
