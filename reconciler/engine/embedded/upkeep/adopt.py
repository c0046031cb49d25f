"""Rows for containers and volumes whose rows are lost, made from what their directories tell."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from reconciler.engine.embedded.containers.rows import ContainerRow, Settings
from reconciler.engine.embedded.containers.spec import StartSpec
from reconciler.engine.embedded.containers.volumes import VolumeRow
from reconciler.engine.embedded.state import WriterState
from reconciler.errors import ConflictError, HostError
from reconciler.oci.digest import Digest
from reconciler.runtime.runtime import Runtime
from reconciler.store.check.claims import MALFORMED
from reconciler.store.check.damage import Repaired
from reconciler.store.quarantine import Quarantine

_UNUSABLE = (OSError, sqlite3.Error, *MALFORMED)


def adopt_containers(state: WriterState) -> Iterator[Repaired]:
    """Makes a row for every container's directory that has none. What cannot be adopted is kept in the quarantine: a
    directory without a row would be swept. Raises ``HostError`` when something cannot be written.
    """
    known = {str(row["id"]) for row in state.database.query("SELECT id FROM containers")}
    tasks = set(Runtime(state.run).ids())
    for directory in sorted(_directories(state.root / "containers")):
        if directory.name in known:
            continue
        try:
            row = _row(state, directory)
            try:
                state.containers.add(row)
            except ConflictError:  # another, younger or older, has its name; this one is still reachable by its id
                row = _renamed(row)
                state.containers.add(row)
        except HostError:
            raise
        except _UNUSABLE as error:
            aside = Quarantine(state.root).take(directory, "container")
            text = f"it cannot be adopted ({error}); its files are kept in {aside}"
            yield Repaired("container", directory.name, False, text)
            continue
        if directory.name in tasks or (directory / "exit").is_dir():
            state.containers.update(row.id, run=1, started_at=row.created_at)
        text = f"found on disk, and adopted as {row.shown}"
        if directory.name in tasks and row.settings.networks:
            text += "; its place on the network is not on record: restart it"
        yield Repaired("container", row.id, True, text)


def adopt_volumes(state: WriterState) -> Iterator[Repaired]:
    """Makes a row for the data of every volume of a stack that has none; the next apply takes it up."""
    known = {str(row["directory"]) for row in state.database.query("SELECT directory FROM volumes")}
    owned = {name for row in state.containers.all() for name, _ in row.settings.anonymous}
    for stack in sorted(_directories(state.root / "volumes")):
        if stack.name.startswith("."):
            continue
        for path in sorted(_directories(stack)):
            directory = f"{stack.name}/{path.name}"
            name = path.name if stack.name == "anonymous" else directory
            # An anonymous volume that no container is known to have would be deleted if it had a row.
            if directory in known or (stack.name == "anonymous" and name not in owned):
                continue
            state.volumes.set(VolumeRow(name, {}, "", directory, fresh=False))
            yield Repaired("volume", name, True, "its data were found on disk, and recorded again")


def _row(state: WriterState, directory: Path) -> ContainerRow:
    text = (directory / "spec.json").read_text()
    record = json.loads(text).get("record")
    if record is not None:
        return ContainerRow.from_record(directory.name, record)
    spec = StartSpec.from_json(text)
    settings = Settings(
        args=spec.process.args, hostname=spec.hostname, stubs=tuple(mount.target for mount in spec.mounts)
    )
    image, created = _image_of(state, directory), (directory / "spec.json").stat().st_mtime
    return _renamed(ContainerRow(directory.name, None, None, {}, settings, image, created))


def _renamed(row: ContainerRow) -> ContainerRow:
    """By its own name nobody's: no stack claims it any more, and nothing removes it but a person."""
    return ContainerRow(row.id, f"recovered_{row.short_id}", None, {}, row.settings, row.image, row.created_at)


def _image_of(state: WriterState, directory: Path) -> Digest:
    """The image that lies on exactly the layers of a container."""
    layers = tuple(Digest(line) for line in (directory / "layers").read_text().split())
    for image in state.images.list():
        if image.chain_ids == layers:
            return image.digest
    raise ValueError("no image with its layers is on this host")


def _directories(top: Path) -> list[Path]:
    return [path for path in top.iterdir() if path.is_dir() and not path.is_symlink()] if top.is_dir() else []
