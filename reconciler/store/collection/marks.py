"""Marking: what in the store must stay, given what must stay by itself."""

from __future__ import annotations

import json
from dataclasses import field
from typing import TYPE_CHECKING, Literal

from reconciler.errors import IntegrityError, ReconcilerError
from reconciler.oci.digest import Digest
from reconciler.oci.layers import chain_ids
from reconciler.oci.manifest import MAX_MANIFEST_BYTES, Index, parse_manifest
from reconciler.value import dataclass

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from reconciler.store.collection.leases import LeaseTable
    from reconciler.store.content import ContentStore
    from reconciler.store.database import Database


@dataclass(frozen=True, slots=True)
class Root:
    """Something that must stay, and why: an image by its manifest's digest, or a layer by its chain ID.

    What it needs stays with it: an image's blobs and layers, a layer's parents.
    """

    kind: Literal["image", "layer"]
    digest: Digest
    why: str


@dataclass(frozen=True, slots=True)
class Parts:
    """What recorded images consist of. Digests are plain strings here: there are tens of thousands of them."""

    blobs: Collection[str]
    chains: Collection[str]


@dataclass(slots=True)
class Marks:
    """What stays. ``recorded`` are all images with a row, and ``ready`` all layers with one, marked or not."""

    images: set[str] = field(default_factory=set)
    blobs: set[str] = field(default_factory=set)
    layers: set[str] = field(default_factory=set)
    leased: frozenset[str] = frozenset()
    recorded: dict[str, Parts] = field(default_factory=dict)
    ready: set[str] = field(default_factory=set)
    _claimed: Parts | None = None

    @property
    def claimed(self) -> Parts:
        """The parts of all images that have a row, needed or not: a row never outlives what it stands for."""
        if self._claimed is None:
            parts = self.recorded.values()
            self._claimed = Parts(
                {blob for part in parts for blob in part.blobs}, {chain for part in parts for chain in part.chains}
            )
        return self._claimed

    def forget(self, images: Iterable[str], layers: Iterable[str]) -> None:
        """Notes that these rows are gone."""
        for digest in images:
            self.recorded.pop(digest, None)
            self._claimed = None
        self.ready.difference_update(layers)


class Marker:
    """Marks one store, again and again if need be: a manifest is read once, until ``forget``."""

    def __init__(self, database: Database, content: ContentStore, leases: LeaseTable) -> None:
        self._database = database
        self._content = content
        self._leases = leases
        self._needs: dict[str, tuple[frozenset[str], tuple[str, ...]]] = {}

    def mark(self, roots: Iterable[Root], among: Collection[str] | None = None) -> Marks:
        """What stays because of ``roots``, names and leases. The caller is in a transaction.

        Raises ``IntegrityError`` when a manifest that must stay cannot be read, since what it needs is then unknown.
        With ``among``, some images, only they can go: all others stay, and their records are taken at their word.
        """
        held = self._leases.held()
        marks = Marks(leased=frozenset(held), recorded=self._recorded())
        named = {row["digest"] for row in self._database.query("SELECT DISTINCT digest FROM names")}
        wanted = {str(root.digest) for root in roots if root.kind == "image"} | named
        wanted |= marks.recorded.keys() & held.keys()
        if among is None:
            self._mark_images(wanted, marks)
        else:
            marks.images = wanted | (marks.recorded.keys() - set(among))
            _add_parts(marks.images, marks)
        marks.blobs |= held.keys()
        self._mark_layers({str(root.digest) for root in roots if root.kind == "layer"} | held.keys(), marks)
        return marks

    def forget(self) -> None:
        """Reads every manifest again, the next time."""
        self._needs.clear()

    def _recorded(self) -> dict[str, Parts]:
        chains: dict[tuple[str, ...], tuple[str, ...]] = {}
        found = {}
        for row in self._database.query("SELECT digest, config_digest, layers, index_digest FROM images"):
            layers = json.loads(row["layers"])
            index = (row["index_digest"],) if row["index_digest"] else ()
            blobs = (row["digest"], row["config_digest"], *(layer[0] for layer in layers), *index)
            diff_ids = tuple(layer[3] for layer in layers)
            if diff_ids not in chains:
                chains[diff_ids] = chain_ids(map(Digest, diff_ids))
            found[row["digest"]] = Parts(blobs, chains[diff_ids])
        return found

    def _mark_images(self, wanted: set[str], marks: Marks) -> None:
        """Marks images with all they need, as their records and their manifests say."""
        pending = list(wanted)
        while pending:
            digest = pending.pop()
            if digest in marks.images:
                continue
            marks.images.add(digest)
            marks.blobs.add(digest)
            if digest not in marks.recorded and not self._content.has(Digest(digest)):
                continue  # wanted, but not here yet
            _add_parts((digest,), marks)
            blobs, images = self._read(digest)
            marks.blobs |= blobs
            pending += images

    def _mark_layers(self, wanted: set[str], marks: Marks) -> None:
        parents: dict[str, str | None] = {}
        for row in self._database.query("SELECT chain_id, parent FROM layers"):
            parents[row["chain_id"]] = row["parent"]
        marks.ready = set(parents)
        seen: set[str] = set()
        for chain_id in wanted:
            layer: str | None = chain_id
            # Whatever is marked has its parents marked. (Damaged rows could even form a ring.)
            while layer is not None and layer not in seen:
                seen.add(layer)
                layer = parents.get(layer)
        marks.layers |= seen

    def _read(self, digest: str) -> tuple[frozenset[str], tuple[str, ...]]:
        """The blobs that a manifest needs, and the images that an index lists."""
        known = self._needs.get(digest)
        if known is not None and self._content.has(Digest(digest)):
            return known
        try:
            manifest = parse_manifest(self._content.read(Digest(digest), MAX_MANIFEST_BYTES))
        except ReconcilerError as error:
            raise IntegrityError(
                f"nothing was collected: manifest {digest} must stay and cannot be read: {error}",
                hint=error.hint or "pull the image again, or remove what refers to it",
            ) from error
        if isinstance(manifest, Index):
            needs = (frozenset[str](), tuple(entry.digest for entry in manifest.manifests))
        else:
            needs = (frozenset(blob.digest for blob in manifest.blobs), ())
        self._needs[digest] = needs
        return needs


def _add_parts(images: Iterable[str], marks: Marks) -> None:
    for digest in images:
        parts = marks.recorded.get(digest)
        if parts is not None:
            marks.blobs.update(parts.blobs)
            marks.layers.update(parts.chains)
