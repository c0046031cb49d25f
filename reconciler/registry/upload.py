"""Pushing: blobs first, then the manifests that name them, the tag last, so that a child is never missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, Literal
from urllib.parse import urlencode, urlsplit

import httpx

from reconciler.errors import IntegrityError, NotFoundError, ReconcilerError, RegistryError
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.reference import Reference
from reconciler.registry.failure import printable
from reconciler.registry.fallback import Patience
from reconciler.registry.hosts import Endpoint
from reconciler.registry.session import Ask, Session, join
from reconciler.registry.transport import CHUNK

_Outcome = Literal["skipped", "mounted", "uploaded"]
Opener = Callable[[], BinaryIO]
"""Opens a blob for reading from its first byte. May be called again, for a retry, and by another thread."""


@dataclass(frozen=True, slots=True)
class PushManifest:
    """A manifest to push, as stored: its bytes are sent untouched."""

    media_type: str
    data: bytes
    digest: Digest


@dataclass(frozen=True, slots=True)
class PushResult:
    """``bytes_uploaded`` of blobs and manifests went over the wire; ``skipped`` and ``mounted`` blobs did not."""

    bytes_uploaded: int
    skipped: tuple[Digest, ...]
    mounted: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class _Begun:
    """An answer to the wish to upload: where to send the blob, or that it was ``mounted`` and there is no need."""

    location: str
    mounted: bool = False
    least_chunk: int = 0


class Push:
    """One push to one repository of an origin. Mirrors are never written to."""

    def __init__(
        self,
        session: Session,
        patience: Patience,
        endpoint: Endpoint,
        reference: Reference,
        *,
        mount_from: Reference | None,
        chunk_size: int | None,
        progress: Callable[[int], None],
    ) -> None:
        self._session = session
        self._patience = patience
        self._endpoint = endpoint
        self._reference = reference
        same_registry = mount_from is not None and mount_from.registry == reference.registry
        self._mount_from = mount_from.repository if mount_from is not None and same_registry else None
        self._chunk_size = chunk_size
        self._progress = progress
        self._scope = endpoint.scope(reference.repository, "pull,push")
        if self._mount_from is not None:
            self._scope += " " + endpoint.scope(self._mount_from, "pull")

    def run(
        self,
        blobs: Iterable[tuple[Descriptor, Opener]],
        manifests: Sequence[PushManifest],
        executor: Executor | None,
    ) -> PushResult:
        """See ``RegistryClient.push``."""
        unique = {descriptor.digest: (descriptor, opener) for descriptor, opener in blobs}.values()
        outcomes = _run([partial(self._blob, descriptor, opener) for descriptor, opener in unique], executor)
        done = [(descriptor, outcome) for (descriptor, _), outcome in zip(unique, outcomes, strict=True)]
        for manifest in manifests:
            last = manifest is manifests[-1]
            self._manifest(manifest, self._reference.tag if last and self._reference.tag else manifest.digest)
        sent = sum(descriptor.size for descriptor, outcome in done if outcome == "uploaded")
        return PushResult(
            sent + sum(len(manifest.data) for manifest in manifests),
            tuple(descriptor.digest for descriptor, outcome in done if outcome == "skipped"),
            tuple(descriptor.digest for descriptor, outcome in done if outcome == "mounted"),
        )

    def _blob(self, descriptor: Descriptor, opener: Opener) -> _Outcome:
        attempts = self._patience.attempts(self._endpoint)
        if self._patience.retry(attempts, partial(self._is_there, descriptor)):
            return "skipped"
        # Each attempt is a new upload session: the old one may be gone, or hold bytes that never arrived.
        return self._patience.retry(attempts, partial(self._upload, descriptor, opener))

    def _upload(self, descriptor: Descriptor, opener: Opener) -> _Outcome:
        begun = self._begin(descriptor)
        if begun.mounted:
            return "mounted"
        location = begun.location
        try:
            with opener() as source:
                if self._chunk_size is None:
                    pieces = _pieces(source, descriptor.size, descriptor, self._progress)
                    self._finish(descriptor, location, pieces, descriptor.size)
                else:
                    size = max(self._chunk_size, begun.least_chunk)
                    for start in range(0, descriptor.size, size):
                        location = self._patch(descriptor, location, source, start, size)
                    self._finish(descriptor, location, b"", 0)
        except BaseException:
            self._cancel(descriptor, location)
            raise
        return "uploaded"

    def _url(self, rest: str) -> str:
        return self._endpoint.url(self._reference.repository, rest)

    def _what(self, descriptor: Descriptor) -> str:
        return f"blob {descriptor.digest.short} of {self._reference.name}"

    def _is_there(self, descriptor: Descriptor) -> bool:
        url = self._url(f"blobs/{descriptor.digest}")
        # 405: a server without HEAD; it will take the upload.
        ask = Ask(self._what(descriptor), "HEAD", url, self._scope, statuses=(200, 404, 405))
        with self._session.exchange(self._endpoint, ask) as response:
            return response.status_code == 200

    def _begin(self, descriptor: Descriptor) -> _Begun:
        what = f"upload of {self._what(descriptor)}"
        url = self._url("blobs/uploads/")
        if self._mount_from is not None:
            query = urlencode({"mount": descriptor.digest, "from": self._mount_from})
            ask = Ask(what, "POST", f"{url}?{query}", self._scope, content=b"", statuses=(201, 202))
            # Whatever the server has against mounting, it may still take the bytes.
            with suppress(RegistryError, NotFoundError), self._session.exchange(self._endpoint, ask) as response:
                return self._begun(response)
        ask = Ask(what, "POST", url, self._scope, content=b"", statuses=(202,))
        with self._session.exchange(self._endpoint, ask) as response:
            return self._begun(response)

    def _begun(self, response: httpx.Response) -> _Begun:
        if response.status_code == 201:
            return _Begun("", mounted=True)
        least = response.headers.get("oci-chunk-min-length", "")
        return _Begun(self._location(response), least_chunk=int(least[:12]) if least.isdecimal() else 0)

    def _patch(self, descriptor: Descriptor, location: str, source: BinaryIO, start: int, size: int) -> str:
        """Sends one chunk; the location for what comes next."""
        length = min(size, descriptor.size - start)
        headers = _octets(length) | {"Content-Range": f"{start}-{start + length - 1}"}
        pieces = _pieces(source, length, descriptor, self._progress)
        ask = Ask(self._what(descriptor), "PATCH", location, self._scope, headers, pieces, statuses=(202,))
        with self._session.exchange(self._endpoint, ask) as response:
            return self._location(response)

    def _finish(self, descriptor: Descriptor, location: str, content: bytes | Iterable[bytes], length: int) -> None:
        joint = "&" if urlsplit(location).query else "?"
        url = f"{location}{joint}{urlencode({'digest': descriptor.digest})}"
        ask = Ask(self._what(descriptor), "PUT", url, self._scope, _octets(length), content, statuses=(201, 204))
        with self._session.exchange(self._endpoint, ask):
            pass

    def _cancel(self, descriptor: Descriptor, location: str) -> None:
        """Frees the server's upload session, as far as it lets us."""
        ask = Ask(f"upload of {self._what(descriptor)}", "DELETE", location, self._scope, statuses=(204,))
        with suppress(ReconcilerError), self._session.exchange(self._endpoint, ask):
            pass

    def _manifest(self, manifest: PushManifest, name: str) -> None:
        ask = Ask(
            f"manifest {name} of {self._reference.name}",
            "PUT",
            self._url(f"manifests/{name}"),
            self._scope,
            headers={"Content-Type": manifest.media_type},
            content=manifest.data,
            statuses=(201, 202),
        )
        attempts = self._patience.attempts(self._endpoint)
        stored = self._patience.retry(attempts, partial(self._put, ask)) or manifest.digest
        if stored != manifest.digest:
            raise IntegrityError(
                f"{self._endpoint.name}: stored manifest {name} as {printable(stored)}, not as {manifest.digest}"
            )

    def _put(self, ask: Ask) -> str | None:
        with self._session.exchange(self._endpoint, ask) as response:
            stored: str | None = response.headers.get("docker-content-digest")
            return stored

    def _location(self, response: httpx.Response) -> str:
        """The upload's next address: relative or absolute; its query is the server's own and stays."""
        location = response.headers.get("location")
        if not location:
            raise RegistryError(f"{self._endpoint.name}: began an upload without saying where")
        return join(self._endpoint, str(response.url), location)


def _octets(length: int) -> dict[str, str]:
    return {"Content-Type": "application/octet-stream", "Content-Length": str(length)}


def _pieces(source: BinaryIO, length: int, descriptor: Descriptor, progress: Callable[[int], None]) -> Iterator[bytes]:
    """The next ``length`` bytes of ``source``. A source that is too short breaks the request off."""
    while length > 0:
        piece = source.read(min(CHUNK, length))
        if not piece:
            raise IntegrityError(f"blob {descriptor.digest} is shorter here than the {descriptor.size} bytes promised")
        length -= len(piece)
        yield piece
        progress(len(piece))


def _run(jobs: Sequence[Callable[[], _Outcome]], executor: Executor | None) -> list[_Outcome]:
    """All jobs' results, in order. After a failure none is begun, and those that run are waited for."""
    if executor is None:
        return [job() for job in jobs]
    futures: list[Future[_Outcome]] = [executor.submit(job) for job in jobs]
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
