"""Getting blobs again that are damaged or gone, from the registries that they came from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.engine.embedded.state import State
from reconciler.errors import NotFoundError, ReconcilerError
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.reference import Reference
from reconciler.store.check.claims import MALFORMED
from reconciler.store.check.rehash import flaw_of
from reconciler.store.quarantine import Quarantine

if TYPE_CHECKING:
    from reconciler.registry.client import RegistryClient
    from reconciler.store.images import ImageRecord

_BUFFER = 1 << 20


def put_aside_damaged(state: State, digests: Iterable[Digest]) -> dict[Digest, Path]:
    """Reads blobs again and moves those with wrong bytes to the quarantine: where each is now. Needs the turn.

    Raises ``HostError`` when one cannot be moved.
    """
    buffer = bytearray(_BUFFER)
    found = {}
    for digest in dict.fromkeys(digests):
        path = state.content.path(digest)
        if flaw_of(digest, path, buffer, lambda _: None) is not None:
            aside = Quarantine(state.root).take(path, "blob")
            if aside is not None:
                found[digest] = aside
    return found


class BlobSource:
    """Fetches single blobs of recorded images. ``client`` is asked for only when a registry has to be."""

    def __init__(self, state: State, client: Callable[[], RegistryClient]) -> None:
        self._state = state
        self._client = client

    def fetch(self, digest: Digest) -> str:
        """Makes a blob present; the name of the repository that it came from. Needs the turn.

        Raises ``NotFoundError`` when no image on record needs it, or none that came from a registry; and what the
        last registry answered.
        """
        images = [image for image in self._state.images.list() if digest in (*image.blobs, image.index_digest)]
        references = list(dict.fromkeys(self._references(images)))
        if not references:
            raise NotFoundError(
                f"no registry is known for blob {digest}", hint="pull, load, import or commit the image again"
            )
        failure: ReconcilerError | None = None
        with self._state.leases.take(f"repair {digest.short}", [digest]):
            for reference in references:
                try:
                    self._from(reference, digest, images)
                except ReconcilerError as error:
                    failure = error
                else:
                    return reference.name
        assert failure is not None
        raise failure

    def _from(self, reference: Reference, digest: Digest, images: list[ImageRecord]) -> None:
        content = self._state.content
        if any(digest in (image.digest, image.index_digest) for image in images):
            content.put(self._client().manifest(reference.with_digest(digest)))
            return
        descriptor = next(part for image in images for part in _parts(image) if part.digest == digest)
        with content.ingest(digest, descriptor.size) as ingest:
            if not ingest.present:
                self._client().blob(reference, descriptor, ingest)
                ingest.commit()

    def _references(self, images: list[ImageRecord]) -> Iterator[Reference]:
        """Where these images may be had: the repositories they were pulled from, then those that name them."""
        digests = {image.digest for image in images}
        texts = [text for image in images for text in self._state.images.repositories(image.digest)]
        texts += [name.name for name in self._state.names.list() if name.kind == "tag" and name.digest in digests]
        for text in texts:
            try:
                yield Reference.parse(Reference.parse(text).name)
            except MALFORMED:
                continue


def _parts(image: ImageRecord) -> Iterator[Descriptor]:
    yield image.config
    for layer in image.layers:
        yield Descriptor(layer.media_type, layer.digest, layer.size)
