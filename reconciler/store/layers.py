"""ROOT/layers: unpacked layers, each named by its chain ID, ready to be mounted.

A layer is ready when it has a row in the database; then its directory is complete, durable, and never changes again.
It is filled as ``ROOT/layers/<chain hex>.unpacking``, which whoever fills it holds by flock: the kernel releases
that when a process dies. All layers of an image become ready together, after one syncfs. ``gc`` removes layers, and
what a crash left over.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

from reconciler.errors import IntegrityError, NotFoundError, ReconcilerError
from reconciler.linux import durable
from reconciler.linux.tree import remove_tree
from reconciler.oci.digest import Digest
from reconciler.oci.layers import chain_ids
from reconciler.store.compression import decompress
from reconciler.store.layer_tree import empty_directory
from reconciler.store.lower import LowerLayers
from reconciler.store.pipeline import ReadAhead, hashed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from reconciler.store.database import Database
    from reconciler.store.unpack import Extracted

_POINT = "layers"  # the name of this call site in linux.durable


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
    """The unpacked layers of one root. Methods may be called from any thread."""

    def __init__(self, root: Path, database: Database) -> None:
        self.directory = root / "layers"
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

    def ready(self) -> frozenset[Digest]:
        """The chain IDs of all layers that are ready. One query."""
        return frozenset(Digest(row["chain_id"]) for row in self._database.query("SELECT chain_id FROM layers"))

    def path(self, chain_id: Digest) -> Path:
        """Where the layer lies, or will lie once it is ready."""
        return self.directory / chain_id.hex

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

    def unpacking(self, diff_ids: Sequence[Digest]) -> Unpacking:
        """Begins to unpack what is missing of an image (diff IDs lowest first). Use it as a context manager.

        Entering waits for whoever, in any process, is unpacking one of the same layers: it is done once.
        """
        return Unpacking(self, self._database, diff_ids)


class Unpacking:
    """The unpacking of one image's layers. ``missing`` are the indices of the layers to be given to ``unpack``."""

    def __init__(self, layers: Layers, database: Database, diff_ids: Sequence[Digest]) -> None:
        self._layers = layers
        self._database = database
        self._diff_ids = tuple(diff_ids)
        self.chain_ids = chain_ids(diff_ids)
        self.missing: tuple[int, ...] = ()
        self._held: dict[int, int] = {}
        self._done: dict[int, Layer] = {}
        self._failed = False
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        durable.make_directory(self._layers.directory, point=_POINT)
        try:
            # Always from the lowest: two images that wait for each other's layers would have to share the lower one.
            for index, chain_id in enumerate(self.chain_ids):
                self._claim(index, chain_id)
        except BaseException:
            self._release()
            raise
        self.missing = tuple(self._held)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def unpack(self, index: int, source: BinaryIO, blob: Digest | None = None) -> None:
        """Unpacks one missing layer from its blob, compressed or not, reading ``source`` to its end.

        May run for several layers at once. Where a layer depends on lower ones of this image (a whiteout, an implied
        parent), it waits for them, so those must be under way: start from the lowest. ``blob`` is only recorded.

        Raises ``IntegrityError`` when the bytes do not have the diff ID, and what ``extract`` raises. Any failure is
        final for the whole image.
        """
        from reconciler.store.unpack import extract

        target = self._temporary(index)
        hasher = hashlib.sha256()
        try:
            with ReadAhead(hashed(decompress(source), hasher)) as chunks:
                extracted = extract(iter(chunks), target, lambda: self._below(index))
            actual = Digest("sha256:" + hasher.hexdigest())
            if actual != self._diff_ids[index]:
                raise IntegrityError(
                    f"layer {index + 1} of the image has diff ID {actual}, but its config says {self._diff_ids[index]}",
                    hint="the image is broken where it was built: ask its publisher, or use another tag",
                )
        except BaseException:
            self.abandon()
            raise
        with self._changed:
            self._done[index] = self._layer(index, blob, extracted)
            self._changed.notify_all()

    def abandon(self) -> None:
        """Wakes whoever waits for a lower layer that will not come. Call it when a layer's bytes cannot be had."""
        with self._changed:
            self._failed = True
            self._changed.notify_all()

    def publish(self) -> tuple[Digest, ...]:
        """Makes all layers ready, durably and together; the image's chain IDs, lowest first."""
        if set(self._done) != set(self.missing):
            raise ReconcilerError("an image was published before all its layers were unpacked")
        if self._done:
            durable.sync_filesystem(self._layers.directory, point=_POINT)
            for index, layer in sorted(self._done.items()):
                durable.rename(self._temporary(index), self._layers.path(layer.chain_id), point=_POINT, sync=False)
            durable.sync_directory(self._layers.directory, point=_POINT)
            with self._database.transaction() as connection:
                connection.executemany(
                    "INSERT OR REPLACE INTO layers (chain_id, parent, diff_id, blob, size, entries)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    [
                        (layer.chain_id, layer.parent, layer.diff_id, layer.blob or "", layer.size, layer.entries)
                        for layer in self._done.values()
                    ],
                )
        return self.chain_ids

    def _claim(self, index: int, chain_id: Digest) -> None:
        while not self._layers.has(chain_id):
            path = self._temporary(index)
            durable.make_directory(path, point=_POINT, sync=False)
            held = _hold(path)
            if held is None:
                continue  # it was published or discarded while we waited
            self._held[index] = held
            # Left over from a process that died, if it holds anything; and what has the final name has no row.
            with durable.guarded("empty", path):
                empty_directory(held)
            remove_tree(self._layers.path(chain_id), point=_POINT)
            return

    def _below(self, index: int) -> LowerLayers:
        lower = range(index - 1, -1, -1)
        with self._changed:
            self._changed.wait_for(lambda: self._failed or all(self._is_there(at) for at in lower))
            if self._failed:
                raise ReconcilerError("a lower layer of the image could not be unpacked")
        return LowerLayers(
            [self._temporary(at) if at in self._held else self._layers.path(self.chain_ids[at]) for at in lower]
        )

    def _is_there(self, index: int) -> bool:
        return index not in self._held or index in self._done

    def _layer(self, index: int, blob: Digest | None, extracted: Extracted) -> Layer:
        return Layer(
            chain_id=self.chain_ids[index],
            parent=self.chain_ids[index - 1] if index else None,
            diff_id=self._diff_ids[index],
            blob=blob,
            size=extracted.size,
            entries=extracted.entries,
        )

    def _temporary(self, index: int) -> Path:
        return self._layers.path(self.chain_ids[index]).with_suffix(".unpacking")

    def _release(self) -> None:
        """Removes what was not published and lets go of all."""
        for index, held in self._held.items():
            with contextlib.suppress(ReconcilerError):  # gc finds it
                remove_tree(self._temporary(index), point=_POINT)
            os.close(held)
        self._held = {}


def _hold(path: Path) -> int | None:
    """Waits for the flock of a directory: a descriptor that holds it, or None if the directory is gone by then."""
    with durable.guarded("lock", path):
        try:
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if path.exists() and path.stat().st_ino == os.fstat(handle).st_ino:
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
    return None
