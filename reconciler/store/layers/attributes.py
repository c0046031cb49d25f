"""The attributes of files and directories that belong into a layer."""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import TYPE_CHECKING

from reconciler.errors import InvalidError
from reconciler.store.layers import whiteout
from reconciler.store.layers.tree import shown

if TYPE_CHECKING:
    from reconciler.store.layers.lower import PathParts

Xattrs = tuple[tuple[bytes, bytes], ...]

_HOLES = ("trusted.overlay.redirect", "trusted.overlay.metacopy")
# linux/capability.h: revision 3 is revision 2 with the user namespace's root id at its end.
_CAPABILITY = "security.capability"
_CAPABILITY_2, _CAPABILITY_3, _REVISION = 0x02000000, 0x03000000, 0xFF000000


def attributes(path: bytes, status: os.stat_result, parts: PathParts = ()) -> tuple[int, int, int, Xattrs]:
    """Mode, owner, group and extended attributes. Raises as ``xattrs`` does."""
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, xattrs(path, parts)


def xattrs(target: bytes | int, parts: PathParts = ()) -> Xattrs:
    """The extended attributes that belong into a layer, by name: of a link itself, or of an open file.

    Raises ``InvalidError``, naming ``parts``, when overlayfs keeps part of the file elsewhere (a layer made of this one
    would have holes), and for a name that a pax record cannot hold.
    """
    follow = isinstance(target, int)  # a descriptor is what it is; of a path, the link itself
    try:
        keys = os.listxattr(target, follow_symlinks=follow)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return ()
    if not keys:
        return ()
    found = []
    for key in sorted(keys):
        if key in _HOLES:
            raise InvalidError(
                f"{shown(parts)} cannot be stored: overlayfs keeps part of it elsewhere ({key})",
                hint="the kernel's overlay options redirect_dir and metacopy must be off for this store",
            )
        if key.startswith(whiteout.OVERLAY_XATTRS):
            continue
        if "=" in key:
            raise InvalidError(
                f"{shown(parts)} cannot be stored: a layer cannot hold its extended attribute {ascii(key)}",
                hint="its name has a =, which ends a name there; remove it in the container",
            )
        value = os.getxattr(target, key, follow_symlinks=follow)
        found.append((os.fsencode(key), _portable(value) if key == _CAPABILITY else value))
    return tuple(found)


def _portable(capability: bytes) -> bytes:
    """A file capability without the root id of a user namespace, which means nothing on another host."""
    magic = int(struct.unpack_from("<I", capability)[0])
    if magic & _REVISION != _CAPABILITY_3:
        return capability
    return struct.pack("<I", magic & ~_REVISION | _CAPABILITY_2) + capability[4:-4]
