"""ROOT/containers: the writable layer of each container, and its overlay mount."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING

from reconciler.errors import NotFoundError
from reconciler.linux import durable, mounts
from reconciler.linux.discards import Discards
from reconciler.linux.tree import disk_usage, remove_tree
from reconciler.oci.digest import Digest
from reconciler.store.layers import whiteout
from reconciler.value import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_POINT = "snapshots"
# Files beside the writable layer: the chain IDs it lies on, lowest first, and what stands in when there are none.
_LAYERS = "layers"
_EMPTY = "empty"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A writable layer over ``lowers`` (top first): what a mount of a container's root filesystem needs."""

    upper: Path
    work: Path
    lowers: tuple[Path, ...]


class Snapshots:
    """The writable layers of one root, named by container. They outlive their mounts, and the host's reboots."""

    def __init__(self, root: Path) -> None:
        self._containers = root / "containers"
        self._discards = Discards(root)
        self._layers = root / "layers"

    def path(self, container_id: str) -> Path:
        """ROOT/containers/<id>, which also holds the container's other files."""
        if not container_id or "/" in container_id or container_id.startswith("."):
            raise ValueError(f"not a container id: {container_id!r}")
        return self._containers / container_id

    def upper(self, container_id: str) -> Path:
        """The writable layer's directory. Raises ``NotFoundError`` when there is none."""
        upper = self.path(container_id) / "upper"
        if not upper.is_dir():
            raise NotFoundError(f"container {container_id} has no writable layer", hint="remove the container")
        return upper

    def create(self, container_id: str, chain_ids: Sequence[Digest]) -> Snapshot:
        """Makes a writable layer over an image's unpacked layers (lowest first), if it is not there yet.

        Its root begins with the attributes of the topmost layer's, for that is what the container sees as ``/``. An
        image without layers is an empty directory. Raises ``NotFoundError`` when a layer is not unpacked.
        """
        path = self.path(container_id)
        for directory in (self._containers, path, path / "work"):
            durable.make_directory(directory, point=_POINT)
        if not chain_ids:
            durable.make_directory(path / _EMPTY, point=_POINT, mode=0o755)
        if not (path / "upper").is_dir():
            fresh = path / ".upper"
            lowers = self._lowers(container_id, chain_ids)
            remove_tree(fresh, point=_POINT)
            durable.make_directory(fresh, point=_POINT, sync=False)
            with durable.guarded("make directory", fresh):
                _copy_attributes(lowers[0], fresh)
            durable.sync_directory(fresh, point=_POINT)
            durable.write_file(path / _LAYERS, "".join(f"{chain}\n" for chain in chain_ids).encode(), point=_POINT)
            durable.rename(fresh, path / "upper", point=_POINT)
        return self.get(container_id)

    def get(self, container_id: str) -> Snapshot:
        """The snapshot as it was created. Raises ``NotFoundError`` when it or one of its layers is gone."""
        upper = self.upper(container_id)
        return Snapshot(upper, upper.with_name("work"), self._lowers(container_id, self.chain_ids(container_id)))

    def chain_ids(self, container_id: str) -> tuple[Digest, ...]:
        """The layers that the writable layer lies on, lowest first. Raises ``NotFoundError`` when there is none."""
        path = self.path(container_id) / _LAYERS
        with durable.guarded("read", path):
            try:
                return tuple(Digest(line) for line in path.read_text().split())
            except FileNotFoundError:
                raise NotFoundError(
                    f"container {container_id} has no writable layer", hint="remove the container"
                ) from None

    def mount(self, container_id: str, target: Path) -> None:
        """Mounts the container's root filesystem at ``target``, an existing directory; no-op if it is mounted."""
        if not mounts.is_mounted(target):
            snapshot = self.get(container_id)
            mounts.mount(mounts.Overlay(snapshot.lowers, snapshot.upper, snapshot.work, target), point=_POINT)

    def unmount(self, target: Path) -> None:
        """Unmounts it and whatever is mounted below it. No-op when it is not mounted. Raises ``HostError`` if busy."""
        for place in mounts.mounts_below(target):
            mounts.unmount(place, point=_POINT)

    def remove(self, container_id: str) -> bool:
        """Takes away the writable layer and all else of the container; False when there is none. The bytes go when
        ``Discards.empty`` is called.

        Unmounts first what is mounted below it. Raises ``HostError`` when something stays mounted: what a mount shows
        (a user's data) is never touched.
        """
        path = self.path(container_id)
        self.unmount(path)
        return self._discards.put(path)

    def usage(self, container_id: str) -> int:
        """Bytes that the writable layer takes on disk."""
        return disk_usage(self.upper(container_id))

    def fingerprint(self, container_id: str) -> str:
        """A digest of the writable layer's metadata: equal as long as nothing in it was changed.

        The change time is part of it, which no program can set back: content and attributes need not be read.
        """
        hasher = hashlib.sha256()
        upper = self.upper(container_id)
        base = os.fsencode(upper)
        with durable.guarded("read", upper):
            pending = [base]
            while pending:
                path = pending.pop()
                status = os.lstat(path)
                fields = (status.st_mode, status.st_uid, status.st_gid, status.st_rdev, status.st_mtime_ns)
                is_directory = stat.S_ISDIR(status.st_mode)
                # The size of a directory depends on its past, its change time on the mounts made over it.
                content = _xattrs(path) if is_directory else (status.st_size, status.st_ctime_ns)
                hasher.update(b"%s\0%s\n" % (path[len(base) :], repr(fields + content).encode()))
                if is_directory:
                    pending += sorted(path + b"/" + name for name in os.listdir(path))  # noqa: PTH208 - bytes
        return hasher.hexdigest()

    def _lowers(self, container_id: str, chain_ids: Sequence[Digest]) -> tuple[Path, ...]:
        lowers = tuple(self._layers / chain.hex for chain in reversed(chain_ids))
        for lower in lowers:
            if not lower.is_dir():
                raise NotFoundError(f"layer sha256:{lower.name} is not unpacked", hint="pull the image again")
        # overlayfs wants at least one lower directory.
        return lowers or (self.path(container_id) / _EMPTY,)


def _xattrs(path: bytes) -> tuple[object, ...]:
    """The extended attributes of a directory that are no bookkeeping of overlayfs's."""
    own = (whiteout.OPAQUE_XATTR,)
    keys = sorted(key for key in os.listxattr(path) if key in own or not key.startswith(whiteout.OVERLAY_XATTRS))
    return tuple((key, os.getxattr(path, key)) for key in keys)


def _copy_attributes(source: Path, target: Path) -> None:
    status = source.lstat()
    os.chown(target, status.st_uid, status.st_gid)
    target.chmod(stat.S_IMODE(status.st_mode))
    for key in os.listxattr(source):
        if not key.startswith(whiteout.OVERLAY_XATTRS):
            os.setxattr(target, key, os.getxattr(source, key))
    os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))
