"""What a repository holds beyond a name: its tags, what refers to a manifest, and the removal of manifests.

The origin is asked, never a mirror: a list that is only part of the truth is no list.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from reconciler.errors import InvalidError, NotFoundError, RegistryError
from reconciler.oci import media
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.manifest import Index, parse_manifest
from reconciler.oci.reference import Reference
from reconciler.registry.failure import printable, server_words
from reconciler.registry.fallback import Patience
from reconciler.registry.hosts import Endpoint, RegistryHosts, origin_of
from reconciler.registry.link import next_page
from reconciler.registry.session import Ask, Session, join

MAX_PAGES = 2000
MAX_TAGS = 1_000_000
MAX_REFERRERS = 10_000
MAX_PAGE_BYTES = 4 * 1024 * 1024
_PAGE = 1000
_NO_SUCH_API = (400, 405, 501)


class Catalog:
    """Asks origins what their repositories hold."""

    def __init__(self, session: Session, hosts: RegistryHosts, patience: Patience) -> None:
        self._session = session
        self._hosts = hosts
        self._patience = patience

    def tags(self, reference: Reference) -> Iterator[str]:
        """See ``RegistryClient.tags``."""
        endpoint = self._hosts.origin(reference.registry)
        seen: set[str] = set()
        first = endpoint.url(reference.repository, f"tags/list?n={_PAGE}")
        for page in self._pages(endpoint, reference, f"list of tags of {reference.repository}", first, {}):
            for tag in _listed(endpoint, reference, page):
                yield from self._new(endpoint, reference, tag, seen)

    def _new(self, endpoint: Endpoint, reference: Reference, tag: object, seen: set[str]) -> Iterator[str]:
        try:
            usable = isinstance(tag, str) and Reference.parse(f"{reference.name}:{tag}").tag == tag
        except InvalidError:
            usable = False
        if not usable:
            raise RegistryError(f"{endpoint.name}: lists what is no tag in {reference.name}: {printable(str(tag), 80)}")
        if isinstance(tag, str) and tag not in seen:
            if len(seen) >= MAX_TAGS:
                raise RegistryError(f"{endpoint.name}: lists more than {MAX_TAGS} tags in {reference.name}")
            seen.add(tag)
            yield tag

    def delete_manifest(self, reference: Reference) -> bool:
        """See ``RegistryClient.delete_manifest``."""
        if reference.digest is None:
            raise InvalidError(f"{reference} names no digest", hint="manifests are deleted by digest, never by tag")
        endpoint = self._hosts.origin(reference.registry)
        ask = Ask(
            f"manifest {reference.digest} of {reference.repository}",
            "DELETE",
            endpoint.url(reference.repository, f"manifests/{reference.digest}"),
            endpoint.scope(reference.repository, "pull,delete"),
            content=b"",
            statuses=(200, 202, 204, 404, 405, 501),
        )
        return self._patience.retry(self._patience.attempts(endpoint), partial(self._delete, endpoint, ask))

    def _delete(self, endpoint: Endpoint, ask: Ask) -> bool:
        with self._session.exchange(endpoint, ask) as response:
            status = response.status_code
            words = server_words(self._session.read_start(response)) if status >= 400 else ""
        if status in (405, 501) or "UNSUPPORTED" in words:
            raise RegistryError(
                f"{endpoint.name}: does not allow deletions ({status}{words and ' ' + words})",
                hint="enable them in its configuration",
            )
        return status != 404

    def _status(self, endpoint: Endpoint, ask: Ask) -> int:
        with self._session.exchange(endpoint, ask) as response:
            return response.status_code

    def referrers(self, reference: Reference, artifact_type: str) -> tuple[Descriptor, ...]:
        """See ``RegistryClient.referrers``."""
        found = self._by_api(reference, artifact_type)
        if found is None:
            assert reference.digest is not None
            found = self._by_tag(self._hosts.origin(reference.registry), reference, reference.digest)
        return tuple(entry for entry in found.values() if artifact_type in ("", entry.artifact_type))

    def listed_referrers(self, reference: Reference) -> tuple[Descriptor, ...] | None:
        """See ``RegistryClient.listed_referrers``."""
        found = self._by_api(reference, "")
        return None if found is None else tuple(found.values())

    def has_manifest(self, reference: Reference) -> bool:
        """See ``RegistryClient.has_manifest``."""
        endpoint = self._hosts.origin(reference.registry)
        ask = Ask(
            f"manifest {reference.digest} of {reference.repository}",
            "HEAD",
            endpoint.url(reference.repository, f"manifests/{reference.digest}"),
            endpoint.scope(reference.repository, "pull"),
            headers={"Accept": media.ACCEPT_MANIFEST},
            # 405: a server without HEAD; it will take the manifest again.
            statuses=(200, 404, 405),
        )
        return self._patience.retry(self._patience.attempts(endpoint), partial(self._status, endpoint, ask)) == 200

    def has_blob(self, reference: Reference, digest: Digest) -> bool:
        """See ``RegistryClient.has_blob``."""
        endpoint = self._hosts.origin(reference.registry)
        url = endpoint.url(reference.repository, f"blobs/{digest}")
        scope = endpoint.scope(reference.repository, "pull")
        ask = Ask(f"blob {digest.short} of {reference.name}", "HEAD", url, scope, statuses=(200, 404, 405))
        return self._patience.retry(self._patience.attempts(endpoint), partial(self._status, endpoint, ask)) == 200

    def _by_api(self, reference: Reference, artifact_type: str) -> dict[Digest, Descriptor] | None:
        if reference.digest is None:
            raise InvalidError(f"{reference} names no digest", hint="resolve the tag first")
        endpoint = self._hosts.origin(reference.registry)
        query = f"?artifactType={quote(artifact_type, safe='')}" if artifact_type else ""
        first = endpoint.url(reference.repository, f"referrers/{reference.digest}{query}")
        what = f"list of referrers of {reference.digest} of {reference.repository}"
        found: dict[Digest, Descriptor] = {}
        try:
            for page in self._pages(endpoint, reference, what, first, {"Accept": media.OCI_INDEX}):
                found |= _entries(page)
                if len(found) > MAX_REFERRERS:
                    raise RegistryError(f"{endpoint.name}: its {what} has more than {MAX_REFERRERS} entries")
        except NotFoundError:
            return None
        return found

    def _by_tag(self, endpoint: Endpoint, reference: Reference, digest: Digest) -> dict[Digest, Descriptor]:
        """What a registry without the API has under the tag that clients keep instead ("Referrers Tag Schema")."""
        tag = str(digest).replace(":", "-")
        ask = Ask(
            f"tag {tag} of {reference.repository}",
            "GET",
            endpoint.url(reference.repository, f"manifests/{tag}"),
            endpoint.scope(reference.repository, "pull"),
            headers={"Accept": media.OCI_INDEX},
            counted=True,
        )
        try:
            attempts = self._patience.attempts(endpoint)
            page, _ = self._patience.retry(attempts, partial(self._page, endpoint, ask))
        except NotFoundError:
            return {}
        return _entries(page)

    def _pages(
        self, endpoint: Endpoint, reference: Reference, what: str, first: str, headers: Mapping[str, str]
    ) -> Iterator[bytes]:
        url: str | None = first
        seen: set[str] = set()
        while url is not None:
            if url in seen or len(seen) >= MAX_PAGES:
                raise RegistryError(f"{endpoint.name}: its {what} does not end, gave up after {len(seen)} pages")
            seen.add(url)
            scope = endpoint.scope(reference.repository, "pull")
            ask = Ask(what, "GET", url, scope, headers, statuses=(200, *_NO_SUCH_API))
            attempts = self._patience.attempts(endpoint)
            page, url = self._patience.retry(attempts, partial(self._page, endpoint, ask))
            yield page

    def _page(self, endpoint: Endpoint, ask: Ask) -> tuple[bytes, str | None]:
        """One page, and the address of the next."""
        with self._session.exchange(endpoint, ask) as response:
            page = media.bare(response.headers.get("content-type", "")).startswith("text/html")
            if response.status_code in _NO_SUCH_API or page:  # a page for people is what old servers have there
                raise NotFoundError(f"{endpoint.name}: gives no {ask.what} ({response.status_code})")
            return self._session.read(response, MAX_PAGE_BYTES), _next(endpoint, ask, response)


def _listed(endpoint: Endpoint, reference: Reference, page: bytes) -> list[object]:
    """What a page of tags lists: strings, if the server is sane."""
    try:
        document: Any = json.loads(page)
    except (ValueError, RecursionError):
        document = None
    tags = document.get("tags") if isinstance(document, dict) else ""
    if tags is not None and not isinstance(tags, list):
        raise RegistryError(f"{endpoint.name}: its list of tags of {reference.repository} is no list")
    return tags or []


def _next(endpoint: Endpoint, ask: Ask, response: httpx.Response) -> str | None:
    target = next_page(response.headers.get_list("link"))
    if target is None:
        return None
    following = join(endpoint, ask.url, target)
    # The next page is asked for with our login: it must be where the first one was.
    if origin_of(following) != endpoint.origin:
        raise RegistryError(
            f"{endpoint.name}: its {ask.what} goes on at another server, {printable(urlsplit(following).netloc)}",
            hint="behind a proxy, the registry must know its own external address",
        )
    return following


def _entries(page: bytes) -> dict[Digest, Descriptor]:
    index = parse_manifest(page, media.OCI_INDEX)
    assert isinstance(index, Index)  # or it would not have been read as one
    return {entry.digest: entry for entry in index.manifests}
