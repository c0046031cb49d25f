"""Pushing: blobs first, then the manifests that name them, the tag last, so that a child is never missing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, wait
from contextlib import AbstractContextManager
from functools import partial
from typing import Literal

from reconciler.errors import IntegrityError
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.reference import Reference
from reconciler.registry.blob_upload import BlobProgress, Opener, Outcome, Uploader
from reconciler.registry.failure import printable
from reconciler.registry.fallback import Patience
from reconciler.registry.hosts import Endpoint
from reconciler.registry.session import Ask, Session
from reconciler.registry.turns import Turns
from reconciler.value import dataclass

_BEING_WRITTEN = ("DIGEST_INVALID",)
"""What distribution's file system driver says of a blob whose link another push is writing at the same moment: it reads
an empty digest. Ours was computed from the bytes we send, so it can mean nothing else."""


@dataclass(frozen=True, slots=True)
class PushManifest:
    """A manifest to push, as stored: its bytes are sent untouched."""

    media_type: str
    data: bytes
    digest: Digest


@dataclass(frozen=True, slots=True)
class PushResult:
    """``bytes_uploaded`` of blobs went over the wire, those sent twice twice; ``skipped`` and ``mounted`` did not."""

    bytes_uploaded: int
    skipped: tuple[Digest, ...]
    mounted: tuple[Digest, ...]


class Push:
    """One push to one repository of an origin. Mirrors are never written to.

    ``turns`` are those of all pushes of a client: what two of them have in common goes up once, and never at once.
    """

    def __init__(
        self,
        session: Session,
        patience: Patience,
        endpoint: Endpoint,
        reference: Reference,
        *,
        turns: Turns,
        mount_from: Reference | None,
        chunk_size: int | None,
        progress: BlobProgress,
    ) -> None:
        self._session = session
        self._patience = patience
        self._endpoint = endpoint
        self._reference = reference
        self._turns = turns
        self._progress = progress
        self._guard = threading.Lock()
        self._sent = 0
        same_registry = mount_from is not None and mount_from.registry == reference.registry
        self._uploader = Uploader(
            session,
            patience,
            endpoint,
            reference,
            mount_from=mount_from.repository if mount_from is not None and same_registry else None,
            chunk_size=chunk_size,
            progress=self._heard,
        )

    def run(
        self,
        blobs: Iterable[tuple[Descriptor, Opener]],
        manifests: Sequence[PushManifest],
        executor: Executor | None,
    ) -> PushResult:
        """See ``RegistryClient.push``."""
        unique = {descriptor.digest: (descriptor, opener) for descriptor, opener in blobs}.values()
        outcomes = _run([partial(self.blob, descriptor, opener) for descriptor, opener in unique], executor)
        done = [(descriptor, outcome) for (descriptor, _), outcome in zip(unique, outcomes, strict=True)]
        for manifest in manifests:
            last = manifest is manifests[-1]
            self._manifest(manifest, self._reference.tag if last and self._reference.tag else manifest.digest)
        return PushResult(
            self._sent,
            tuple(descriptor.digest for descriptor, outcome in done if outcome == "skipped"),
            tuple(descriptor.digest for descriptor, outcome in done if outcome == "mounted"),
        )

    def blob(self, descriptor: Descriptor, opener: Opener) -> Outcome:
        """Makes one blob exist in the repository."""
        with self._turn(descriptor.digest):
            outcome = self._uploader.blob(descriptor, opener)
        self._progress(descriptor, outcome, 0)
        return outcome

    def _turn(self, digest: Digest) -> AbstractContextManager[None]:
        return self._turns.of((self._endpoint.origin, self._reference.repository, digest))

    def _heard(self, descriptor: Descriptor, what: Outcome | Literal["uploading"], more: int) -> None:
        with self._guard:
            self._sent += more
        self._progress(descriptor, what, more)

    def _manifest(self, manifest: PushManifest, name: str) -> None:
        ask = Ask(
            f"manifest {name} of {self._reference.name}",
            "PUT",
            self._endpoint.url(self._reference.repository, f"manifests/{name}"),
            self._uploader.scope,
            headers={"Content-Type": manifest.media_type},
            content=manifest.data,
            statuses=(201, 202),
            passing=_BEING_WRITTEN,
        )
        attempts = self._patience.attempts(self._endpoint)
        with self._turn(manifest.digest):
            stored = self._patience.retry(attempts, partial(self._put, ask)) or manifest.digest
        if stored != manifest.digest:
            raise IntegrityError(
                f"{self._endpoint.name}: stored manifest {name} as {printable(stored)}, not as {manifest.digest}"
            )

    def _put(self, ask: Ask) -> str | None:
        with self._session.exchange(self._endpoint, ask) as response:
            stored: str | None = response.headers.get("docker-content-digest")
            return stored


def _run(jobs: Sequence[Callable[[], Outcome]], executor: Executor | None) -> list[Outcome]:
    """All jobs' results, in order. After a failure none is begun, and those that run are waited for."""
    if executor is None:
        return [job() for job in jobs]
    futures: list[Future[Outcome]] = [executor.submit(job) for job in jobs]
    try:
        wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            if future.done():
                future.result()
    finally:
        for future in futures:
            future.cancel()
        wait(futures)
    return [future.result() for future in futures]
