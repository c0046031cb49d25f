"""Blobs: streamed, resumed where they broke off, from whichever server has them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol

import httpx

from reconciler.errors import IntegrityError
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.reference import Reference
from reconciler.registry.failure import SlowError, TemporaryError
from reconciler.registry.fallback import Patience, Turn
from reconciler.registry.hosts import Endpoint, RegistryHosts
from reconciler.registry.session import Ask, Session

MIN_PROGRESS = 1024 * 1024
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-\d{1,19}/(\d{1,19}|\*)", re.ASCII)


class Sink(Protocol):
    """Where a blob's bytes go, in order. It may begin with what an earlier run left.

    The sink hashes, since only it sees the bytes of earlier runs. The client asks for the result before it calls a
    blob fetched, and writes no byte past the descriptor's size.
    """

    @property
    def offset(self) -> int:
        """How many bytes it holds: where to go on."""

    def digest(self) -> Digest:
        """The digest of the bytes it holds now."""

    def write(self, chunk: bytes, /) -> object:
        """Appends ``chunk``."""

    def restart(self) -> object:
        """Throws away what it holds: ``offset`` is 0 again."""


class Downloader:
    """Asks mirrors and registries for blobs."""

    def __init__(self, session: Session, hosts: RegistryHosts, patience: Patience) -> None:
        self._session = session
        self._hosts = hosts
        self._patience = patience

    def blob(self, reference: Reference, descriptor: Descriptor, sink: Sink, progress: Callable[[int], None]) -> str:
        """See ``RegistryClient.blob``."""

        def ask(endpoint: Endpoint, turn: Turn) -> None:
            self._from(endpoint, turn, _ask(endpoint, reference, descriptor), descriptor, sink, progress)

        if descriptor.data is not None and sink.offset < descriptor.size:
            sink.restart()
            sink.write(descriptor.data)
            progress(descriptor.size)

        what = f"fetch blob {descriptor.digest} of {reference.name}"
        return self._patience.first_answer(what, self._hosts.for_content(reference.registry), ask).endpoint.name

    def _from(
        self,
        endpoint: Endpoint,
        turn: Turn,
        ask: Ask,
        descriptor: Descriptor,
        sink: Sink,
        progress: Callable[[int], None],
    ) -> None:
        """All that is missing, from one server. It stays with a server as long as that makes headway."""
        failed = 0
        alone = sink.offset == 0
        while True:
            before = sink.offset
            try:
                self._stream(endpoint, turn, ask, descriptor, sink, progress)
                _verify(endpoint, descriptor, sink)
                return
            except IntegrityError:
                sink.restart()
                # Bytes of another server or of an earlier run may be the wrong ones; this one gets a clean try.
                if alone:
                    raise
                alone = True
            except SlowError:
                raise
            except TemporaryError as error:
                failed = 1 if sink.offset - before >= MIN_PROGRESS else failed + 1
                if failed >= turn.attempts and sink.offset - before < MIN_PROGRESS:
                    raise
                self._patience.pause(failed, error)
            alone = alone or sink.offset == 0

    def _stream(
        self,
        endpoint: Endpoint,
        turn: Turn,
        ask: Ask,
        descriptor: Descriptor,
        sink: Sink,
        progress: Callable[[int], None],
    ) -> None:
        if sink.offset > descriptor.size:
            sink.restart()
        offset = sink.offset
        if offset == descriptor.size:
            return
        ranged = Ask(
            ask.what,
            ask.method,
            ask.url,
            ask.scope,
            headers={"Range": f"bytes={offset}-"} if offset else {},
            statuses=(200, 206, 416) if offset else (200,),
        )
        with self._session.exchange(endpoint, ranged) as response:
            _place(endpoint, response, descriptor, sink)
            for chunk in self._session.chunks(response, descriptor.size - sink.offset, brisk=turn.stand_in):
                if len(chunk) > descriptor.size - sink.offset:
                    raise IntegrityError(f"{endpoint.name}: {ask.what} goes on after {descriptor.size} bytes")
                sink.write(chunk)
                progress(len(chunk))
        if sink.offset < descriptor.size:
            raise TemporaryError(f"{endpoint.name}: {ask.what} ended at {sink.offset} of {descriptor.size} bytes")


def _verify(endpoint: Endpoint, descriptor: Descriptor, sink: Sink) -> None:
    if (found := sink.digest()) != descriptor.digest:
        raise IntegrityError(f"{endpoint.name}: gave other bytes for blob {descriptor.digest}, with digest {found}")


def _place(endpoint: Endpoint, response: httpx.Response, descriptor: Descriptor, sink: Sink) -> None:
    """Makes sure that the body which follows begins where the sink stands; bytes are never appended on trust."""
    if response.status_code == 200:
        if sink.offset:
            sink.restart()  # the server does not do ranges
        length = response.headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) != descriptor.size:
            raise IntegrityError(
                f"{endpoint.name}: blob {descriptor.digest} has {length} bytes, not the promised {descriptor.size}"
            )
        return
    given = response.headers.get("content-range", "")
    match = _CONTENT_RANGE.fullmatch(given)
    fits = (
        response.status_code == 206
        and match is not None
        and int(match[1]) == sink.offset
        and match[2] in ("*", str(descriptor.size))
    )
    if not fits:
        at = sink.offset
        sink.restart()
        raise TemporaryError(
            f"{endpoint.name}: asked for blob {descriptor.digest} from byte {at}, it answered {response.status_code}"
            f" with range {ascii(given[:80])}; starting over"
        )


def _ask(endpoint: Endpoint, reference: Reference, descriptor: Descriptor) -> Ask:
    return Ask(
        what=f"blob {descriptor.digest.short} of {reference.repository}",
        method="GET",
        url=endpoint.url(reference.repository, f"blobs/{descriptor.digest}"),
        scope=endpoint.scope(reference.repository, "pull"),
    )
