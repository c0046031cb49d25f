"""Whiteouts: how a layer says that something below it is gone.

In archives (OCI image-spec, layer.md, "Whiteouts") they are names; on overlayfs (kernel documentation, overlayfs.rst,
"whiteouts and opaque directories") they are character devices 0:0 and an extended attribute.
"""

from __future__ import annotations

import os
import stat

PREFIX = b".wh."
OPAQUE_NAME = b".wh..wh..opq"
# What aufs kept in a layer for itself; old archives still have it.
LEGACY_NAMES = frozenset({b".wh..wh.plnk", b".wh..wh.aufs", b".wh..wh.orph"})

OPAQUE_XATTR = "trusted.overlay.opaque"
OPAQUE_VALUE = b"y"
# Everything below these steers overlayfs itself. It is neither taken from an archive nor put into one.
OVERLAY_XATTRS = ("trusted.overlay.", "user.overlay.")


def is_whiteout(status: os.stat_result) -> bool:
    """Whether ``status`` is that of overlayfs's whiteout."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(path: bytes | int) -> bool:
    """Whether a directory (by path or descriptor) hides everything that lower layers have in its place."""
    try:
        return os.getxattr(path, OPAQUE_XATTR) == OPAQUE_VALUE
    except OSError:  # ENODATA; or ENOTSUP, where there can be no mark either
        return False
