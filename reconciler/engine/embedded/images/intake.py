"""Images: from a registry or an archive into the store. Commits are in ``commit``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from reconciler.clock import SystemClock, rfc3339
from reconciler.engine.embedded.images.build import new_config
from reconciler.engine.embedded.images.checks import check_entry, check_layers, image_manifest
from reconciler.engine.embedded.images.resolve import ManifestSource, check_platform
from reconciler.engine.embedded.state import State
from reconciler.engine.embedded.upkeep.repair_blobs import put_aside_damaged
from reconciler.errors import IntegrityError, InvalidError, ReconcilerError
from reconciler.model.resources import Import
from reconciler.oci import media
from reconciler.oci.config import MAX_CONFIG_BYTES, ImageConfig
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.layers import chain_ids
from reconciler.oci.manifest import MAX_MANIFEST_BYTES, Manifest
from reconciler.oci.platform import Platform
from reconciler.oci.reference import Reference
from reconciler.store.archive.compression import GzipWriter, decompress
from reconciler.store.collection.leases import Lease
from reconciler.store.images import ImageRecord, LayerRecord
from reconciler.store.layers.unpacking import Unpacking
from reconciler.value import dataclass

if TYPE_CHECKING:
    from reconciler.engine.port import ItemProgress, ItemState
    from reconciler.registry.client import RegistryClient
    from reconciler.store.archive.limits import Limits
    from reconciler.store.arrival import Arrival
    from reconciler.store.image_archive.reader import ArchivedImage
    from reconciler.store.layers.workers import Workers


@dataclass(frozen=True, slots=True)
class Pulled:
    """An image that is complete on disk now: ``fetched`` bytes of its blobs came over the network, and ``there`` are
    its layers that were on disk before."""

    record: ImageRecord
    fetched: int
    there: tuple[LayerRecord, ...]

    @property
    def bytes_there(self) -> int:
        return sum(layer.size for layer in self.there)


@dataclass(frozen=True, slots=True)
class _Fetched:
    """A blob that is on disk now: ``size`` bytes came over the network, none when it was ``there`` before."""

    size: int
    there: bool


def _unheard(item: str, state: ItemState, done: int, total: int | None, origin: str = "") -> None:
    """For a config, which nobody takes for a layer."""
    del item, state, done, total, origin


class Images:
    """Brings images into the store. Each method takes a lease before its first byte, so gc never races it."""

    def __init__(self, state: State, manifests: ManifestSource, transfers: Executor) -> None:
        self._state = state
        self._manifests = manifests
        self._transfers = transfers

    @property
    def spool(self) -> Path:
        """A directory for temporary files, on the filesystem that images are kept on."""
        return self._state.root

    # From a registry

    def pull(
        self,
        client: RegistryClient,
        reference: Reference,
        digest: Digest,
        index: Digest | None,
        progress: ItemProgress,
        platform: Platform | None = None,
        workers: Workers | None = None,
    ) -> Pulled:
        """Makes the image with manifest ``digest`` complete on disk.

        What is there already is not fetched. Layers are fetched side by side and unpacked as they arrive, by
        ``workers`` if they are started already (they stay their owner's). ``index``
        is what the image was chosen from, and kept with it. A blob that proves damaged when it is read is put in the
        quarantine and fetched again. Raises ``InvalidError`` before any layer is fetched when
        the image is not for the ``platform`` asked for, or is another than the index says.
        """
        implied = Platform.host() if index is not None and reference.digest != digest else None
        wanted = platform or implied
        known = self._state.images.get(digest)
        if known is not None and self.complete(known) and (index is None or self._state.content.has(index)):
            check_platform(reference, wanted, known.platform)
            return Pulled(known, 0, known.layers)
        put_aside_damaged(self._state, [digest, *((index,) if index is not None else ())])
        while True:
            try:
                return self._pull(client, reference, digest, index, progress, wanted, workers)
            except (IntegrityError, InvalidError):
                # What is damaged on this disk is out of the way then, and is fetched.
                if not put_aside_damaged(self._state, self._parts(digest)):
                    raise

    def _pull(
        self,
        client: RegistryClient,
        reference: Reference,
        digest: Digest,
        index: Digest | None,
        progress: ItemProgress,
        wanted: Platform | None,
        workers: Workers | None,
    ) -> Pulled:
        with (
            self._state.leases.take(f"pull {reference.familiar}", [digest]) as lease,
            nullcontext(workers) if workers is not None else self._state.layers.workers() as started,
        ):
            data = self._manifests.get(client, reference, digest)
            manifest = image_manifest(data, reference)
            lease.add(blob.digest for blob in manifest.blobs)
            self._state.content.put(data)
            index_data = self._manifests.get(client, reference, index) if index is not None else None
            if index is not None and index_data is not None:
                lease.add([index])
                self._state.content.put(index_data)
            fetched = self._fetch(client, reference, manifest.config, _unheard).size
            config = self._config(manifest.config)
            check_platform(reference, wanted, config.platform)
            check_entry(index_data, digest, config)
            check_layers(manifest, config)
            layers = self._layers(client, reference, manifest, config, lease, progress, started)
            with self._state.database.transaction():
                record = self._record(digest, manifest, config, index)
                self._state.images.add_repository(digest, reference.name)
            there = tuple(layer for layer, how in zip(record.layers, layers, strict=True) if how.there)
            return Pulled(record, fetched + sum(layer.size for layer in layers), there)

    def _parts(self, digest: Digest) -> list[Digest]:
        """The blobs that the manifest ``digest`` names, as far as it can be read here."""
        try:
            manifest = image_manifest(self._state.content.read(digest, MAX_MANIFEST_BYTES), None)
        except ReconcilerError:
            return []
        return [blob.digest for blob in manifest.blobs]

    def _layers(
        self,
        client: RegistryClient,
        reference: Reference,
        manifest: Manifest,
        config: ImageConfig,
        lease: Lease,
        progress: ItemProgress,
        workers: Workers,
    ) -> list[_Fetched]:
        lease.add(chain_ids(config.diff_ids))
        for layer in manifest.layers:
            progress(layer.digest.short, "waiting", 0, layer.size)
        with self._state.layers.unpacking(config.diff_ids, workers) as unpacking:
            heard = _breaking_off(progress, unpacking)
            jobs = [
                self._transfers.submit(self._layer, client, reference, layer, at, unpacking, heard)
                for at, layer in enumerate(manifest.layers)
            ]
            fetched = _all(jobs, manifest.layers, unpacking, progress)
            unpacking.publish()
        return fetched

    def _layer(
        self,
        client: RegistryClient,
        reference: Reference,
        layer: Descriptor,
        at: int,
        unpacking: Unpacking,
        progress: ItemProgress,
    ) -> _Fetched:
        """Fetches one layer, whose unpack follows. It may go on when this returns."""
        if at not in unpacking.missing:
            fetched = self._fetch(client, reference, layer, progress)
            progress(layer.digest.short, "exists" if fetched.there else "complete", layer.size, layer.size)
            return fetched
        try:
            arrival = unpacking.arrival(at, layer.digest)
            fetched = self._fetch(client, reference, layer, progress, arrival)
            with self._state.content.open(layer.digest) as blob:
                arrival.complete(blob.fileno())
        except BaseException as error:
            unpacking.abandon(error)
            raise
        progress(layer.digest.short, "extracting", layer.size, layer.size)
        return fetched

    def _fetch(
        self,
        client: RegistryClient,
        reference: Reference,
        descriptor: Descriptor,
        progress: ItemProgress,
        arrival: Arrival | None = None,
    ) -> _Fetched:
        """Fetches one blob unless it is there. ``arrival`` may follow it."""
        fetched, name, size = 0, descriptor.digest.short, descriptor.size

        def count(more: int) -> None:
            nonlocal fetched
            fetched += more
            progress(name, "downloading", ingest.offset, size)

        with self._state.content.ingest(descriptor.digest, size) as ingest:
            there = ingest.present
            if not there and descriptor.data is not None:
                ingest.restart()
                ingest.write(descriptor.data)
                ingest.commit()
            elif not there:
                if arrival is not None:
                    ingest.follow(arrival)
                progress(name, "resuming" if ingest.offset else "pulling", ingest.offset, size)
                client.blob(reference, descriptor, ingest, count)
                progress(name, "verifying", size, size)
                ingest.commit()
        return _Fetched(fetched, there)

    # From an archive

    def import_archive(self, source: Import, opener: Callable[[], BinaryIO]) -> ImageRecord:
        """One layer from a root filesystem archive. The same archive and config give the same image."""
        with (
            self._state.leases.take(f"import {source.archive.path}") as lease,
            self._state.content.new_blob() as blob,
            opener() as archive,
        ):
            diff_id = _copy_layer(archive, blob.write, self._state.layers.limits)
            size = blob.offset
            lease.add([blob.digest()])
            digest = blob.commit()
            layer = Descriptor(media.OCI_LAYER_GZIP, digest, size)
            config = new_config(source.config, source.platform or Platform.host(), diff_id)
            return self._build(config, (layer,), {}, lease)

    def add_image(self, archived: ArchivedImage, purpose: str, progress: ItemProgress | None = None) -> ImageRecord:
        """The image of an archive that is being loaded, complete on disk. Digests and sizes are verified."""
        digest = Digest.of(archived.manifest)
        manifest = image_manifest(archived.manifest, None)
        index = Digest.of(archived.index) if archived.index is not None else None
        with self._state.leases.take(purpose, [digest, *(blob.digest for blob in manifest.blobs)]) as lease:
            self._state.content.put(archived.manifest)
            if index is not None and archived.index is not None:
                lease.add([index])
                self._state.content.put(archived.index)
            self._ingest(archived, manifest.config)
            config = self._config(manifest.config)
            check_layers(manifest, config)
            check_entry(archived.index, digest, config)
            heard = progress or _unheard
            for layer in manifest.layers:
                heard(layer.digest.short, "waiting", 0, layer.size)
            came = [self._ingest(archived, layer, heard) for layer in manifest.layers]
            unpacked = self._unpack(manifest.layers, config, lease, heard)
            for at, layer in enumerate(manifest.layers):
                if came[at] and at not in unpacked:
                    heard(layer.digest.short, "loaded", layer.size, layer.size)
            return self._record(digest, manifest, config, index)

    def _ingest(self, archived: ArchivedImage, descriptor: Descriptor, progress: ItemProgress = _unheard) -> bool:
        """Takes one blob out of an archive; False when it was there."""
        name, size = descriptor.digest.short, descriptor.size
        with self._state.content.ingest(descriptor.digest, descriptor.size) as ingest:
            if ingest.present:
                progress(name, "exists", size, size)
                return False
            ingest.restart()
            with archived.blob(descriptor) as source:
                while chunk := source.read(1 << 20):
                    ingest.write(chunk)
                    progress(name, "loading", ingest.offset, size)
            progress(name, "verifying", size, size)
            ingest.commit()
            return True

    # Parts

    def complete(self, record: ImageRecord) -> bool:
        """Whether all of an image is there: its layers are unpacked when a container needs them (``State.unpack``)."""
        return all(self._state.content.has(blob) for blob in record.blobs)

    def _build(
        self, config_data: bytes, layers: Sequence[Descriptor], annotations: dict[str, str], lease: Lease
    ) -> ImageRecord:
        config_digest = Digest.of(config_data)
        descriptor = Descriptor(media.OCI_CONFIG, config_digest, len(config_data))
        data = Manifest.build(descriptor, tuple(layers), annotations)
        digest = Digest.of(data)
        lease.add([config_digest, digest])
        self._state.content.put(config_data)
        self._state.content.put(data)
        manifest = image_manifest(data, None)
        config = ImageConfig.parse(config_data)
        self._unpack(manifest.layers, config, lease)
        return self._record(digest, manifest, config, None)

    def _unpack(
        self, layers: Sequence[Descriptor], config: ImageConfig, lease: Lease, progress: ItemProgress = _unheard
    ) -> tuple[int, ...]:
        """Unpacks the layers that are not yet; their indices."""
        lease.add(chain_ids(config.diff_ids))
        with self._state.layers.unpacking(config.diff_ids) as unpacking:
            for at in unpacking.missing:
                name, size = layers[at].digest.short, layers[at].size
                progress(name, "extracting", size, size)
                with self._state.content.open(layers[at].digest) as source:
                    unpacking.unpack(at, source, layers[at].digest)
                progress(name, "loaded", size, size)
            unpacking.publish()
            return unpacking.missing

    def _config(self, descriptor: Descriptor) -> ImageConfig:
        return ImageConfig.parse(self._state.content.read(descriptor.digest, MAX_CONFIG_BYTES))

    def _record(self, digest: Digest, manifest: Manifest, config: ImageConfig, index: Digest | None) -> ImageRecord:
        size = sum(blob.size for blob in manifest.blobs) + self._state.content.size(digest)
        layers = tuple(
            LayerRecord(layer.digest, layer.size, layer.media_type, diff_id)
            for layer, diff_id in zip(manifest.layers, config.diff_ids, strict=True)
        )
        record = ImageRecord(
            digest,
            manifest.media_type,
            manifest.config,
            layers,
            index,
            config.platform,
            size,
            config.created,
            rfc3339(SystemClock().now()),
        )
        self._state.images.add(record)
        return record


def _all(
    jobs: Sequence[Future[_Fetched]], layers: Sequence[Descriptor], unpacking: Unpacking, progress: ItemProgress
) -> list[_Fetched]:
    """What became of each layer, once it is fetched and unpacked.

    Raises what made one fail when all have ended, so that none runs on behind it.
    """
    failure: BaseException | None = None
    fetched = []
    for at, (job, layer) in enumerate(zip(jobs, layers, strict=True)):
        try:
            fetched.append(job.result())
            if failure is None and at in unpacking.missing:
                unpacking.wait(at)
                progress(layer.digest.short, "complete", layer.size, layer.size)
        except BaseException as error:  # noqa: BLE001  raised below
            unpacking.abandon(error)
            failure = failure or error
    if failure is not None:
        raise unpacking.failure or failure
    return fetched


def _breaking_off(progress: ItemProgress, unpacking: Unpacking) -> ItemProgress:
    """``progress`` for the threads that fetch: it ends them when somebody interrupted the whole."""

    def report(item: str, state: ItemState, done: int, total: int | None, origin: str = "") -> None:
        failure = unpacking.failure
        if failure is not None and not isinstance(failure, Exception):
            raise failure
        progress(item, state, done, total, origin)

    return report


def _copy_layer(archive: BinaryIO, write: Callable[[bytes], object], limits: Limits) -> Digest:
    """Writes an archive, however it is compressed, as a gzip layer; the diff ID of what is in it."""
    hasher, gzip = hashlib.sha256(), GzipWriter()
    for chunk in decompress(archive, limits):
        hasher.update(chunk)
        write(gzip.compress(chunk))
    write(gzip.finish())
    return Digest("sha256:" + hasher.hexdigest())
