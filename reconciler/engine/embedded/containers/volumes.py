"""Volumes: directories under ROOT/volumes that outlive the containers that use them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.engine.embedded.records import dump
from reconciler.errors import ConflictError, HostError, NotFoundError
from reconciler.linux import durable, watch
from reconciler.linux.discards import Discards
from reconciler.linux.rooted import Rooted
from reconciler.linux.tree import mount_points_below
from reconciler.model.address import Address
from reconciler.model.canonical import Form
from reconciler.value import dataclass

if TYPE_CHECKING:
    from reconciler.store.database import Database


@dataclass(frozen=True, slots=True)
class VolumeRow:
    """``owner`` is the volume's address while a stack declares it, else empty; ``fresh`` until it was first used."""

    name: str
    form: Form
    owner: str
    directory: str
    fresh: bool

    @property
    def anonymous(self) -> bool:
        """Whether it belongs to one container, and goes when that goes."""
        return not self.owner and "/" not in self.name

    def path(self, root: Path) -> Path:
        return root / "volumes" / self.directory / "data"


class VolumeTable:
    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> Mapping[str, VolumeRow]:
        """By name, in order."""
        rows = self._database.query("SELECT * FROM volumes ORDER BY name")
        return {
            row["name"]: VolumeRow(
                row["name"], json.loads(row["form"]), row["owner"], row["directory"], bool(row["fresh"])
            )
            for row in rows
        }

    def get(self, name: str) -> VolumeRow:
        """Raises ``NotFoundError``."""
        row = self.all().get(name)
        if row is None:
            raise NotFoundError(f"no volume {name}", hint="declare it under `volumes:` in the specs")
        return row

    def at(self, address: Address) -> VolumeRow:
        """The volume of a stack, or for an external one that of its name without a stack. Raises ``NotFoundError``."""
        rows = self.all()
        return rows.get(address.name) or self.get(address.short)

    def set(self, row: VolumeRow) -> None:
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO volumes VALUES (?, ?, ?, ?, ?)",
                (row.name, dump(row.form), row.owner, row.directory, row.fresh),
            )

    def used(self, name: str) -> None:
        """Notes that a container has filled the volume from its image, so that none does again."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE volumes SET fresh = 0 WHERE name = ?", (name,))

    def drop(self, name: str) -> None:
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM volumes WHERE name = ?", (name,))


def ensure(root: Path, table: VolumeTable, name: str, *, form: Form, owner: str) -> VolumeRow:
    """The volume ``name``, made if it is not there. One that had left its stack is taken up again, data and all."""
    known = table.all().get(name)
    directory = known.directory if known else (name if "/" in name else f"anonymous/{name}")
    row = VolumeRow(name, form, owner, directory, known.fresh if known else True)
    path = row.path(root)
    for part in (root / "volumes", root / "volumes" / Path(directory).parent, path.parent, path):
        if not path.is_dir():
            durable.make_directory(part, point="volume.directory", mode=0o755 if part == path else 0o700)
    if row != known:
        table.set(row)
    return row


def delete(root: Path, table: VolumeTable, name: str) -> None:
    """Deletes a volume and its data; a no-op for one that is not there. Refuses while something is mounted in it.

    The data go first, in one step: after a crash, a volume of this name begins empty and never with half of the old.
    Their bytes go when ``Discards.empty`` is called.
    """
    row = table.all().get(name)
    if row is None:
        return
    place = row.path(root).parent
    if mounted := mount_points_below(place):
        raise HostError(f"cannot delete volume {name}: {mounted[0]} is a mount point", hint=f"umount {mounted[0]}")
    Discards(root).put(place)
    table.drop(name)


def fill(root: Path, table: VolumeTable, row: VolumeRow, rootfs: Path, target: str) -> None:
    """Copies what the image has at ``target`` into a volume that was never used, as Docker does.

    ``target`` is resolved inside ``rootfs``: a symbolic link there cannot lead to the host (CVE-2022-23648).
    """
    if not row.fresh:
        return
    destination = row.path(root)
    inside = Rooted(rootfs)
    try:
        handle = os.open(inside.locate(target), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, NotFoundError):
        table.used(row.name)
        return
    finally:
        inside.close()
    try:
        with durable.guarded("fill", destination), watch.operation("volume.fill", "entry", destination):
            copied = subprocess.run(
                ["cp", "-a", "--", f"/proc/self/fd/{handle}/.", str(destination)],
                pass_fds=(handle,),
                capture_output=True,
                text=True,
                check=False,
                process_group=0,  # Ctrl-C is ours to take: what runs is finished
            )
    finally:
        os.close(handle)
    if copied.returncode != 0:
        raise HostError(f"cannot fill volume {row.name}: {copied.stderr.strip()[:500]}", hint="free space, then again")
    # Once it counts as used it is never filled again: all of it is on disk before.
    durable.sync_filesystem(destination, point="volume.fill")
    table.used(row.name)


def check_unused(name: str, users: list[str]) -> None:
    """Raises ``ConflictError`` naming the containers that use the volume."""
    if users:
        raise ConflictError(f"volume {name} is used by {', '.join(users)}", hint="remove those containers first")


def disown(table: VolumeTable, row: VolumeRow) -> None:
    """The volume leaves its stack and keeps its data; declared again, it is taken up again."""
    table.set(replace(row, owner=""))
