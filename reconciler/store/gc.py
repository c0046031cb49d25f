"""Garbage collection: mark from what must stay, list the rest, free exactly what was listed.

The caller says what must stay (``Root``: desired state, containers, generations, pins); the store adds its names and
leases. Planning reads only. Collecting deletes rows first and bytes after, each in a transaction that marks again:
a lease is taken in a transaction too, so either it comes first and protects, or its owner finds the bytes gone and
fetches them.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from reconciler.errors import HostError, IntegrityError, ReconcilerError
from reconciler.linux import durable
from reconciler.linux.tree import disk_usage, remove_tree
from reconciler.oci.digest import Digest
from reconciler.oci.manifest import MAX_MANIFEST_BYTES, Index, Manifest, parse_manifest
from reconciler.store import ingest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from reconciler.store.content import ContentStore
    from reconciler.store.database import Database
    from reconciler.store.images import ImageRecord, ImageTable, NameTable
    from reconciler.store.leases import LeaseTable

# A layer's directory, and the names of one that is being made or removed: the chain ID comes first in all of them.
_LAYER_DIRECTORY = re.compile(r"([0-9a-f]{64})(\..*)?", re.ASCII)
_REMOVED = ".removed-"


@dataclass(frozen=True, slots=True)
class Root:
    """Something that must stay, and why: an image by its manifest's digest, or a layer by its chain ID.

    What it needs stays with it: an image's blobs and layers, a layer's parents.
    """

    kind: Literal["image", "layer"]
    digest: Digest
    why: str


@dataclass(frozen=True, slots=True)
class Garbage:
    """One thing that nothing needs. ``id`` is a digest, or the name of a file or directory; ``size`` in bytes."""

    kind: Literal["image", "layer", "blob", "partial"]
    id: str
    why: str
    size: int

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.id


@dataclass(frozen=True, slots=True)
class GcPlan:
    """What a collection would free, images first."""

    garbage: tuple[Garbage, ...]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(item.size for item in self.garbage)


@dataclass(slots=True)
class _Marks:
    """What stays."""

    images: set[Digest] = field(default_factory=set)
    blobs: set[Digest] = field(default_factory=set)
    layers: set[Digest] = field(default_factory=set)
    leased: frozenset[str] = frozenset()


class GarbageCollector:
    """Frees what nothing refers to in one store."""

    def __init__(
        self,
        root: Path,
        database: Database,
        content: ContentStore,
        images: ImageTable,
        names: NameTable,
        leases: LeaseTable,
    ) -> None:
        self._layers = root / "layers"
        self._database = database
        self._content = content
        self._images = images
        self._names = names
        self._leases = leases

    def plan(self, roots: Iterable[Root]) -> GcPlan:
        """What would be freed now; nothing is written.

        Raises ``IntegrityError`` when a manifest that must stay cannot be read, since what it needs is then unknown.
        """
        fixed = tuple(roots)
        return self._database.consistent(lambda: GcPlan(tuple(self._garbage(fixed))))

    def collect(self, plan: GcPlan, roots: Iterable[Root]) -> GcPlan:
        """Frees what ``plan`` lists, and returns what was freed: less, if some of it is needed by now.

        ``roots`` is what must stay at this moment; the caller holds the root's lock. Raises ``IntegrityError`` as
        ``plan`` does, then nothing was deleted; and ``HostError``, then the next plan lists what is left.
        """
        fixed = tuple(roots)
        listed = {item.key for item in plan.garbage}
        with self._database.transaction() as connection:
            rows = [item for item in self._garbage(fixed) if item.key in listed]
            images = [(item.id,) for item in rows if item.kind == "image"]
            layers = [(f"sha256:{item.id}",) for item in rows if item.kind == "layer"]
            connection.executemany("DELETE FROM images WHERE digest = ?", images)
            connection.executemany("DELETE FROM layers WHERE chain_id = ?", layers)
            self._leases.sweep()
        with self._database.transaction():
            files = [item for item in self._garbage(fixed) if item.key in listed]
            doomed = self._free_files(files)
        self._remove_directories(doomed)
        freed = {item.key for item in files} | {item.key for item in rows if self._is_gone(item)}
        return GcPlan(tuple(item for item in plan.garbage if item.key in freed))

    def _is_gone(self, item: Garbage) -> bool:
        """Whether an item whose row was deleted has no bytes of its own left."""
        return item.kind == "image" or (item.kind == "layer" and not (self._layers / item.id).exists())

    def _free_files(self, garbage: list[Garbage]) -> list[Path]:
        """Removes blobs and partials, and puts layers out of the way: returns what is left to be removed of those."""
        doomed = []
        for item in garbage:
            if item.kind == "blob":
                self._content.remove(Digest(item.id), sync=False)
            elif item.kind == "partial":
                self._content.remove_partial(item.id)
            elif item.kind == "layer":
                doomed.append(self._set_aside(item.id))
        self._content.sync_removals()
        if doomed:
            durable.sync_directory(self._layers, point="layer.remove")
        return doomed

    def _set_aside(self, name: str) -> Path:
        """Takes a directory away from whoever unpacks that layer next."""
        if _REMOVED in name:
            return self._layers / name
        aside = self._layers / f"{name[:64]}{_REMOVED}{os.urandom(4).hex()}"
        durable.rename(self._layers / name, aside, point="layer.remove", sync=False)
        return aside

    def _remove_directories(self, directories: list[Path]) -> None:
        """Removes them all before it reports the first that could not be."""
        failure: HostError | None = None
        for directory in directories:
            try:
                # A removal that a power loss undoes is listed by the next plan: no fsync for each.
                remove_tree(directory, point="layer.remove", sync=False)
            except HostError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def _garbage(self, roots: tuple[Root, ...]) -> Iterator[Garbage]:
        marks = self._mark(roots)
        for image in self._images.list():
            if image.digest not in marks.images:
                yield Garbage("image", image.digest, "no name, container, generation or lease refers to it", 0)
        yield from self._garbage_layers(marks)
        for digest in sorted(self._content.digests()):
            if digest not in marks.blobs:
                yield Garbage("blob", digest, "no image refers to it", self._content.size(digest))
        for path in sorted(self._content.partials()):
            if f"sha256:{path.name}" not in marks.leased and ingest.is_abandoned(path):
                yield Garbage("partial", path.name, "an unfinished download that nobody continues", disk_usage(path))

    def _garbage_layers(self, marks: _Marks) -> Iterator[Garbage]:
        rows = self._database.query("SELECT chain_id, size FROM layers ORDER BY chain_id")
        sizes = {str(row["chain_id"]): int(row["size"]) for row in rows}
        for chain_id, size in sizes.items():
            if chain_id not in marks.layers:
                yield Garbage("layer", Digest(chain_id).hex, "no image or container uses it", size)
        with durable.guarded("read", self._layers):
            names = sorted(path.name for path in self._layers.iterdir()) if self._layers.is_dir() else []
        for name in names:
            match = _LAYER_DIRECTORY.fullmatch(name)
            if match is None or f"sha256:{name}" in sizes or f"sha256:{match[1]}" in marks.leased:
                continue
            if ingest.is_abandoned(self._layers / name):  # whoever unpacks a layer holds its directory by flock
                size = disk_usage(self._layers / name)
                yield Garbage("layer", name, "left behind by an interrupted unpack or removal", size)

    def _mark(self, roots: tuple[Root, ...]) -> _Marks:
        held = self._leases.held()
        marks = _Marks(leased=frozenset(held))
        images = {image.digest: image for image in self._images.list()}
        wanted = {root.digest for root in roots if root.kind == "image"} | {name.digest for name in self._names.list()}
        for digest in wanted | (images.keys() & held.keys()):
            self._mark_image(digest, images, marks)
        marks.blobs.update(Digest(item) for item in held)
        rows = self._database.query("SELECT chain_id, parent FROM layers")
        parents: dict[str, str | None] = {row["chain_id"]: row["parent"] for row in rows}
        for chain_id in {str(root.digest) for root in roots if root.kind == "layer"} | held.keys():
            layer: str | None = chain_id
            while layer is not None:
                marks.layers.add(Digest(layer))
                layer = parents.get(layer)
        return marks

    def _mark_image(self, digest: Digest, images: dict[Digest, ImageRecord], marks: _Marks) -> None:
        """Marks an image with all it needs, as its record and its manifest say."""
        pending = [digest]
        while pending:
            digest = pending.pop()
            if digest in marks.images:
                continue
            marks.images.add(digest)
            marks.blobs.add(digest)
            image = images.get(digest)
            if image is not None:
                marks.blobs.update(image.blobs)
                marks.layers.update(image.chain_ids)
                if image.index_digest is not None:
                    marks.blobs.add(image.index_digest)
            elif not self._content.has(digest):
                continue  # wanted, but not here yet
            manifest = self._manifest(digest)
            if isinstance(manifest, Index):
                pending += [entry.digest for entry in manifest.manifests]
            else:
                marks.blobs.update(blob.digest for blob in manifest.blobs)

    def _manifest(self, digest: Digest) -> Manifest | Index:
        try:
            return parse_manifest(self._content.read(digest, MAX_MANIFEST_BYTES))
        except ReconcilerError as error:
            raise IntegrityError(
                f"nothing was collected: manifest {digest} must stay and cannot be read: {error}",
                hint=error.hint or "pull the image again, or remove what refers to it",
            ) from error
