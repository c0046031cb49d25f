"""Emptying a directory whatever is in it: names of any bytes, trees of any depth."""

from __future__ import annotations

import itertools
import os

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def empty_directory(directory: int) -> None:
    """Removes everything inside a directory. Raises ``OSError``; ``EBUSY`` stands for a mount.

    Subdirectories are first moved up into ``directory`` itself and emptied there, so that no depth of nesting costs
    descriptors, stack or path length.
    """
    names = (f".removing-{number}".encode() for number in itertools.count())
    doomed: list[bytes] = []

    def clear(handle: int) -> None:
        for name, is_directory in entries(handle):
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


def entries(directory: int) -> list[tuple[bytes, bool]]:
    """The names in a directory, each with whether it is a directory itself."""
    # scandir on a descriptor gives text; surrogateescape brings every name back to its bytes.
    with os.scandir(directory) as found:
        return [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in found]


def _exists(name: bytes, directory: int) -> bool:
    try:
        os.lstat(name, dir_fd=directory)
    except FileNotFoundError:
        return False
    return True
