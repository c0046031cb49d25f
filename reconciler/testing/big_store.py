"""A store with thousands of images and layers, made in seconds: every row and byte as a pull would have left it.

    build(root, images=2000, layers=20000)

Only durability is missing: nothing is synced on the way.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from reconciler.engine.embedded.state import WriterState, open_writer
from reconciler.oci import media
from reconciler.oci.config import ImageConfig
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.layers import chain_ids
from reconciler.oci.manifest import Manifest
from reconciler.oci.platform import Platform
from reconciler.oci.reference import Reference
from reconciler.store.archive.compression import GzipWriter
from reconciler.store.identity import prepare_root
from reconciler.store.images import ImageRecord, LayerRecord, Name
from reconciler.store.layers.file_list import FileListWriter

_MTIME = 1_700_000_000
_SHARED_BY = 20
_FILES = 3
_FETCHED = "2026-01-02T00:00:00Z"


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer's blob, and the files in it."""

    blob: bytes
    record: LayerRecord
    files: dict[str, bytes]


def build(root: Path, *, images: int = 2000, layers: int = 20_000, named: bool = True) -> tuple[str, ...]:
    """Makes the root and fills it; returns the familiar names of its images, ``big/<number>:latest``.

    Twenty images at a time share a lowest layer; the other layers are spread evenly, each with three small files.
    Without ``named`` the names are not set: everything is garbage.
    """
    prepare_root(root)
    state = open_writer(root)
    try:
        for directory in ("blobs", "blobs/sha256", "layers", "ingest"):
            (root / directory).mkdir(mode=0o700, exist_ok=True)
        with state.database.transaction():
            return _Builder(state, images, layers).fill(named=named)
    finally:
        state.close_pass()
        state.close()


class _Builder:
    def __init__(self, state: WriterState, images: int, layers: int) -> None:
        self._state = state
        self._images = images
        self._own = max(0, layers - -(-images // _SHARED_BY))
        self._made = 0

    def fill(self, *, named: bool) -> tuple[str, ...]:
        names = []
        shared: list[_Layer] = []
        for number in range(self._images):
            if number % _SHARED_BY == 0:
                shared = [self._layer()]
            count = self._own * (number + 1) // self._images - self._own * number // self._images
            record = self._image(number, [*shared, *(self._layer() for _ in range(count))])
            name = Reference.parse(f"big/{number}")
            names.append(name.familiar)
            if named:
                self._state.names.set(Name(str(name), record.digest, "", "tag"))
        return tuple(names)

    def _layer(self) -> _Layer:
        self._made += 1
        files = {f"file-{self._made}-{at}": f"{self._made} {at}\n".encode() * 20 for at in range(_FILES)}
        tar = _ROOT + b"".join(_entry(name, data) for name, data in files.items()) + bytes(1024)
        writer = GzipWriter()
        blob = writer.compress(tar) + writer.finish()
        digest = self._blob(blob)
        return _Layer(blob, LayerRecord(digest, len(blob), media.OCI_LAYER_GZIP, Digest.of(tar)), files)

    def _image(self, number: int, layers: list[_Layer]) -> ImageRecord:
        records = tuple(layer.record for layer in layers)
        document = {
            "architecture": Platform.host().architecture,
            "os": "linux",
            "created": _FETCHED,
            "config": {"Labels": {"number": str(number)}},
            "rootfs": {"type": "layers", "diff_ids": [record.diff_id for record in records]},
        }
        config = json.dumps(document).encode()
        descriptor = Descriptor(media.OCI_CONFIG, self._blob(config), len(config))
        described = tuple(Descriptor(record.media_type, record.digest, record.size) for record in records)
        manifest = Manifest.build(descriptor, described, {})
        record = ImageRecord(
            digest=self._blob(manifest),
            media_type=media.OCI_MANIFEST,
            config=descriptor,
            layers=records,
            index_digest=None,
            platform=ImageConfig.parse(config).platform,
            size=len(manifest) + len(config) + sum(item.size for item in records),
            created=_FETCHED,
            fetched_at=_FETCHED,
        )
        self._state.images.add(record)
        parent = None
        for layer, chain_id in zip(layers, chain_ids(item.diff_id for item in records), strict=True):
            self._unpacked(layer, chain_id, parent)
            parent = chain_id
        return record

    def _unpacked(self, layer: _Layer, chain_id: Digest, parent: Digest | None) -> None:
        path = self._state.layers.path(chain_id)
        if path.exists():
            return
        path.mkdir(0o755)
        size = path.stat().st_blocks
        for name, data in layer.files.items():
            file = path / name
            size += _write(file, data)
            os.utime(file, (_MTIME, _MTIME))
        os.utime(path, (_MTIME, _MTIME))
        descriptor = os.open(f"{path}.files", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            listed = FileListWriter(descriptor)
            listed.add(b"", ord("5"), 0o755, mtime=_MTIME * 10**9)
            for name, data in layer.files.items():
                checksum = zlib.crc32(data)
                listed.add(name.encode(), ord("0"), 0o644, 0, 0, len(data), _MTIME * 10**9, checksum)
            listed.finish()
        finally:
            os.close(descriptor)
        with self._state.database.transaction() as connection:
            connection.execute(
                "INSERT INTO layers (chain_id, parent, diff_id, blob, size, entries) VALUES (?, ?, ?, ?, ?, ?)",
                (chain_id, parent, layer.record.diff_id, layer.record.digest, size * 512, _FILES + 1),
            )

    def _blob(self, data: bytes) -> Digest:
        digest = Digest(f"sha256:{hashlib.sha256(data).hexdigest()}")
        _write(self._state.content.path(digest), data, 0o600)
        return digest


def _write(path: Path, data: bytes, mode: int = 0o644) -> int:
    """Writes a file and says how many sectors it takes."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, mode)
    try:
        os.write(descriptor, data)
        return os.fstat(descriptor).st_blocks
    finally:
        os.close(descriptor)


def _entry(name: str, data: bytes) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    entry.mtime = _MTIME
    return entry.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)


def _directory(name: str) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o755, _MTIME
    return entry.tobuf(tarfile.USTAR_FORMAT)


_ROOT = _directory(".")
