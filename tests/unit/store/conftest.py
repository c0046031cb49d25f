"""A small store and images to put in it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from reconciler.oci import media
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.manifest import Manifest
from reconciler.oci.platform import Platform
from reconciler.store.collection.gc import GarbageCollector, GcPlan
from reconciler.store.collection.leases import LeaseTable
from reconciler.store.collection.marks import Root
from reconciler.store.content import ContentStore
from reconciler.store.database import WritableDatabase
from reconciler.store.images import ImageRecord, ImageTable, LayerRecord, NameTable
from reconciler.store.schema import STORE


@dataclass
class Store:
    """All tables of one root."""

    root: Path
    database: WritableDatabase
    content: ContentStore
    images: ImageTable
    names: NameTable
    leases: LeaseTable
    gc: GarbageCollector

    @classmethod
    def open(cls, root: Path) -> Store:
        database = WritableDatabase(root, (STORE,))
        content = ContentStore(root)
        images, names, leases = ImageTable(database, content), NameTable(database), LeaseTable(database)
        collector = GarbageCollector(root, database, content, leases)
        return cls(root, database, content, images, names, leases, collector)

    def add_image(self, *layers: bytes, index: Digest | None = None) -> ImageRecord:
        """Stores and records an image whose layers have these bytes, with each layer unpacked."""
        config = json.dumps({"layers": [Digest.of(b"tar " + layer) for layer in layers]}).encode()
        config_descriptor = Descriptor(media.OCI_CONFIG, self.content.put(config), len(config))
        records = tuple(
            LayerRecord(self.content.put(layer), len(layer), media.OCI_LAYER_GZIP, Digest.of(b"tar " + layer))
            for layer in layers
        )
        descriptors = tuple(Descriptor(record.media_type, record.digest, record.size) for record in records)
        manifest = Manifest.build(config_descriptor, descriptors, {})
        image = ImageRecord(
            digest=self.content.put(manifest),
            media_type=media.OCI_MANIFEST,
            config=config_descriptor,
            layers=records,
            index_digest=index,
            platform=Platform("linux", "amd64"),
            size=len(manifest) + len(config) + sum(map(len, layers)),
            created="2026-01-01T00:00:00Z",
            fetched_at="2026-01-02T00:00:00Z",
        )
        self.images.add(image)
        parent = None
        for chain_id, record in zip(image.chain_ids, records, strict=True):
            self.add_layer(chain_id, parent, record.diff_id)
            parent = chain_id
        return image

    def add_layer(self, chain_id: Digest, parent: Digest | None, diff_id: Digest) -> None:
        directory = self.root / "layers" / chain_id.hex
        (directory / "etc").mkdir(parents=True, exist_ok=True)
        (directory / "etc" / "file").write_bytes(b"content")
        with self.database.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO layers VALUES (?, ?, ?, '', 7, 2)", (chain_id, parent, diff_id))

    def collect(self, plan: GcPlan, roots: Iterable[Root] = ()) -> GcPlan:
        """Collects, and what was freed as a plan."""
        fixed = tuple(roots)
        return GcPlan(tuple(self.gc.collect(plan, lambda: fixed)))

    def layers(self) -> set[str]:
        """The directories of unpacked layers, by name."""
        return {path.name for path in (self.root / "layers").iterdir()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir(0o700)
    return path


@pytest.fixture
def store(root: Path) -> Iterator[Store]:
    opened = Store.open(root)
    yield opened
    opened.database.close()
