"""ROOT/layers: unpacked layers, each named by its chain ID, ready to be mounted.

A layer is ready when it has a row in the database; then its directory is complete, durable, and never changes again.
It is filled as ``<chain hex>.unpacking``, and what is put there is recorded in ``<chain hex>.files`` (``file_list``).
Whoever fills it holds both by flock: the kernel releases that when a process dies. The lock on the record is what
counts, for its name is the same before and after the layer becomes ready. All layers of an image become ready
together, after one syncfs. ``gc`` removes layers with their records, and what a crash left over.
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
from reconciler.store import file_list, ingest
from reconciler.store.compression import decompress
from reconciler.store.layer_tree import empty_directory
from reconciler.store.limits import DEFAULTS, Limits
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

    def ready(self) -> frozenset[Digest]:
        """The chain IDs of all layers that are ready. One query."""
        return frozenset(Digest(row["chain_id"]) for row in self._database.query("SELECT chain_id FROM layers"))

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
        self._held: dict[int, _Claim] = {}
        self._done: dict[int, Layer] = {}
        self._failed = self._published = False
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
            with ReadAhead(hashed(decompress(source, self._layers.limits), hasher)) as chunks:
                files, limits = self._held[index].files, self._layers.limits
                extracted = extract(iter(chunks), target, lambda: self._below(index), files, limits)
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
        self._published = True
        return self.chain_ids

    def _claim(self, index: int, chain_id: Digest) -> None:
        path = self._temporary(index)
        while not self._layers.has(chain_id):
            claim = _Claim(ingest.open_locked(self._layers.files(chain_id), point=_POINT))
            try:
                if self._layers.has(chain_id):
                    claim.release()
                    return  # it became ready while we waited
                durable.truncate(claim.files, self._layers.files(chain_id), point=_POINT)
                durable.make_directory(path, point=_POINT, sync=False)
                if not claim.hold(path):
                    claim.release()
                    continue
                # Left over from a process that died, if it holds anything; and what has the final name has no row.
                with durable.guarded("empty", path):
                    empty_directory(claim.directory)
                remove_tree(self._layers.path(chain_id), point=_POINT)
            except BaseException:
                claim.release()
                raise
            self._held[index] = claim
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
        for index, claim in self._held.items():
            if not self._published:
                with contextlib.suppress(ReconcilerError):  # gc finds it
                    remove_tree(self._temporary(index), point=_POINT)
                    durable.unlink(self._layers.files(self.chain_ids[index]), point=_POINT, sync=False)
            claim.release()
        self._held = {}


class _Claim:
    """The locks on a layer that is being filled: descriptors of its list of files and of its directory."""

    def __init__(self, files: int) -> None:
        self.files = files
        self.directory = -1

    def hold(self, path: Path) -> bool:
        """Locks the directory; False when somebody took it away before that."""
        with durable.guarded("lock", path):
            try:
                self.directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                fcntl.flock(self.directory, fcntl.LOCK_EX)
                return os.path.samestat(path.lstat(), os.fstat(self.directory))
            except FileNotFoundError:
                return False

    def release(self) -> None:
        for descriptor in (self.directory, self.files):
            if descriptor >= 0:
                os.close(descriptor)
        self.directory = self.files = -1
