"""Directory trees: removing one, measuring one, and knowing what is mounted below one."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.errors import HostError
from reconciler.linux import durable, watch

if TYPE_CHECKING:
    from collections.abc import Callable

# openat2(2): one number on every architecture; since Linux 5.6.
_OPENAT2 = 437
_RESOLVE_NO_XDEV = 0x01
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: Path, *, point: str, sync: bool = True, unmounted: bool = False) -> bool:
    """Removes ``path`` and everything in it, durably unless ``sync`` is False; False when it was not there.

    Symbolic links are removed, never followed. Nothing behind a mount point is touched, not even a bind mount of the
    same filesystem: with one below ``path`` this raises ``HostError`` before anything is removed. Directories without
    permissions are removed as well. After a crash or an error, calling it again removes the rest.

    ``unmounted``: the caller has just seen that nothing is mounted there. A mount made since then still ends it.
    """
    with durable.guarded("remove", path):
        if not os.path.lexists(path):
            return False
    if not unmounted:
        check_no_mounts(path)
    with durable.guarded("remove", path), watch.operation(point, "remove-tree", path) as announce_middle:
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        else:
            _empty(path, announce_middle)
            path.rmdir()
    if sync:
        durable.sync_directory(path.parent, point=point)
    return True


def check_no_mounts(path: Path) -> None:
    """Raises ``HostError`` when something is mounted at ``path`` or below it, which must not be removed with it."""
    mounted = mount_points_below(path)
    if mounted:
        raise HostError(
            f"cannot remove {path}: {mounted[0]} is a mount point", hint=f"unmount it first: umount {mounted[0]}"
        )


def disk_usage(path: Path) -> int:
    """Bytes that a file or a tree takes on disk, a file with several links counted once.

    Other filesystems mounted in it do not count, nor does what vanishes meanwhile. Raises ``HostError``.
    """
    total = 0
    seen: set[int] = set()
    with durable.guarded("measure", path):
        device = path.lstat().st_dev
        pending = [os.fsencode(path)]
        while pending:
            current = pending.pop()
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(current)
                if status.st_dev != device or status.st_ino in seen:
                    continue
                if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                    seen.add(status.st_ino)
                total += status.st_blocks * 512  # stat(2): the unit is 512 bytes everywhere
                if stat.S_ISDIR(status.st_mode):
                    pending += [os.path.join(current, name) for name in os.listdir(current)]  # noqa: PTH118, PTH208
    return total


def mount_points_below(path: Path) -> tuple[Path, ...]:
    """The mount points of this mount namespace at or below ``path``, deepest last. ``path`` is taken literally,
    except that its parent directory is resolved."""
    top = os.fsencode(path.parent.resolve() / path.name)
    with durable.guarded("read", Path("/proc/self/mountinfo")):
        text = Path("/proc/self/mountinfo").read_bytes()
    # proc_pid_mountinfo(5): the fifth field, with space, tab, newline and backslash as octal escapes.
    if top not in text and not any(byte in top for byte in b" \t\n\\"):
        return ()  # most of the time; taking a thousand lines apart for every tree would take longer than removing it
    points = {_unescape(line.split(b" ", 5)[4]) for line in text.splitlines()}
    return tuple(
        Path(os.fsdecode(point))
        for point in sorted(points)
        if point == top or point.startswith(top.rstrip(b"/") + b"/")
    )


def _unescape(field: bytes) -> bytes:
    for escape, plain in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        field = field.replace(escape, plain)
    return field


def _empty(path: Path, announce_middle: Callable[[], None] | None) -> None:
    """Removes what is in the directory ``path``, and announces when its own files are gone. Depth costs neither
    descriptors nor stack: directories found on the way are moved up into ``path`` and emptied from there."""
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        top = _open_beneath(parent, path.name)
    finally:
        os.close(parent)
    try:
        pending = _remove_files(top)
        if announce_middle is not None:
            announce_middle()
        taken = set(pending)
        serial = 0
        while pending:
            name = pending.pop()
            directory = _open_beneath(top, name)
            try:
                for child in _remove_files(directory):
                    while (moved := f"moved-{serial}") in taken:
                        serial += 1
                    serial += 1
                    _move(child, directory, moved, top)
                    pending.append(moved)
            finally:
                os.close(directory)
            os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)


def _move(name: str, source: int, moved: str, target: int) -> None:
    try:
        os.rename(name, moved, src_dir_fd=source, dst_dir_fd=target)
    except PermissionError:
        # A directory's parent is written in the directory itself, so moving it takes permission to write there.
        os.chmod(name, 0o700, dir_fd=source)
        os.rename(name, moved, src_dir_fd=source, dst_dir_fd=target)


def _remove_files(directory: int) -> list[str]:
    """Unlinks all but the directories in an open directory, and names those."""
    directories = []
    with os.scandir(directory) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=directory)
    return directories


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _open_beneath(parent: int, name: str) -> int:
    """Opens a directory, unless it is a mount point (EXDEV): the table read beforehand may be out of date by now."""
    try:
        return _openat2(parent, name)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=parent)
        return _openat2(parent, name)


def _openat2(parent: int, name: str) -> int:
    how = _OpenHow(_DIRECTORY, 0, _RESOLVE_NO_XDEV)
    descriptor: int = _libc().syscall(_OPENAT2, parent, os.fsencode(name), ctypes.byref(how), ctypes.sizeof(how))
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return descriptor


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
