"""Extended attributes that an archive asks for, as far as they may and can be set."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from reconciler.errors import InvalidError
from reconciler.log import Logger
from reconciler.store.layers import whiteout

if TYPE_CHECKING:
    from collections.abc import Iterable

Xattrs = tuple[tuple[bytes, bytes], ...]

_log = Logger("store")
_UNSUPPORTED = (errno.ENOTSUP, errno.EPERM)
_CAPABILITY = b"security.capability"
_ACCESS_LIST = "system.posix_acl_access"
# ext4 keeps a file's attributes in one block, and calls a full one a full disk.
_TOO_MUCH = (errno.ENOSPC, errno.E2BIG, errno.ERANGE)


def set_xattrs(target: int | bytes, xattrs: Iterable[tuple[bytes, bytes]], where: str, *, is_file: bool) -> Xattrs:
    """Sets extended attributes of a descriptor or, by a path, of the link itself; those that were set.

    Those that steer overlayfs are dropped, those that the filesystem does not have are left out, both with a note.
    Raises ``InvalidError`` for more than the filesystem can store for one file, and ``OSError`` when a file's
    capabilities cannot be set: a program without them is another program.
    """
    done = []
    for key, value in xattrs:
        if os.fsdecode(key).startswith(whiteout.OVERLAY_XATTRS):
            _log.warning("extended-attribute-dropped", path=where, key=ascii(key))
            continue
        try:
            if isinstance(target, int):
                os.setxattr(target, key, value)
            else:
                os.setxattr(target, key, value, follow_symlinks=False)
        except OSError as error:
            if error.errno in _TOO_MUCH and isinstance(target, int) and os.statvfs(target).f_bavail:
                raise InvalidError(f"{where} has more extended attributes than a file can have on this disk") from None
            if error.errno not in _UNSUPPORTED or (is_file and key == _CAPABILITY):
                raise
            _log.info("extended-attribute-unsupported", path=where, key=ascii(key))
            continue
        done.append((key, value))
    return tuple(done)


def drop_inherited(target: int | bytes) -> None:
    """Takes away the access list that a new file got from a default of its directory: the archive gave it none."""
    try:
        os.removexattr(target, _ACCESS_LIST)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP):
            raise
