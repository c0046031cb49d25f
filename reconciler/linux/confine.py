"""Giving up what a process does not need: the rest of the file system, capabilities, new privileges.

For small helper processes that handle hostile data. Nothing here can be taken back.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# include/uapi/linux/capability.h
CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, SYS_CHROOT, SYS_ADMIN, MKNOD, SETFCAP = (
    0, 1, 2, 3, 4, 18, 21, 27, 31,
)  # fmt: skip
_VERSION_3 = 0x20080522
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_LAST = 63


def keep_only(capabilities: Iterable[int]) -> None:
    """Drops all other capabilities of this thread, for good: nothing that it executes gets them back.

    To be called before other threads are started. Raises ``OSError``.
    """
    kept = sum(1 << number for number in capabilities)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        _fail()
    for number in range(_LAST):
        if not kept >> number & 1 and libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
            break  # EINVAL: the kernel has no more of them; or EPERM: there is nothing to drop
    low, high = kept & 0xFFFFFFFF, kept >> 32
    header = struct.pack("=Ii", _VERSION_3, 0)
    current = ctypes.create_string_buffer(24)
    if libc.capget(header, current) != 0:
        _fail()
    had = struct.unpack("=6I", current.raw)
    # A process may already lack some of them.
    low, high = low & had[1], high & had[4]
    if libc.capset(header, struct.pack("=6I", low, low, 0, high, high, 0)) != 0:
        _fail()


def enter_root(directory: int) -> None:
    """Makes an open directory this process's root and working directory. Raises ``OSError``."""
    os.fchdir(directory)
    os.chroot(".")


def import_no_more() -> None:
    """Lets Python import nothing from files any more, whatever lies where its library used to be."""
    from importlib.machinery import BuiltinImporter, FrozenImporter

    sys.path.clear()
    sys.path_importer_cache.clear()
    sys.meta_path[:] = [BuiltinImporter, FrozenImporter]


def _fail() -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))
