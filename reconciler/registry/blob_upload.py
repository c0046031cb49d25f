"""One blob up to one repository: mounted, sent in one request or in chunks, and gone on with where it broke off."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import BinaryIO, Literal
from urllib.parse import urlencode, urlsplit

import httpx

from reconciler.errors import AuthError, IntegrityError, NotFoundError, ReconcilerError, RegistryError
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.reference import Reference
from reconciler.registry.failure import TemporaryError
from reconciler.registry.fallback import Patience
from reconciler.registry.hosts import Endpoint
from reconciler.registry.session import Ask, Session, join
from reconciler.registry.transport import CHUNK
from reconciler.value import dataclass

Outcome = Literal["skipped", "mounted", "uploaded"]
BlobProgress = Callable[[Descriptor, Outcome | Literal["uploading"], int], None]
"""A blob and what became of it; with ``uploading`` also how many more bytes of it were sent."""

Opener = Callable[[], BinaryIO]
"""Opens a blob for reading from its first byte. May be called again, for a retry, and by another thread."""

_RECEIVED = re.compile(r"(?:bytes=)?0-(\d{1,19})", re.ASCII)


@dataclass(slots=True)
class _Upload:
    """An upload session at the server: where the next bytes go, and how many it has."""

    location: str
    least_chunk: int = 0
    offset: int = 0


class Uploader:
    """Sends blobs to a repository of an origin; ``mount_from`` is a repository of the same registry, or None."""

    def __init__(
        self,
        session: Session,
        patience: Patience,
        endpoint: Endpoint,
        reference: Reference,
        *,
        mount_from: str | None,
        chunk_size: int | None,
        progress: BlobProgress,
    ) -> None:
        self._session = session
        self._patience = patience
        self._endpoint = endpoint
        self._reference = reference
        self._mount_from = mount_from
        self._chunk_size = chunk_size
        self._progress = progress
        self.scope = endpoint.scope(reference.repository, "pull,push")
        if mount_from is not None:
            self.scope += " " + endpoint.scope(mount_from, "pull")

    def blob(self, descriptor: Descriptor, opener: Opener) -> Outcome:
        """Makes the blob exist in the repository. Whatever fails, the server is told to forget what it has of it."""
        attempts = self._patience.attempts(self._endpoint)
        if self._patience.retry(attempts, lambda: self._is_there(descriptor)):
            return "skipped"
        upload: _Upload | None = None
        failed = 0
        try:
            while True:
                before = upload.offset if upload is not None else 0
                try:
                    if upload is None:
                        upload = self._begin(descriptor)
                        if upload is None:
                            return "mounted"
                    self._send(upload, descriptor, opener)
                    return "uploaded"
                except TemporaryError as error:
                    failed += 1
                    if failed >= attempts:
                        raise
                    self._patience.pause(failed, error)
                    upload = self._caught_up(upload, descriptor)
                    if upload is None and self._patience.retry(attempts, lambda: self._is_there(descriptor)):
                        return "uploaded"  # only the answer was lost
                    if upload is not None and upload.offset > before:
                        failed = 0
        except BaseException:
            self._cancel(descriptor, upload)
            raise

    def _is_there(self, descriptor: Descriptor) -> bool:
        url = self._endpoint.url(self._reference.repository, f"blobs/{descriptor.digest}")
        # 405: a server without HEAD; it will take the upload.
        ask = Ask(self._what(descriptor), "HEAD", url, self.scope, statuses=(200, 404, 405))
        with self._session.exchange(self._endpoint, ask) as response:
            return response.status_code == 200

    def _begin(self, descriptor: Descriptor) -> _Upload | None:
        """A new upload session; None when the server mounted the blob and there is no need."""
        what = f"upload of {self._what(descriptor)}"
        url = self._endpoint.url(self._reference.repository, "blobs/uploads/")
        if self._mount_from is not None:
            query = urlencode({"mount": descriptor.digest, "from": self._mount_from})
            ask = Ask(what, "POST", f"{url}?{query}", self.scope, content=b"", statuses=(201, 202))
            # Whatever the server has against mounting, it may still take the bytes.
            with suppress(RegistryError, NotFoundError), self._session.exchange(self._endpoint, ask) as response:
                return None if response.status_code == 201 else self._begun(response)
        ask = Ask(what, "POST", url, self.scope, content=b"", statuses=(202,))
        with self._session.exchange(self._endpoint, ask) as response:
            return self._begun(response)

    def _begun(self, response: httpx.Response) -> _Upload:
        least = response.headers.get("oci-chunk-min-length", "")
        return _Upload(self._location(response), int(least[:12]) if least.isdecimal() else 0)

    def _send(self, upload: _Upload, descriptor: Descriptor, opener: Opener) -> None:
        """All that the server lacks. Keeps ``upload`` at what it has acknowledged."""
        with opener() as source:
            _skip(source, upload.offset)
            if self._chunk_size is None and upload.offset == 0:
                pieces = self._pieces(source, descriptor.size, descriptor)
                self._finish(upload, descriptor, pieces, descriptor.size)
                return
            size = max(self._chunk_size or descriptor.size, upload.least_chunk)
            while upload.offset < descriptor.size:
                self._patch(upload, descriptor, source, min(size, descriptor.size - upload.offset))
        self._finish(upload, descriptor, b"", 0)

    def _patch(self, upload: _Upload, descriptor: Descriptor, source: BinaryIO, length: int) -> None:
        headers = _octets(length) | {"Content-Range": f"{upload.offset}-{upload.offset + length - 1}"}
        pieces = self._pieces(source, length, descriptor)
        ask = Ask(self._what(descriptor), "PATCH", upload.location, self.scope, headers, pieces, statuses=(202, 416))
        with self._session.exchange(self._endpoint, ask) as response:
            if response.status_code == 416:
                raise TemporaryError(f"{self._endpoint.name}: has another part of {ask.what} than we sent")
            upload.location = self._location(response)
            upload.offset += length

    def _finish(self, upload: _Upload, descriptor: Descriptor, content: bytes | Iterable[bytes], length: int) -> None:
        joint = "&" if urlsplit(upload.location).query else "?"
        url = f"{upload.location}{joint}{urlencode({'digest': descriptor.digest})}"
        ask = Ask(self._what(descriptor), "PUT", url, self.scope, _octets(length), content, statuses=(201, 204))
        with self._session.exchange(self._endpoint, ask):
            pass

    def _caught_up(self, upload: _Upload | None, descriptor: Descriptor) -> _Upload | None:
        """The session at what the server says it has; None when it can only be begun anew."""
        if upload is None:
            return None
        ask = Ask(f"upload of {self._what(descriptor)}", "GET", upload.location, self.scope, statuses=(200, 202, 204))
        try:
            with self._session.exchange(self._endpoint, ask) as response:
                received = _RECEIVED.fullmatch(response.headers.get("range", ""))
                offset = int(received[1]) + 1 if received is not None else 0
                # "0-0" says that it has one byte, or nothing: to go on from either is wrong for the other.
                if 1 < offset <= descriptor.size:
                    location = self._location(response) if "location" in response.headers else upload.location
                    return _Upload(location, upload.least_chunk, offset)
        except NotFoundError:
            return None
        except AuthError:
            raise
        except RegistryError:
            pass  # it does not tell, or cannot be asked now
        self._cancel(descriptor, upload)
        return None

    def _cancel(self, descriptor: Descriptor, upload: _Upload | None) -> None:
        """Frees the server's upload session, as far as it lets us."""
        if upload is None:
            return
        ask = Ask(f"upload of {self._what(descriptor)}", "DELETE", upload.location, self.scope, statuses=(204,))
        with suppress(ReconcilerError), self._session.exchange(self._endpoint, ask):
            pass

    def _pieces(self, source: BinaryIO, length: int, descriptor: Descriptor) -> Iterator[bytes]:
        """The next ``length`` bytes of ``source``. A source that is too short breaks the request off."""
        while length > 0:
            piece = source.read(min(CHUNK, length))
            if not piece:
                raise IntegrityError(
                    f"blob {descriptor.digest} is shorter here than the {descriptor.size} bytes promised"
                )
            length -= len(piece)
            yield piece
            self._progress(descriptor, "uploading", len(piece))

    def _what(self, descriptor: Descriptor) -> str:
        return f"blob {descriptor.digest.short} of {self._reference.name}"

    def _location(self, response: httpx.Response) -> str:
        """The upload's next address: relative or absolute; its query is the server's own and stays."""
        location = response.headers.get("location")
        if not location:
            raise RegistryError(f"{self._endpoint.name}: began an upload without saying where")
        return join(self._endpoint, str(response.url), location)


def _octets(length: int) -> dict[str, str]:
    return {"Content-Type": "application/octet-stream", "Content-Length": str(length)}


def _skip(source: BinaryIO, offset: int) -> None:
    """Goes to ``offset`` in a source that was just opened."""
    if offset and source.seekable():
        source.seek(offset)
        return
    while offset > 0 and (piece := source.read(min(CHUNK, offset))):
        offset -= len(piece)
