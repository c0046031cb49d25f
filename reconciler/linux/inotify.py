"""Waiting for a change in a directory, without a library that costs more to import than most commands take."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from types import TracebackType
from typing import Self

# inotify(7)
_MODIFY, _CREATE, _MOVED_TO, _CLOSE_WRITE = 0x2, 0x100, 0x80, 0x8
_libc = ctypes.CDLL(None, use_errno=True)


class DirectoryWatch:
    """A descriptor that is readable once a file in ``directory`` was made, written or moved there."""

    def __init__(self, directory: Path) -> None:
        self.descriptor = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), directory)
        try:
            events = _MODIFY | _CREATE | _MOVED_TO | _CLOSE_WRITE
            _checked(_libc.inotify_add_watch(self.descriptor, os.fsencode(directory), events), directory)
        except OSError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def clear(self) -> None:
        """Forgets what happened so far. Call it before looking, not after, and nothing is missed."""
        try:
            while os.read(self.descriptor, 65536):
                pass
        except BlockingIOError:
            return

    def close(self) -> None:
        os.close(self.descriptor)


def _checked(result: int, directory: Path) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(directory))
    return result
