"""ROOT/containers: the writable layer of each container, and its overlay mount."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.errors import HostError, NotFoundError
from reconciler.linux import durable, mounts
from reconciler.store import whiteout
from reconciler.store.trees import disk_usage, remove_tree

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_POINT = "snapshots"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A writable layer over ``lowers`` (top first): what a mount of a container's root filesystem needs."""

    upper: Path
    work: Path
    lowers: tuple[Path, ...]


class Snapshots:
    """The writable layers of one root, named by container. They outlive their mounts, and the host's reboots."""

    def __init__(self, root: Path) -> None:
        self.directory = root / "containers"

    def path(self, container_id: str) -> Path:
        """ROOT/containers/<id>, which also holds the container's other files."""
        if not container_id or "/" in container_id or container_id.startswith("."):
            raise ValueError(f"not a container id: {container_id!r}")
        return self.directory / container_id

    def create(self, container_id: str, lowers: Sequence[Path]) -> Snapshot:
        """Makes the writable layer if it is not there yet, over unpacked layers (top first; see ``Layers.stack``).

        Its root begins with the attributes of the topmost layer's, for that is what the container sees as ``/``. An
        image without layers is an empty directory.
        """
        path = self.path(container_id)
        durable.make_directory(self.directory, point=_POINT)
        durable.make_directory(path, point=_POINT)
        work, empty = path / "work", path / "empty"
        durable.make_directory(work, point=_POINT)
        if not lowers:
            # overlayfs wants at least one lower directory.
            durable.make_directory(empty, point=_POINT, mode=0o755)
        snapshot = Snapshot(path / "upper", work, tuple(lowers) or (empty,))
        if not snapshot.upper.is_dir():
            fresh = path / ".upper"
            remove_tree(fresh)
            with durable.guarded("make directory", fresh):
                fresh.mkdir(0o700)
                _copy_attributes(snapshot.lowers[0], fresh)
            durable.rename(fresh, snapshot.upper, point=_POINT)
        return snapshot

    def mount(self, snapshot: Snapshot, target: Path) -> None:
        """Mounts the container's root filesystem at ``target``, an existing directory; no-op if it is mounted."""
        if not mounts.is_mounted(target):
            mounts.mount(mounts.Overlay(snapshot.lowers, snapshot.upper, snapshot.work, target))

    def unmount(self, target: Path) -> None:
        """Unmounts it and whatever is mounted below it. No-op when it is not mounted. Raises ``HostError`` if busy."""
        for place in mounts.mounts_below(target):
            mounts.unmount(place)

    def remove(self, container_id: str) -> bool:
        """Removes the writable layer and all else of the container; False when there is none.

        Unmounts first what is mounted below it, and goes no further when something stays mounted: what lies under a
        mount (a user's data) is never touched.
        """
        path = self.path(container_id)
        self.unmount(path)
        left = mounts.mounts_below(path)
        if left:
            raise HostError(f"cannot remove {path}: {left[0]} is still mounted", hint=f"umount {left[0]}")
        return remove_tree(path)

    def usage(self, container_id: str) -> int:
        """Bytes that the writable layer takes on disk."""
        return disk_usage(self._upper(container_id))

    def fingerprint(self, container_id: str) -> str:
        """A digest of the writable layer's metadata: equal as long as nothing in it was changed.

        The change time is part of it, which no program can set back: content and attributes need not be read.
        """
        hasher = hashlib.sha256()
        upper = self._upper(container_id)
        base = os.fsencode(upper)
        with durable.guarded("read", upper):
            pending = [base]
            while pending:
                path = pending.pop()
                status = os.lstat(path)
                fields = (status.st_mode, status.st_uid, status.st_gid, status.st_rdev, status.st_mtime_ns)
                is_directory = stat.S_ISDIR(status.st_mode)
                # The size of a directory depends on its past, its change time on the mounts made over it.
                content = () if is_directory else (status.st_size, status.st_ctime_ns)
                hasher.update(b"%s\0%s\n" % (path[len(base) :], repr(fields + content).encode()))
                if is_directory:
                    pending += sorted(path + b"/" + name for name in os.listdir(path))  # noqa: PTH208 - bytes
        return hasher.hexdigest()

    def _upper(self, container_id: str) -> Path:
        upper = self.path(container_id) / "upper"
        if not upper.is_dir():
            raise NotFoundError(f"container {container_id} has no writable layer", hint="remove the container")
        return upper


def _copy_attributes(source: Path, target: Path) -> None:
    status = source.lstat()
    os.chown(target, status.st_uid, status.st_gid)
    target.chmod(stat.S_IMODE(status.st_mode))
    for key in os.listxattr(source):
        if not key.startswith(whiteout.OVERLAY_XATTRS):
            os.setxattr(target, key, os.getxattr(source, key))
    os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))
