"""Writing image archives: an OCI layout as a tar archive, and what `docker load` reads of one beside it.

The same images under the same names give the same bytes. Blobs are written as they are stored, and verified on their
way: what is damaged on disk does not become an archive.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from reconciler.errors import IntegrityError
from reconciler.oci import media
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.reference import Reference
from reconciler.store.archive.reader import Entry, Kind
from reconciler.store.archive.writer import END, header, padding
from reconciler.store.held import HeldBlobs
from reconciler.store.image_archive.reader import DOCKER_MANIFEST, FULL_NAME, INDEX, LAYOUT, REF_NAME, blob_name
from reconciler.value import dataclass

if TYPE_CHECKING:
    from reconciler.store.content import ContentStore
    from reconciler.store.images import ImageRecord

_CHUNK = 1 << 20

Write = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class SavedImage:
    """An image and the names it has in the archive, perhaps none."""

    record: ImageRecord
    names: tuple[Reference, ...]


def write_archive(images: Sequence[SavedImage], content: ContentStore, write: Write, *, docker: bool) -> None:
    """Writes one archive of all ``images`` through ``write``; ``docker`` adds the ``manifest.json`` of `docker save`.

    Raises ``NotFoundError`` when a blob is gone before anything is written, from when on nobody can take one away; and
    ``IntegrityError`` when one is damaged: what was written is no archive then, for it lacks its end.
    """
    ordered = sorted(images, key=lambda image: image.record.digest)
    with HeldBlobs(content, (digest for image in ordered for digest in _digests(image.record))) as blobs:
        _write(ordered, blobs, write, docker=docker)


def _write(ordered: Sequence[SavedImage], blobs: HeldBlobs, write: Write, *, docker: bool) -> None:
    documents: dict[str, Any] = {LAYOUT: {"imageLayoutVersion": "1.0.0"}, INDEX: _index(ordered, blobs)}
    if docker:
        runnable = [image for image in ordered if image.record.config.media_type in media.CONFIGS]
        documents[DOCKER_MANIFEST] = [_docker_entry(image) for image in runnable]
    for name, document in documents.items():
        data = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
        write(header(Entry(name.encode(), Kind.FILE, size=len(data))) + data + padding(len(data)))
    for directory in (b"blobs", b"blobs/sha256"):
        write(header(Entry(directory, Kind.DIRECTORY, 0o755)))
    sizes = {digest: size for image in ordered for digest, size in _blobs(image.record, blobs)}
    for digest, size in sorted(sizes.items()):
        _write_blob(digest, size, blobs, write)
    write(END)


def _index(images: Iterable[SavedImage], blobs: HeldBlobs) -> dict[str, Any]:
    """An entry for each name, as other tools look for them: they take one name of an entry."""
    entries = []
    for image in images:
        record = image.record
        entry = Descriptor(record.media_type, record.digest, blobs.size(record.digest)).to_json()
        entry["platform"] = {"architecture": record.platform.architecture, "os": record.platform.os}
        if record.platform.variant:
            entry["platform"]["variant"] = record.platform.variant
        names = sorted(str(name) for name in image.names)
        annotated = [{**entry, "annotations": {FULL_NAME: name, REF_NAME: name}} for name in names]
        entries += annotated or [entry]
    return {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": entries}


def _docker_entry(image: SavedImage) -> dict[str, Any]:
    return {
        "Config": blob_name(image.record.config.digest),
        # In full: podman takes a familiar name to mean localhost.
        "RepoTags": sorted(str(name) for name in image.names),
        "Layers": [blob_name(layer.digest) for layer in image.record.layers],
    }


def _digests(record: ImageRecord) -> tuple[Digest, ...]:
    return (record.digest, record.config.digest, *(layer.digest for layer in record.layers))


def _blobs(record: ImageRecord, blobs: HeldBlobs) -> list[tuple[Digest, int]]:
    return [
        (record.digest, blobs.size(record.digest)),
        (record.config.digest, record.config.size),
        *((layer.digest, layer.size) for layer in record.layers),
    ]


def _write_blob(digest: Digest, size: int, blobs: HeldBlobs, write: Write) -> None:
    write(header(Entry(blob_name(digest).encode(), Kind.FILE, size=size)))
    hasher, written = hashlib.sha256(), 0
    with blobs.open(digest) as blob:
        while chunk := blob.read(_CHUNK):
            written += len(chunk)
            if written > size:
                break
            hasher.update(chunk)
            write(chunk)
    if written != size or hasher.hexdigest() != digest.hex:
        raise IntegrityError(
            f"blob {digest} is damaged on disk", hint=f"remove {blobs.path(digest)}, and pull or load the image again"
        )
    write(padding(size))
