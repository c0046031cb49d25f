"""File I/O that must survive a crash.

Every change that the store's promises rest on goes through here, under the name of its call site (``point``), and is
announced to ``watch``: a test can watch, fail or kill at each. What streams files into a directory that nobody sees
yet, mounts, and the database's commits are done elsewhere and announced under the same watch.

Failures of the operating system become ``HostError`` with the path and a hint. A failed fsync is never tried again
on the same file: after the first failure the kernel may have dropped the dirty pages, so a second fsync would lie.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.errors import HostError
from reconciler.linux import watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_HINTS = {
    errno.ENOSPC: "free space on the filesystem that holds it, then try again",
    errno.EDQUOT: "raise the disk quota or free space, then try again",
    errno.EROFS: "mount the filesystem read-write",
    errno.EIO: "check the disk: the kernel log (dmesg) has the details",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the system's limit of open files (fs.file-max)",
    errno.ENOMEM: "free memory, then try again",
    errno.EACCES: "run as the user that owns it, usually root",
    errno.EPERM: "run as root; an immutable file needs chattr -i first",
    errno.EXDEV: "unmount what is mounted below it, then try again",
    errno.EBUSY: "unmount what is mounted there, then try again",
}


@contextlib.contextmanager
def guarded(doing: str, path: Path) -> Iterator[None]:
    """Turns an ``OSError`` in the block into ``HostError``: "cannot <doing> <path>: <reason>"."""
    try:
        yield
    except OSError as error:
        raise host_error(error, doing, path) from error


def host_error(error: OSError, doing: str, path: Path) -> HostError:
    """The ``HostError`` for a failed system call on ``path``."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return HostError(f"cannot {doing} {path}: {reason}", hint=_HINTS.get(error.errno or 0, ""))


def write_file(
    path: Path,
    data: bytes,
    *,
    point: str,
    mode: int = 0o600,
    owner: tuple[int, int] | None = None,
    attributes: Mapping[str, bytes] | None = None,
    sync: bool = True,
    check: Callable[[], None] | None = None,
) -> None:
    """Makes ``path`` hold exactly ``data``: after a crash it holds the old content or the new, never a part.

    ``owner`` is user and group, ours by default, ``attributes`` the extended ones. ``sync=False`` is for what a reboot
    may take: readers still see the old or the new. ``check`` is called last before the new content takes its place;
    what it raises leaves the old.
    """
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        descriptor = create(temporary, point=point, mode=mode)
        try:
            if owner is not None:
                with guarded("give away", path):
                    os.fchown(descriptor, *owner)
            for name, value in (attributes or {}).items():
                with guarded(f"set {name} of", path):
                    os.setxattr(descriptor, name, value)
            write(descriptor, data, temporary, point=point)
        finally:
            os.close(descriptor)
        if sync:
            sync_file(temporary, point=point)
        if check is not None:
            check()
        rename(temporary, path, point=point, sync=sync)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def overwrite(path: Path, data: bytes, *, point: str, mode: int) -> None:
    """Writes a file in place, for those who have it open or mounted: never empty for a reader meanwhile.

    A crash may leave a mixture of old and new, and a reboot the old: only for what is written again at need.
    """
    with guarded("write", path), watch.operation(point, "write", path, data=data):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            os.fchmod(descriptor, mode)
            write_all(descriptor, data)
            os.ftruncate(descriptor, len(data))
        finally:
            os.close(descriptor)


