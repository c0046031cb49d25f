"""Unpacking damaged layers again from their blobs.

Overlayfs does not allow changes in a lower layer that is mounted ("Changes to underlying filesystems", overlayfs.rst),
so a layer below a running container is left alone until that is stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from reconciler.engine.embedded.images.unpacking import unpack_image
from reconciler.errors import ReconcilerError
from reconciler.linux import durable
from reconciler.linux.tree import remove_tree
from reconciler.oci.digest import Digest
from reconciler.store.check.damage import Repaired
from reconciler.store.quarantine import Quarantine

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.engine.embedded.containers.rows import ContainerRow
    from reconciler.engine.embedded.machinery import Machinery
    from reconciler.store.images import ImageRecord
    from reconciler.store.layers.table import Layer

_POINT = "repair.layer"


class LayerRepair:
    """Needs the turn. The blobs that the layers are made of have been checked before."""

    def __init__(self, machinery: Machinery) -> None:
        self._machinery = machinery
        self._state = machinery.state

    def run(self, chain_ids: Iterable[Digest]) -> Iterator[Repaired]:
        for chain_id in chain_ids:
            try:
                yield Repaired("layer", chain_id, *self._again(chain_id))
            except ReconcilerError as error:
                yield Repaired("layer", chain_id, False, f"{error}" + (f" ({error.hint})" if error.hint else ""))

    def _again(self, chain_id: Digest) -> tuple[bool, str]:
        users = [row for row in self._state.containers.all() if chain_id.hex in self._lies_on(row)]
        running = [row.shown for row in users if self._machinery.containers.state_of(row).running]
        if running:
            return False, f"it is mounted below the running {', '.join(running)}: stop that, then repair again"
        image = self._whole_image(chain_id)
        if image is None:
            return False, "no image is here whose blobs it could be unpacked from: pull the image again"
        for row in users:
            self._machinery.containers.take_down(row)
        known = self._state.layers.get(chain_id)
        moved = self._put_aside(chain_id)
        try:
            unpack_image(self._state, image.digest)
        except BaseException:
            # What is damaged in one file may still run: better than nothing to run.
            if known is not None:
                self._put_back(known, moved)
            raise
        kept = f"; the damaged one is kept in {moved[0][1]}" if moved else ""
        return True, f"unpacked again from its blob{kept}"

    def _lies_on(self, row: ContainerRow) -> set[str]:
        try:
            return {layer.name for layer in self._state.snapshots.get(row.id).lowers}
        except (ReconcilerError, ValueError, OSError):
            image = self._state.images.get(row.image)
            return {chain_id.hex for chain_id in image.chain_ids} if image is not None else set()

    def _whole_image(self, chain_id: Digest) -> ImageRecord | None:
        for image in self._state.images.list():
            if chain_id in image.chain_ids and all(self._state.content.has(layer.digest) for layer in image.layers):
                return image
        return None

    def _put_aside(self, chain_id: Digest) -> list[tuple[Path, Path]]:
        """Where the directory and the list of its files were, and where they are now.

        The row goes first: a crash after it leaves a layer that is not unpacked, which the next use makes again.
        """
        with self._state.database.transaction() as connection:
            connection.execute("DELETE FROM layers WHERE chain_id = ?", (chain_id,))
        quarantine = Quarantine(self._state.root)
        places = (self._state.layers.path(chain_id), self._state.layers.files(chain_id))
        return [(place, aside) for place in places if (aside := quarantine.take(place, "layer")) is not None]

    def _put_back(self, layer: Layer, moved: list[tuple[Path, Path]]) -> None:
        for place, aside in moved:
            remove_tree(place, point=_POINT)  # of a list, what a failed unpack may have left
            durable.rename(aside, place, point=_POINT)
        with self._state.database.transaction() as connection:
            connection.execute(
                "INSERT INTO layers (chain_id, parent, diff_id, blob, size, entries) VALUES (?, ?, ?, ?, ?, ?)",
                (layer.chain_id, layer.parent, layer.diff_id, layer.blob or "", layer.size, layer.entries),
            )
