"""Artifacts by hand: what a registry keeps under a tag that is no image, such as a chart or a signature.

It is pulled, named, saved and pushed as an image is. Nothing of it is unpacked, and it does not run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.clock import SystemClock, rfc3339
from reconciler.engine.embedded.images.intake import Pulled
from reconciler.errors import ReconcilerError
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.manifest import Manifest, parse_manifest
from reconciler.oci.platform import UNKNOWN, Platform
from reconciler.oci.reference import Reference
from reconciler.store.images import ImageRecord, LayerRecord

if TYPE_CHECKING:
    from reconciler.engine.embedded.machinery import Machinery
    from reconciler.engine.port import ItemProgress
    from reconciler.registry.client import RegistryClient


def pull_artifact(
    machinery: Machinery, client: RegistryClient, reference: Reference, progress: ItemProgress
) -> Pulled | None:
    """The artifact that ``reference`` means, complete on disk; None when it means none.

    Needs the turn. Raises what the registry client raises while it fetches.
    """
    state = machinery.state
    try:
        found = client.resolve(reference, known=lambda digest: machinery.manifests.local(digest) is not None)
        digest = found.descriptor.digest
        data = found.data or machinery.manifests.get(client, reference, digest)
        manifest = parse_manifest(data, found.descriptor.media_type)
    except ReconcilerError:
        return None
    if not isinstance(manifest, Manifest) or manifest.is_image:
        return None
    with state.leases.take(f"pull {reference.familiar}", [digest, *(blob.digest for blob in manifest.blobs)]):
        state.content.put(data)
        fetched = {blob.digest: _fetch(machinery, client, reference, blob, progress) for blob in manifest.blobs}
        record = ImageRecord(
            digest,
            manifest.media_type,
            manifest.config,
            # Nobody unpacks them: what is in a blob has the blob's own digest.
            tuple(LayerRecord(blob.digest, blob.size, blob.media_type, blob.digest) for blob in manifest.layers),
            None,
            Platform(UNKNOWN, UNKNOWN),
            len(data) + sum(blob.size for blob in manifest.blobs),
            "",
            rfc3339(SystemClock().now()),
        )
        with state.database.transaction():
            state.images.add(record)
            state.images.add_repository(digest, reference.name)
    there = tuple(layer for layer in record.layers if fetched[layer.digest] is None)
    return Pulled(record, sum(size or 0 for size in fetched.values()), there)


def _fetch(
    machinery: Machinery, client: RegistryClient, reference: Reference, blob: Descriptor, progress: ItemProgress
) -> int | None:
    """The bytes that came over the network; None when the blob was there."""
    name, fetched = blob.digest.short, 0

    def count(more: int) -> None:
        nonlocal fetched
        fetched += more
        progress(name, "downloading", ingest.offset, blob.size)

    with machinery.state.content.ingest(blob.digest, blob.size) as ingest:
        if ingest.present:
            progress(name, "exists", blob.size, blob.size)
            return None
        if blob.data is not None:
            ingest.restart()
            ingest.write(blob.data)
        else:
            progress(name, "resuming" if ingest.offset else "pulling", ingest.offset, blob.size)
            client.blob(reference, blob, ingest, count)
        ingest.commit()
    progress(name, "complete", blob.size, blob.size)
    return fetched
