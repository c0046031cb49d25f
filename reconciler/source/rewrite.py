"""Writes a spec file of this host again, as one step and only over what was read."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from reconciler.errors import ConflictError, HostError, ReconcilerError
from reconciler.linux import durable
from reconciler.spec.tree import LocalTree, SpecFile

_ACCESS_LIST = "system.posix_acl_access"


def place_of(file: SpecFile) -> Path:
    """The file itself, where its path is a symbolic link or leads through some."""
    return Path(os.path.realpath(file.path))


def rewrite(file: SpecFile, data: bytes) -> None:
    """Makes the file hold ``data``, with the mode, owner and access list that it has; a symbolic link to it stays one.

    It holds the old content or the new at every moment, and keeps the old when that is not what ``file`` was read as:
    then ``ConflictError`` is raised. Raises ``HostError`` when it cannot be written, also if only its mode forbids it.
    """
    place = place_of(file)
    _require_unchanged(file, place)
    if not os.access(place, os.W_OK):
        raise HostError(f"{file.path} may not be written", hint="make it writable, or run as the user that owns it")
    with durable.guarded("read", place):
        status = place.stat()
    owner = status.st_uid, status.st_gid
    durable.write_file(
        place,
        data,
        point="spec.rewrite",
        mode=stat.S_IMODE(status.st_mode),
        owner=owner,
        attributes=_attributes(place),
        check=lambda: _require_unchanged(file, place),
    )


def _attributes(place: Path) -> dict[str, bytes]:
    """Those that belong to the file and its owner: what the kernel and its modules keep there, they make anew.

    Without its access list, a file's mode would let its group do what only the list's mask allowed.
    """
    try:
        kept = (name for name in os.listxattr(place) if name.startswith("user.") or name == _ACCESS_LIST)
        return {name: os.getxattr(place, name) for name in kept}
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENODATA):
            return {}
        raise durable.host_error(error, "read the attributes of", place) from error


def _require_unchanged(file: SpecFile, place: Path) -> None:
    try:
        same = LocalTree().read("", str(place), len(file.data)) == file.data
    except ReconcilerError:  # gone, grown, or no file any more
        same = False
    if not same:
        raise ConflictError(
            f"{file.path} changed while it was looked at, and was left as it is", hint="run the command again"
        )
