"""Extended attributes that an archive asks for, as far as they may and can be set."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from reconciler.log import Logger
from reconciler.store import whiteout

if TYPE_CHECKING:
    from collections.abc import Iterable

Xattrs = tuple[tuple[bytes, bytes], ...]

_log = Logger("store")
_UNSUPPORTED = (errno.ENOTSUP, errno.EPERM)
_CAPABILITY = b"security.capability"


def set_xattrs(target: int | bytes, xattrs: Iterable[tuple[bytes, bytes]], where: str, *, is_file: bool) -> Xattrs:
    """Sets extended attributes of a descriptor or, by a path, of the link itself; those that were set.

    Those that steer overlayfs are dropped, those that the filesystem does not have are left out, both with a note.
    Raises ``OSError`` when a file's capabilities cannot be set: a program without them is another program.
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
            if error.errno not in _UNSUPPORTED or (is_file and key == _CAPABILITY):
                raise
            _log.info("extended-attribute-unsupported", path=where, key=ascii(key))
            continue
        done.append((key, value))
    return tuple(done)
