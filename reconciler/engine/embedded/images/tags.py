"""Tags: names on this host, and tags at registries."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING

from reconciler.engine.embedded.state import State
from reconciler.errors import (
    AuthError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    ReconcilerError,
    RegistryError,
)
from reconciler.model.address import Address
from reconciler.model.canonical import Form
from reconciler.model.facts import Absent, Known, RemoteTag, Unknown
from reconciler.model.resources import Tag
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.manifest import MAX_MANIFEST_BYTES, Manifest, parse_manifest
from reconciler.oci.reference import Reference
from reconciler.store.images import ImageRecord, LayerRecord, Name

if TYPE_CHECKING:
    from reconciler.engine.port import ItemProgress, Outcome
    from reconciler.registry.blob_upload import BlobProgress
    from reconciler.registry.client import RegistryClient

_WORKERS = 8


class Tags:
    def __init__(self, state: State, transfers: Executor) -> None:
        self._state = state
        self._transfers = transfers

    def set(self, tag: Tag, digest: Digest, form: Form, stack: str) -> bool:
        """Points the local tag at the image; False when it did already."""
        address = Address("tag", str(tag.reference))
        known, row = self._state.names.lookup(address.name), self._state.tags.all().get(address)
        if known is not None and known.digest == digest and row is not None and (row.form, row.stack) == (form, stack):
            return False
        with self._state.database.transaction():
            self._state.names.set(Name(address.name, digest, stack, "tag"))
            self._state.tags.set(address, form, stack)
        return True

    def drop(self, address: Address) -> bool:
        """Removes the local tag. The tag at the registry stays."""
        with self._state.database.transaction():
            self._state.tags.drop(address)
            return self._state.names.remove(address.name)

    def push(
        self,
        client: RegistryClient,
        reference: Reference,
        digest: Digest,
        expected: Digest | None,
        progress: ItemProgress,
        *,
        check: bool = True,
    ) -> Outcome:
        """Pushes the image and writes the tag, unless it is there already.

        With ``check``, refused with ``ConflictError`` when the tag at the registry is neither ``expected`` nor
        ``digest`` any more: somebody moved it since it was looked at. A blob that proves damaged on disk is put in the
        quarantine, fetched again from where it came from, and sent.
        """
        record = self._state.images.get(digest)
        if record is None:
            raise NotFoundError(f"image {digest.short} is not on this host", hint="pull or build it first")
        try:
            return self._push(client, reference, record, expected, progress, check=check)
        except AuthError:
            raise
        except (IntegrityError, NotFoundError, RegistryError):
            if not self._mend(client, record):
                raise
        return self._push(client, reference, record, expected, progress, check=check)

    def _mend(self, client: RegistryClient, record: ImageRecord) -> bool:
        """Fetches again what of an image is damaged on disk; False when nothing is."""
        from reconciler.engine.embedded.upkeep.repair_blobs import BlobSource, put_aside_damaged

        damaged = put_aside_damaged(self._state, record.blobs)
        source = BlobSource(self._state, lambda: client)
        for digest in damaged:
            source.fetch(digest)
        return bool(damaged)

    def _push(
        self,
        client: RegistryClient,
        reference: Reference,
        record: ImageRecord,
        expected: Digest | None,
        progress: ItemProgress,
        *,
        check: bool,
    ) -> Outcome:
        from reconciler.engine.port import Outcome

        digest = record.digest
        if check:
            found = client.tag_digest(reference)
            if found == digest:
                return Outcome(False, digest)
            if found != expected:
                raise ConflictError(
                    f"{reference.familiar} moved to {found.short if found else 'nothing'} while this was planned",
                    hint="plan again and look at it",
                )
        data = self._state.content.read(digest, MAX_MANIFEST_BYTES)
        manifest = parse_manifest(data)
        assert isinstance(manifest, Manifest)  # the store records images of one platform only
        from reconciler.registry.upload import PushManifest

        blobs = [(blob, lambda blob=blob: self._state.content.open(blob.digest)) for blob in manifest.blobs]
        layers = {layer.digest: layer.size for layer in manifest.layers}
        origin = self._origin(digest, reference)
        for layer in manifest.layers:
            progress(layer.digest.short, "waiting", 0, layer.size)
        result = client.push(
            reference,
            blobs,
            [PushManifest(record.media_type, data, digest)],
            mount_from=origin,
            executor=self._transfers,
            progress=_of_layers(layers, origin, progress),
        )
        there = [layers[blob] for blob in result.skipped if blob in layers]
        mounted = [layers[blob] for blob in result.mounted if blob in layers]
        return Outcome(
            True,
            digest,
            bytes_pushed=result.bytes_uploaded,
            layers_there=len(there),
            bytes_there=sum(there),
            layers_mounted=len(mounted),
            bytes_mounted=sum(mounted),
        )

    def _origin(self, digest: Digest, target: Reference) -> Reference | None:
        """The other repository of the same registry that has most of this image's layers: they can be mounted."""
        layers = {layer.digest: layer.size for layer in _layers(self._state, digest)}
        best, most = None, -1
        for name in self._state.names.list():
            if name.kind != "tag":
                continue
            other = Reference.parse(name.name)
            if other.registry == target.registry and other.repository != target.repository:
                shared = layers.keys() & {layer.digest for layer in _layers(self._state, name.digest)}
                if shared and sum(layers[layer] for layer in shared) > most:
                    best, most = other, sum(layers[layer] for layer in shared)
        return best


def _of_layers(layers: Mapping[Digest, int], origin: Reference | None, progress: ItemProgress) -> BlobProgress:
    """What passes on how each of ``layers`` (digest: size) fares; ``origin`` is where they may be mounted from."""
    sent: dict[Digest, int] = {}

    def hear(blob: Descriptor, what: str, more: int) -> None:
        size = layers.get(blob.digest)
        if size is None:
            return  # the config, which nobody takes for a layer
        name = blob.digest.short
        if what == "uploading":
            sent[blob.digest] = min(sent.get(blob.digest, 0) + more, size)
            progress(name, "uploading", sent[blob.digest], size)
        elif what == "mounted":
            progress(name, "mounted", size, size, origin.repository if origin is not None else "")
        else:
            progress(name, "pushed" if what == "uploaded" else "present", size, size)

    return hear


def _layers(state: State, digest: Digest) -> tuple[LayerRecord, ...]:
    record = state.images.get(digest)
    return record.layers if record else ()


def remote_tags(client: RegistryClient, addresses: frozenset[Address]) -> Mapping[Address, RemoteTag]:
    """What each tag is at its registry, asked of the origin alone, in parallel."""
    if not addresses:
        return {}

    def ask(address: Address) -> RemoteTag:
        try:
            digest = client.tag_digest(Reference.parse(address.name))
        except ReconcilerError as error:
            return Unknown(error.reason, error.hint)
        return Known(digest) if digest else Absent()

    ordered = sorted(addresses)
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="tags") as pool:
        return dict(zip(ordered, pool.map(ask, ordered), strict=True))
