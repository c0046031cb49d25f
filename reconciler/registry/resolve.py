"""From a reference to a digest, and from a digest to a manifest's verified bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import httpx

from reconciler.errors import IntegrityError, InvalidError, NotFoundError, ReconcilerError, RegistryError
from reconciler.oci import media
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.manifest import MAX_MANIFEST_BYTES, parse_manifest
from reconciler.oci.reference import Reference
from reconciler.registry.failure import ENDPOINT_FAILURES, combine, printable
from reconciler.registry.fallback import Patience
from reconciler.registry.hosts import Endpoint, RegistryHosts
from reconciler.registry.session import Ask, Session

# Not implemented for this method; asking with GET costs one request and always works.
_NO_HEAD = (405, 501)


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a reference points at. ``data`` is the manifest's bytes when they were fetched, verified.

    ``source`` is the name of the server that translated the tag. ``notes`` tells what did not go as it should.
    """

    descriptor: Descriptor
    data: bytes | None
    source: str
    notes: tuple[str, ...] = ()


class Resolver:
    """Asks registries and their mirrors for manifests."""

    def __init__(self, session: Session, hosts: RegistryHosts, patience: Patience) -> None:
        self._session = session
        self._hosts = hosts
        self._patience = patience

    def resolve(self, reference: Reference, known: Callable[[Digest], bool]) -> Resolved:
        """See ``RegistryClient.resolve``."""
        if reference.digest is not None or reference.tag is None:
            return self._fetch(reference)
        notes: list[str] = []
        failures: list[tuple[Endpoint, ReconcilerError]] = []
        for endpoint, attempts in self._patience.turns(self._hosts.for_tags(reference.registry)):
            try:
                found = self._patience.call(attempts, partial(self.tag, endpoint, reference))
            except ENDPOINT_FAILURES as error:
                failures.append((endpoint, error))
                # Only the origin knows what does not exist: a mirror may merely not have it.
                if endpoint.upstream is None and isinstance(error, NotFoundError):
                    break
                notes.append(self._patience.passing(endpoint, error))
                continue
            if found.data is not None or known(found.descriptor.digest):
                return Resolved(found.descriptor, found.data, endpoint.name, tuple(notes))
            fetched = self._fetch(reference.with_digest(found.descriptor.digest))
            return Resolved(fetched.descriptor, fetched.data, endpoint.name, (*notes, *fetched.notes))
        raise combine(f"resolve {reference}", failures)

    def manifest(self, reference: Reference) -> bytes:
        """See ``RegistryClient.manifest``."""
        data = self._fetch(reference).data
        assert data is not None
        return data

    def tag_digest(self, reference: Reference) -> Digest | None:
        """See ``RegistryClient.tag_digest``."""
        origin = self._hosts.origin(reference.registry)
        try:
            ((_, attempts),) = self._patience.turns((origin,))
            return self._patience.call(attempts, lambda: self.tag(origin, reference)).descriptor.digest
        except NotFoundError:
            return None
        except ENDPOINT_FAILURES as error:
            raise combine(f"look up {reference}", [(origin, error)]) from None

    def tag(self, endpoint: Endpoint, reference: Reference) -> Resolved:
        """What one server says of a tag: by HEAD when its answer is complete, else by GET."""
        ask = self._ask(endpoint, reference, reference.tag or "", "HEAD", (200, *_NO_HEAD))
        with self._session.exchange(endpoint, ask) as response:
            descriptor = _from_headers(endpoint, response) if response.status_code == 200 else None
        if descriptor is not None:
            return Resolved(descriptor, None, endpoint.name)
        return self._get(endpoint, reference, reference.tag or "")

    def _fetch(self, reference: Reference) -> Resolved:
        if reference.digest is None:
            raise InvalidError(f"{reference} names no digest", hint="resolve the tag first")
        notes: list[str] = []
        failures: list[tuple[Endpoint, ReconcilerError]] = []
        for endpoint, attempts in self._patience.turns(self._hosts.for_content(reference.registry)):
            try:
                found = self._patience.call(attempts, partial(self._get, endpoint, reference, reference.digest))
            except ENDPOINT_FAILURES as error:
                failures.append((endpoint, error))
                notes.append(self._patience.passing(endpoint, error))
                continue
            return Resolved(found.descriptor, found.data, endpoint.name, tuple(notes))
        raise combine(f"fetch the manifest {reference}", failures)

    def _get(self, endpoint: Endpoint, reference: Reference, target: str) -> Resolved:
        ask = self._ask(endpoint, reference, target, "GET", (200,))
        with self._session.exchange(endpoint, ask) as response:
            _check_size(endpoint, response)
            data = self._session.read(response, MAX_MANIFEST_BYTES)
            headers = response.headers
        digest = Digest.of(data)
        # For a request by digest the header decides nothing: the digest that was asked for does.
        promised = reference.digest if target == reference.digest else headers.get("docker-content-digest")
        if promised is not None and promised != digest:
            raise IntegrityError(
                f"{endpoint.name}: manifest of {reference} has digest {digest}, not the promised {printable(promised)}"
            )
        manifest = parse_manifest(data, headers.get("content-type", ""))
        return Resolved(Descriptor(manifest.media_type, digest, len(data)), data, endpoint.name)

    def _ask(
        self, endpoint: Endpoint, reference: Reference, target: str, method: str, statuses: tuple[int, ...]
    ) -> Ask:
        return Ask(
            what=f"manifest of {reference}",
            method=method,
            url=endpoint.url(reference.repository, f"manifests/{target}"),
            scope=endpoint.scope(reference.repository, "pull"),
            headers={"Accept": media.ACCEPT_MANIFEST},
            statuses=statuses,
        )


def _from_headers(endpoint: Endpoint, response: httpx.Response) -> Descriptor | None:
    """What a HEAD tells, or None when it does not tell all: then the body must decide."""
    headers = response.headers
    media_type = media.bare(headers.get("content-type", ""))
    length = headers.get("content-length", "")
    digest = headers.get("docker-content-digest")
    if digest is None or not length.isdecimal() or media_type not in media.MANIFESTS | media.INDEXES:
        return None
    _check_size(endpoint, response)
    try:
        return Descriptor(media_type, Digest(digest), int(length))
    except InvalidError as error:
        raise RegistryError(f"{endpoint.name}: {error}", hint=error.hint) from None


def _check_size(endpoint: Endpoint, response: httpx.Response) -> None:
    length = response.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > MAX_MANIFEST_BYTES:
        raise InvalidError(f"{endpoint.name}: manifest has {length} bytes, more than the {MAX_MANIFEST_BYTES} allowed")