def create(path: Path, *, point: str, mode: int = 0o600) -> int:
    """A new file with exactly ``mode``, open for writing. Raises ``HostError``, also when the name is taken."""
    with guarded("write", path), watch.operation(point, "create", path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            os.fchmod(descriptor, mode)
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


def write(descriptor: int, data: bytes | memoryview, path: Path, *, point: str, offset: int = 0) -> None:
    """Writes all of ``data`` to an open file. ``path`` and ``offset`` say what and where it is; they move nothing."""
    with (
        guarded("write", path),
        watch.operation(point, "write", path, data=data, offset=offset) as announce_middle,
    ):
        if announce_middle is not None:
            half = len(data) // 2
            write_all(descriptor, data[:half])
            announce_middle()
            data = data[half:]
        write_all(descriptor, data)


def truncate(descriptor: int, path: Path, *, point: str) -> None:
    """Empties an open file and goes to its start."""
    with guarded("write", path), watch.operation(point, "truncate", path):
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Writes all of ``data``; a write may be short when the disk fills up. Raises ``OSError``."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def publish(temporary: Path, target: Path, *, point: str) -> None:
    """Moves a finished file to its name: fsync, rename over whatever is there, fsync the directory.

    On failure before the rename, the temporary file is left to its owner.
    """
    sync_file(temporary, point=point)
    rename(temporary, target, point=point)


def rename(source: Path, target: Path, *, point: str, sync: bool = True) -> None:
    """Renames a file or a directory within one filesystem and makes the new name durable (not the content).

    After a crash the old name may be there again as well, if it was in another directory. ``sync=False`` leaves the
    directory's fsync to the caller.
    """
    with guarded("rename", source), watch.operation(point, "rename", source, target=target):
        source.rename(target)
    if sync:
        sync_directory(target.parent, point=point)


def make_directory(path: Path, *, point: str, mode: int = 0o700, sync: bool = True) -> None:
    """Makes one directory with exactly ``mode``, durably unless ``sync`` is False.

    No-op when it is there already (its mode is left alone).
    """
    with guarded("make directory", path), watch.operation(point, "mkdir", path):
        try:
            path.mkdir(mode)
        except FileExistsError:
            if path.is_dir() and not path.is_symlink():
                return
            raise
        path.chmod(mode)
    if sync:
        sync_directory(path.parent, point=point)


def make_directories(path: Path, *, point: str, mode: int = 0o700) -> None:
    """Makes a directory with exactly ``mode`` and those above it (0755), where missing. A reboot may take them."""
    for parent in reversed(path.parents):
        if not parent.is_dir():
            make_directory(parent, point=point, mode=0o755, sync=False)
    make_directory(path, point=point, mode=mode, sync=False)


def remove_directory(path: Path, *, point: str) -> bool:
    """Removes one empty directory, not durably: a power loss may bring it back. False when it was not there."""
    with guarded("remove", path), watch.operation(point, "rmdir", path):
        try:
            path.rmdir()
        except FileNotFoundError:
            return False
    return True


def unlink(path: Path, *, point: str, sync: bool = True) -> bool:
    """Removes one file; False when it was not there. ``sync=False`` leaves the directory's fsync to the caller."""
    with guarded("remove", path), watch.operation(point, "unlink", path):
        try:
            path.unlink()
        except FileNotFoundError:
            return False
    if sync:
        sync_directory(path.parent, point=point)
    return True


def sweep_temporaries(directory: Path, *, point: str, of: str = "") -> None:
    """Removes what ``write_file`` left in a directory when it was killed writing the file ``of``, or any.

    Nobody may be writing it at the time. No-op without the directory.
    """
    with guarded("read", directory):
        try:
            # A database on its way has files beside it, whose names go on behind that.
            found = [path for path in directory.iterdir() if ".tmp" in path.name]
        except FileNotFoundError:
            return
    for path in found:
        if path.name.startswith(f".{of}." if of else "."):
            unlink(path, point=point)


def sync_file(path: Path, *, point: str) -> None:
    """fsync of one file's content."""
    with guarded("sync", path), watch.operation(point, "fsync", path):
        _fsync(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)


def sync_directory(path: Path, *, point: str) -> None:
    """fsync of one directory: names made or removed in it are durable after this."""
    with guarded("sync", path), watch.operation(point, "fsync-directory", path):
        _fsync(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def sync_filesystem(path: Path, *, point: str, since: int | None = None) -> None:
    """syncfs of the filesystem that holds ``path``: for a tree of many files, instead of an fsync of each.

    ``since`` is a descriptor of that filesystem, open since before the first of those files was written: syncfs(2)
    tells what could not be written from then on. Of a new one it may have been told to somebody else before.
    """
    with guarded("sync the filesystem of", path), watch.operation(point, "syncfs", path):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if since is None else os.dup(since)
        try:
            if _libc().syncfs(descriptor) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
        finally:
            os.close(descriptor)


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
