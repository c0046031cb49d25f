"""What is mounted into a container: its name files, volumes, binds, configs and secrets."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

from reconciler.engine.embedded.containers import volumes
from reconciler.engine.embedded.containers.rows import ContainerRow
from reconciler.engine.embedded.containers.spec import StartSpec, anonymous_targets, ordered, plain
from reconciler.engine.embedded.state import State
from reconciler.linux import durable
from reconciler.model.address import Address
from reconciler.model.resources import Container, FileMount
from reconciler.oci.config import ImageConfig
from reconciler.runtime.spec import MountSpec

_NAME_FILES = {"resolv.conf": "/etc/resolv.conf", "hostname": "/etc/hostname", "hosts": "/etc/hosts"}


class ContainerMounts:
    """Safe to use from several threads. Needs the turn."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._filling = threading.Lock()

    def of(self, container: Container, container_id: str, anonymous: Mapping[str, str]) -> tuple[MountSpec, ...]:
        """All mounts, parents first. Writes configs and secrets beside the container; ``anonymous`` is by target."""
        state = self._state
        directory = state.container_dir(container_id)
        overridden = {mount.target for mount in container.mounts}
        found = [
            MountSpec(str(directory / "names" / name), target)
            for name, target in _NAME_FILES.items()
            if target not in overridden
        ]
        for target, volume in anonymous.items():
            found.append(MountSpec(str(state.volumes.get(volume).path(state.root)), target))
        for mount in container.mounts:
            if mount.kind == "bind":
                found.append(MountSpec(mount.source, mount.target, mount.read_only))
            elif mount.kind == "tmpfs":
                found.append(MountSpec("tmpfs", mount.target, mount.read_only, kind="tmpfs"))
            elif mount.source:
                row = state.volumes.at(Address.parse(mount.source))
                found.append(MountSpec(str(row.path(state.root)), mount.target, mount.read_only))
        found += _write_files(directory / "files", (*container.configs, *container.secrets))
        return ordered(found)

    def volume_names(self, container: Container) -> tuple[str, ...]:
        """The named volumes that the container mounts."""
        sources = [mount.source for mount in container.mounts if mount.kind == "volume" and mount.source]
        return tuple(self._state.volumes.at(Address.parse(source)).name for source in sources)

    def anonymous(self, container: Container, image: ImageConfig, inherit: ContainerRow | None) -> dict[str, str]:
        """Target to name of the anonymous volume there, made if need be; those of a predecessor are taken over."""
        inherited = {target: name for name, target in inherit.settings.anonymous} if inherit else {}
        found = {}
        for target in anonymous_targets(container, image):
            name = inherited.get(target) or secrets.token_hex(16)
            volumes.ensure(self._state.root, self._state.volumes, name, form={}, owner="")
            found[target] = name
        return found

    def drop_orphans(self, names: Iterable[str]) -> None:
        """Deletes those of the anonymous volumes that no container has."""
        owned = {name for row in self._state.containers.all() for name, _ in row.settings.anonymous}
        for name in names:
            if name not in owned:
                volumes.delete(self._state.root, self._state.volumes, name)

    def fill(self, spec: StartSpec, rootfs: Path) -> None:
        """Fills volumes that were never used with what the image has at their targets. One thread at a time."""
        root, table = self._state.root, self._state.volumes
        by_path = {str(found.path(root)): found.name for found in table.all().values() if found.fresh}
        if not by_path:
            return
        with self._filling:
            for mount in spec.mounts:
                if mount.source in by_path:
                    # Looked up again: another container may have filled it while we waited.
                    volumes.fill(root, table, table.get(by_path[mount.source]), rootfs, mount.target)


def _write_files(directory: Path, files: tuple[FileMount, ...]) -> list[MountSpec]:
    """Writes configs and secrets: read-only binds, readable as their mode says, below a directory that is closed."""
    if not files:
        return []
    durable.make_directory(directory, point="container.file")
    found = []
    for index, file in enumerate(files):
        path = directory / str(index)
        data = plain(file.content).encode("utf-8", "surrogateescape")
        durable.write_file(path, data, point="container.file", mode=file.mode, owner=(file.uid, file.gid))
        found.append(MountSpec(str(path), file.target, read_only=True))
    return found
