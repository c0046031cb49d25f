"""Removing and measuring directory trees that others filled."""

from __future__ import annotations

import itertools
import os
import stat
from typing import TYPE_CHECKING

from reconciler.linux import durable

if TYPE_CHECKING:
    from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: Path) -> bool:
    """Removes a directory and all below it, never following a link; False when it was not there.

    Raises ``HostError`` at the first thing that cannot be removed. What is mounted below stays untouched: the kernel
    refuses to rename a mount point, and nothing is entered before it was renamed.
    """
    with durable.guarded("remove", path):
        try:
            directory = os.open(path, _DIRECTORY)
        except FileNotFoundError:
            return False
        try:
            empty_directory(directory)
        finally:
            os.close(directory)
        path.rmdir()
    return True


def empty_directory(directory: int) -> None:
    """Removes everything inside a directory. Raises ``OSError``; ``EBUSY`` stands for a mount.

    Subdirectories are first moved up into ``directory`` itself and emptied there, so that no depth of nesting costs
    descriptors, stack or path length.
    """
    names = (f".removing-{number}".encode() for number in itertools.count())
    doomed: list[bytes] = []

    def clear(handle: int) -> None:
        for entry in _entries(handle):
            name, is_directory = entry
            if not is_directory:
                os.unlink(name, dir_fd=handle)
                continue
            target = next(names)
            while _exists(target, directory):
                target = next(names)
            os.rename(name, target, src_dir_fd=handle, dst_dir_fd=directory)
            doomed.append(target)

    clear(directory)
    while doomed:
        name = doomed.pop()
        child = os.open(name, _DIRECTORY, dir_fd=directory)
        try:
            clear(child)
        finally:
            os.close(child)
        os.rmdir(name, dir_fd=directory)


def disk_usage(path: Path) -> int:
    """Bytes that a tree takes on disk, a file with several links counted once. Other filesystems do not count."""
    total = 0
    seen: set[int] = set()
    with durable.guarded("measure", path):
        device = os.lstat(path).st_dev
        pending = [os.fsencode(path)]
        while pending:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    if status.st_dev != device:
                        continue
                    if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                        if status.st_ino in seen:
                            continue
                        seen.add(status.st_ino)
                    total += status.st_blocks * 512  # stat(2): the unit is 512 bytes everywhere
                    if stat.S_ISDIR(status.st_mode):
                        pending.append(entry.path)
    return total


def _entries(directory: int) -> list[tuple[bytes, bool]]:
    # scandir on a descriptor gives text; surrogateescape brings every name back to its bytes.
    with os.scandir(directory) as entries:
        return [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]


def _exists(name: bytes, directory: int) -> bool:
    try:
        os.lstat(name, dir_fd=directory)
    except FileNotFoundError:
        return False
    return True
