"""Lists of what refers to a manifest: kept by the registry, or by its clients in a tag that stands in for the list.

The tag's index is read, added to and written again, as the distribution specification has it ("Referrers Tag Schema"):
what others listed there stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reconciler.errors import ConflictError, InvalidError
from reconciler.oci import media
from reconciler.oci.companion import referrers_tag
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.manifest import Index, parse_manifest
from reconciler.oci.reference import Reference
from reconciler.value import dataclass

if TYPE_CHECKING:
    from reconciler.registry.client import RegistryClient

_MOST = 1000


@dataclass(frozen=True, slots=True)
class Listing:
    """What refers to a manifest. ``data`` is the index that lists it, where that is under a tag."""

    entries: tuple[Descriptor, ...] = ()
    data: bytes = b""


class ReferrerLists:
    """The lists in the repositories that ``client`` asks; ``read`` gives a manifest by its digest.

    It remembers which registries keep none. Safe to share between threads.
    """

    def __init__(self, client: RegistryClient, read: Callable[[Reference], bytes]) -> None:
        self._client = client
        self._read = read
        self._with: set[str] = set()
        self._without: set[str] = set()

    def kept(self, subject: Reference) -> tuple[Descriptor, ...] | None:
        """What the registry itself lists for ``subject``, a digest in a repository; None when it keeps no lists.

        Raises ``InvalidError`` when there is more than anybody attaches.
        """
        if subject.name in self._without:
            return None
        listed = self._client.listed_referrers(subject)
        if listed is None:
            self._without.add(subject.name)
            return None
        self._with.add(subject.name)
        if len(listed) > _MOST:
            raise InvalidError(f"more than {_MOST} manifests refer to {subject}")
        return listed

    def keeps(self, subject: Reference) -> bool:
        """Whether the registry keeps such lists; it is asked for that of ``subject`` when nobody has asked before."""
        return subject.name in self._with or self.kept(subject) is not None

    def keeps_none(self, repository: Reference) -> bool:
        """Whether the registry was asked, and keeps no lists."""
        return repository.name in self._without

    def of(self, subject: Reference, tags: Collection[str]) -> Listing:
        """What is listed for ``subject``; ``tags`` are those of its repository. What is under the tag and no list
        lists nothing."""
        if (listed := self.kept(subject)) is not None:
            return Listing(listed)
        assert subject.digest is not None
        tag = referrers_tag(subject.digest)
        digest = self._client.tag_digest(tagged(subject, tag)) if tag in tags else None
        data = self._read(subject.with_digest(digest)) if digest is not None else b""
        parsed = parse_manifest(data) if data else None
        return Listing(parsed.manifests, data) if isinstance(parsed, Index) else Listing()

    def add(self, subject: Reference, listing: Listing, gone: Collection[Digest]) -> bytes | None:
        """What the tag for ``subject`` is to hold so that it lists ``listing``, but for what is ``gone``, besides what
        is there; None when it does, or the registry keeps the list itself.

        Raises ``ConflictError`` when something else is under the tag.
        """
        wanted = {entry.digest for entry in listing.entries}.difference(gone)
        if not wanted or self.keeps(subject):
            return None
        assert subject.digest is not None
        tag = referrers_tag(subject.digest)
        digest = self._client.tag_digest(tagged(subject, tag))
        if digest is None:
            return listing.data if listing.data and not gone else _index([], listing, gone)
        data = self._read(subject.with_digest(digest))
        parsed = parse_manifest(data)
        if not isinstance(parsed, Index):
            raise ConflictError(f"{subject.name}:{tag} is no list of referrers", hint="see who made that tag")
        there = {entry.digest for entry in parsed.manifests}
        if wanted <= there:
            return None
        return _index(json.loads(data)["manifests"], listing, {*gone, *there}, json.loads(data))


def tagged(repository: Reference, tag: str) -> Reference:
    return Reference(repository.registry, repository.repository, tag)


def _index(
    entries: Sequence[Any], listing: Listing, without: Collection[Digest], document: Mapping[str, Any] | None = None
) -> bytes:
    """An index of ``entries`` as they are and those of ``listing`` but ``without`` some: always the same bytes."""
    raw = {entry["digest"]: entry for entry in json.loads(listing.data)["manifests"]} if listing.data else {}
    added = [
        raw.get(entry.digest) or _entry(entry)
        for entry in sorted(listing.entries, key=lambda entry: entry.digest)
        if entry.digest not in without
    ]
    whole = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, **(document or {}), "manifests": [*entries, *added]}
    return json.dumps(whole, separators=(",", ":"), ensure_ascii=False).encode()


def _entry(entry: Descriptor) -> dict[str, Any]:
    return (
        entry.to_json()
        | ({"artifactType": entry.artifact_type} if entry.artifact_type else {})
        | ({"annotations": dict(sorted(entry.annotations.items()))} if entry.annotations else {})
    )
