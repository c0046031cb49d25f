"""ROOT/layers: unpacked layers, each named by its chain ID, ready to be mounted.

A layer is ready when it has a row in the database; then its directory is complete, durable, and never changes again.
It is filled as ``<chain hex>.unpacking``, and what is put there is recorded in ``<chain hex>.files`` (``file_list``).
Whoever fills it holds both by flock: the kernel releases that when a process dies. The lock on the record is what
counts, for its name is the same before and after the layer becomes ready. All layers of an image become ready
together, after one syncfs. ``gc`` removes layers with their records, and what a crash left over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.errors import NotFoundError
from reconciler.linux import watch
from reconciler.oci.digest import Digest
from reconciler.store.archive.limits import DEFAULTS, Limits
from reconciler.store.layers import file_list
from reconciler.value import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from reconciler.store.database import Database
    from reconciler.store.layers.unpacking import Unpacking
    from reconciler.store.layers.workers import Workers


@dataclass(frozen=True, slots=True)
class Layer:
    """A ready layer. ``size`` is in bytes, in whole disk blocks; ``blob`` is what it came from, or None."""

    chain_id: Digest
    parent: Digest | None
    diff_id: Digest
    blob: Digest | None
    size: int
    entries: int


class Layers:
    """The unpacked layers of one root. Methods may be called from any thread.

    ``limits`` are what ``unpack`` lets an archive do.
    """

    def __init__(self, root: Path, database: Database) -> None:
        self.directory = root / "layers"
        self.limits: Limits = DEFAULTS
        self._database = database

    def get(self, chain_id: Digest) -> Layer | None:
        """The ready layer, or None."""
        rows = self._database.query("SELECT * FROM layers WHERE chain_id = ?", (chain_id,))
        if not rows:
            return None
        row = rows[0]
        return Layer(
            chain_id=chain_id,
            parent=Digest(row["parent"]) if row["parent"] else None,
            diff_id=Digest(row["diff_id"]),
            blob=Digest(row["blob"]) if row["blob"] else None,
            size=row["size"],
            entries=row["entries"],
        )

    def has(self, chain_id: Digest) -> bool:
        """Whether the layer is ready."""
        return self.get(chain_id) is not None

    def path(self, chain_id: Digest) -> Path:
        """Where the layer lies, or will lie once it is ready."""
        return self.directory / chain_id.hex

    def files(self, chain_id: Digest) -> Path:
        """Where the list of a layer's files is (``file_list``). Layers of an earlier version have none."""
        return self.directory / (chain_id.hex + file_list.SUFFIX)

    def stack(self, chain_id: Digest | None) -> tuple[Path, ...]:
        """The layer and all below it, top first, as overlayfs takes them; none for None.

        Raises ``NotFoundError`` when one of them is not ready.
        """
        paths: list[Path] = []
        while chain_id is not None:
            layer = self.get(chain_id)
            if layer is None:
                raise NotFoundError(f"layer {chain_id} is not unpacked", hint="pull the image again")
            paths.append(self.path(chain_id))
            chain_id = layer.parent
        return tuple(paths)

    def workers(self) -> Workers:
        """Starts the processes that unpack an image, for ``unpacking`` to use: they take a while to be ready."""
        from reconciler.store.layers.workers import Workers

        workers = Workers()
        return workers if watch.active() else workers.start()

    def unpacking(self, diff_ids: Sequence[Digest], workers: Workers | None = None) -> Unpacking:
        """Begins to unpack what is missing of an image (diff IDs lowest first). Use it as a context manager.

        Entering waits for whoever, in any process, is unpacking one of the same layers: it is done once. ``workers``
        are started if they are not given, and if anything is missing; those given stay their owner's.
        """
        from reconciler.store.layers.unpacking import Unpacking

        return Unpacking(self, self._database, diff_ids, workers)
