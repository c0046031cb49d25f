"""From a reference to a digest, and from a digest to a manifest's verified bytes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import httpx

from reconciler.errors import IntegrityError, InvalidError, LimitError, NotFoundError, RegistryError
from reconciler.oci import media
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.manifest import parse_manifest
from reconciler.oci.reference import Reference
from reconciler.oci.sizes import DEFAULT_MANIFEST_BYTES
from reconciler.registry.failure import printable
from reconciler.registry.fallback import Patience
from reconciler.registry.hosts import Endpoint, RegistryHosts
from reconciler.registry.session import Ask, Session
from reconciler.value import dataclass

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
    """Asks registries and their mirrors for manifests of at most ``limit`` bytes."""

    def __init__(
        self, session: Session, hosts: RegistryHosts, patience: Patience, limit: int = DEFAULT_MANIFEST_BYTES
    ) -> None:
        self._session = session
        self._hosts = hosts
        self._patience = patience
        self._limit = limit

    def resolve(self, reference: Reference, known: Callable[[Digest], bool], *, quiet: bool = False) -> Resolved:
        """See ``RegistryClient.resolve``."""
        if reference.digest is not None or reference.tag is None:
            return self._fetch(reference, quiet=quiet)
        answer = self._patience.first_answer(
            f"resolve {reference}",
            self._hosts.for_tags(reference.registry),
            self._patience.retried(partial(self._tag, reference=reference)),
            quiet=quiet,
        )
        found, source = answer.value, answer.endpoint.name
        if found.data is not None or known(found.descriptor.digest):
            return Resolved(found.descriptor, found.data, source, answer.notes)
        fetched = self._fetch(reference.with_digest(found.descriptor.digest), quiet=quiet)
        notes = tuple(dict.fromkeys((*answer.notes, *fetched.notes)))
        return Resolved(fetched.descriptor, fetched.data, source, notes)

    def manifest(self, reference: Reference) -> bytes:
        """See ``RegistryClient.manifest``."""
        data = self._fetch(reference).data
        assert data is not None
        return data

    def tag_digest(self, reference: Reference) -> Digest | None:
        """See ``RegistryClient.tag_digest``."""
        origin = self._hosts.origin(reference.registry)
        ask = self._patience.retried(partial(self._tag, reference=reference))
        try:
            return self._patience.first_answer(f"look up {reference}", (origin,), ask).value.descriptor.digest
        except NotFoundError:
            return None

    def check_access(self, registry: str) -> None:
        """See ``RegistryClient.check_access``."""

        def ask(endpoint: Endpoint) -> None:
            with self._session.exchange(endpoint, Ask("its version", "GET", endpoint.base, scope="")):
                pass

        self._patience.first_answer(
            f"log in to {registry}", (self._hosts.origin(registry),), self._patience.retried(ask)
        )

    def _tag(self, endpoint: Endpoint, reference: Reference) -> Resolved:
        """What one server says of a tag: by HEAD when its answer is complete, else by GET."""
        tag = reference.tag or ""
        ask = self._ask(endpoint, reference, tag, "HEAD", (200, *_NO_HEAD))
        with self._session.exchange(endpoint, ask) as response:
            descriptor = self._from_headers(endpoint, response) if response.status_code == 200 else None
        if descriptor is not None:
            return Resolved(descriptor, None, endpoint.name)
        return self._get(endpoint, reference, tag)

    def _fetch(self, reference: Reference, *, quiet: bool = False) -> Resolved:
        if reference.digest is None:
            raise InvalidError(f"{reference} names no digest", hint="resolve the tag first")
        answer = self._patience.first_answer(
            f"fetch {reference}",
            self._hosts.for_content(reference.registry),
            self._patience.retried(partial(self._get, reference=reference, target=reference.digest)),
            quiet=quiet,
        )
        return Resolved(answer.value.descriptor, answer.value.data, answer.endpoint.name, answer.notes)

    def _get(self, endpoint: Endpoint, reference: Reference, target: str) -> Resolved:
        ask = self._ask(endpoint, reference, target, "GET", (200,))
        with self._session.exchange(endpoint, ask) as response:
            self._check_size(endpoint, response)
            try:
                data = self._session.read(response, self._limit)
            except InvalidError:
                raise self._too_large(endpoint, f"more than {self._limit}") from None
            headers = response.headers
        digest = Digest.of(data)
        # For a request by digest the header decides nothing: the digest that was asked for does.
        promised = reference.digest if target == reference.digest else headers.get("docker-content-digest")
        if promised is not None and promised != digest:
            raise IntegrityError(
                f"{endpoint.name}: manifest has digest {digest}, not the promised {printable(promised)}"
            )
        manifest = parse_manifest(data, headers.get("content-type", ""))
        return Resolved(Descriptor(manifest.media_type, digest, len(data)), data, endpoint.name)

    def _ask(
        self, endpoint: Endpoint, reference: Reference, target: str, method: str, statuses: tuple[int, ...]
    ) -> Ask:
        what = f"tag {target}" if target == reference.tag else f"manifest {target}"
        return Ask(
            what=f"{what} of {reference.repository}",
            method=method,
            url=endpoint.url(reference.repository, f"manifests/{target}"),
            scope=endpoint.scope(reference.repository, "pull"),
            headers={"Accept": media.ACCEPT_MANIFEST},
            statuses=statuses,
            counted=method == "GET",
        )

    def _from_headers(self, endpoint: Endpoint, response: httpx.Response) -> Descriptor | None:
        """What a HEAD tells, or None when it does not tell all: then the body must decide."""
        headers = response.headers
        media_type = media.bare(headers.get("content-type", ""))
        length = headers.get("content-length", "")
        digest = headers.get("docker-content-digest")
        if digest is None or not length.isdecimal() or media_type not in media.MANIFESTS | media.INDEXES:
            return None
        self._check_size(endpoint, response)
        try:
            return Descriptor(media_type, Digest(digest), int(length))
        except InvalidError as error:
            raise RegistryError(f"{endpoint.name}: {error}", hint=error.hint) from None

    def _check_size(self, endpoint: Endpoint, response: httpx.Response) -> None:
        length = response.headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._limit:
            raise self._too_large(endpoint, printable(length, 20))

    def _too_large(self, endpoint: Endpoint, size: str) -> LimitError:
        return LimitError(
            f"{endpoint.name}: the manifest has {size} bytes, which is more than manifest_bytes ({self._limit}) allows",
            hint=f"if it can be trusted, raise it in ROOT/host.yaml: `limits: {{manifest_bytes: {2 * self._limit}}}`",
        )
