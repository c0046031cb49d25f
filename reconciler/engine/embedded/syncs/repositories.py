"""The registries as a look at a sync needs them: ``sync_view.Repositories`` over the registry client."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar, cast

from reconciler.engine.embedded.state import State
from reconciler.engine.embedded.syncs.rows import platforms_key
from reconciler.errors import InvalidError, NotFoundError, RateLimitError, ReconcilerError
from reconciler.model.address import Address
from reconciler.model.facts import Absent, Known, RemoteTag, Unknown
from reconciler.model.observed import SyncTag
from reconciler.model.resources import Sync
from reconciler.oci.companion import referrers_tag
from reconciler.oci.digest import Digest
from reconciler.oci.manifest import Index, Manifest, parse_manifest
from reconciler.oci.narrow import narrow
from reconciler.oci.reference import Reference
from reconciler.registry.copier import travelling
from reconciler.registry.referrers import ReferrerLists, tagged

if TYPE_CHECKING:
    from reconciler.registry.client import RegistryClient

_WORKERS = 8
# Who plans wants to know the cost, but not at any cost: images read for it, and blobs asked for at the target.
_MEASURED = 20
_CHECKED = 100

K = TypeVar("K", bound=str)


class SyncRepositories:
    """Asks ``client``, for a look at the sync at ``address``; ``fetched`` keeps the manifests that were read, and
    ``consists`` what indexes consist of. With ``measure`` copies are told in bytes."""

    def __init__(
        self,
        state: State,
        client: RegistryClient,
        fetched: dict[Digest, bytes],
        consists: dict[Digest, tuple[Digest, ...]],
        address: Address,
        *,
        measure: bool,
    ) -> None:
        self._state = state
        self._client = client
        self._fetched = fetched
        self._consists = consists
        self._measure = measure
        self._now = time.time()
        self._probed: dict[Reference, frozenset[Digest]] = {}
        self._looked_into: dict[Digest, tuple[Digest, ...]] = {}
        self._recorded: Callable[[], Mapping[Digest, tuple[Digest, ...]]] = functools.cache(
            lambda: state.syncs.parts(address)
        )
        self._lists = ReferrerLists(
            client, lambda reference: self._read(reference.name, cast("Digest", reference.digest))
        )

    def tags(self, repository: str) -> Collection[str]:
        return list(self._client.tags(Reference.parse(repository)))

    def digests(self, repository: str, tags: Collection[str]) -> Mapping[str, RemoteTag]:
        def ask(tag: str) -> Digest | None:
            return self._client.tag_digest(Reference.parse(f"{repository}:{tag}"))

        return _each(ask, tags)

    def wanted(self, sync: Sync, digests: Collection[Digest]) -> Mapping[Digest, RemoteTag]:
        known = self._state.syncs.narrowed(Address("sync", sync.target), narrowed_key(sync))

        def ask(digest: Digest) -> Digest:
            if digest not in known:
                data = _narrowed(self._read(sync.source, digest), sync)
                known[digest] = Digest.of(data)
                self._fetched[known[digest]] = data
            return known[digest]

        return _each(ask, digests)

    def nested(self, sync: Sync, digests: Collection[Digest]) -> frozenset[Digest]:
        found: set[Digest] = set()
        pending = list(digests)
        while pending:
            digest = pending.pop()
            try:
                parsed = parse_manifest(self._read(sync.target, digest))
            except NotFoundError:  # it is still to be copied
                parsed = parse_manifest(self._read(sync.source, digest))
            if isinstance(parsed, Index):
                new = {entry.digest for entry in parsed.manifests} - found
                found |= new
                pending += new
        return frozenset(found)

    def keeps_referrers(self, repository: str, digest: Digest) -> bool:
        subject = Reference.parse(repository).with_digest(digest)
        if (listed := self._lists.kept(subject)) is None:
            return False
        self._probed[subject] = frozenset(entry.digest for entry in listed)
        return True

    def referrers(
        self, repository: str, subjects: Collection[Digest], tags: Collection[str]
    ) -> Mapping[Digest, frozenset[Digest]]:
        if not subjects:
            return {}
        first, *others = sorted(subjects)
        found = {first: self._referrers(repository, first, tags)}
        if self._lists.keeps_none(Reference.parse(repository)):
            others = [subject for subject in others if referrers_tag(subject) in tags]
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="sync") as pool:
            answers = pool.map(lambda subject: self._referrers(repository, subject, tags), others)
            return found | dict(zip(others, answers, strict=True))

    def _referrers(self, repository: str, subject: Digest, tags: Collection[str]) -> frozenset[Digest]:
        reference = Reference.parse(repository).with_digest(subject)
        if reference in self._probed:
            return self._probed[reference]
        if (listed := self._lists.kept(reference)) is not None:
            return frozenset(entry.digest for entry in listed)
        tag = referrers_tag(subject)
        digest = self._client.tag_digest(tagged(reference, tag)) if tag in tags else None
        return frozenset() if digest is None else frozenset(self._parts(repository, digest))

    def parts(self, sync: Sync, items: Collection[SyncTag]) -> Mapping[Digest, Collection[Digest]]:
        sources = {item.wanted: item.source for item in items}

        def read(wanted: Digest) -> Digest:
            if wanted not in self._fetched and not self._is_known(wanted):
                self._fetched[wanted] = _narrowed(self._read(sync.source, sources[wanted]), sync)
            self._parts(sync.source, wanted)
            return wanted

        read_or_not = _each(read, sources)  # a quota may be nearly used up
        return {digest: self._consists[digest] for digest, answer in read_or_not.items() if isinstance(answer, Known)}

    def _parts(self, repository: str, digest: Digest) -> tuple[Digest, ...]:
        """What the index with this digest lists; nothing when it is none."""
        if not self._is_known(digest):
            parsed = parse_manifest(self._read(repository, digest))
            self._consists[digest] = tuple(e.digest for e in parsed.manifests) if isinstance(parsed, Index) else ()
        self._looked_into[digest] = self._consists[digest]
        return self._consists[digest]

    def _is_known(self, digest: Digest) -> bool:
        if digest not in self._consists and digest in self._recorded():
            self._consists[digest] = self._recorded()[digest]
        return digest in self._consists

    def looked_into(self) -> Mapping[Digest, tuple[Digest, ...]]:
        return self._looked_into

    def present(self, repository: str, digests: Collection[Digest]) -> frozenset[Digest]:
        reference, ordered = Reference.parse(repository), sorted(digests)
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="sync") as pool:
            there = pool.map(lambda digest: self._client.has_manifest(reference.with_digest(digest)), ordered)
            return frozenset(digest for digest, is_there in zip(ordered, there, strict=True) if is_there)

    def size(self, sync: Sync, digests: Collection[Digest]) -> tuple[int | None, str]:
        if not self._measure or len(digests) > _MEASURED or self._client.quotas():
            return None, ""
        blobs: dict[Digest, int] = {}
        target = Reference.parse(sync.target)
        try:
            with ThreadPoolExecutor(_WORKERS, thread_name_prefix="sync") as pool:
                for found in pool.map(lambda digest: self._blobs(sync, digest), sorted(digests)):
                    blobs |= found
                asked = sorted(blobs, key=lambda digest: (-blobs[digest], digest))[:_CHECKED]
                there = pool.map(lambda digest: self._client.has_blob(target, digest), asked)
                left = sum(blobs.values()) - sum(
                    blobs[digest] for digest, is_there in zip(asked, there, strict=True) if is_there
                )
        except ReconcilerError:
            return None, ""  # the copy will tell what is wrong
        if left and target.registry == Reference.parse(sync.source).registry:
            return left, f"fewer bytes than it says travel where {target.registry} mounts them from {sync.source}"
        unasked = len(blobs) - len(asked)
        return (
            left,
            f"its target was not asked for {unasked} small blobs: the bytes are at most so many" if unasked else "",
        )

    def _blobs(self, sync: Sync, digest: Digest) -> dict[Digest, int]:
        data = self._read(sync.source, digest)
        try:
            parsed = parse_manifest(_narrowed(data, sync))
        except InvalidError:  # an index for other platforms, which refers to something
            parsed = parse_manifest(data)
        if isinstance(parsed, Manifest):
            return {blob.digest: blob.size for blob in travelling(parsed)}
        parts: dict[Digest, int] = {}
        for entry in parsed.manifests:
            inner = parse_manifest(self._read(sync.source, entry.digest))
            if not isinstance(inner, Manifest):
                raise InvalidError(f"index {digest.short} lists another index")
            parts |= {blob.digest: blob.size for blob in travelling(inner)}
        return parts

    def first_seen(self, repository: str, digests: Mapping[str, Digest]) -> Mapping[str, float]:
        return self._state.tag_ledger.first_seen(repository, digests, self._now)

    def now(self) -> float:
        return self._now

    def _read(self, repository: str, digest: Digest) -> bytes:
        if digest not in self._fetched:
            self._fetched[digest] = self._client.manifest(Reference.parse(repository).with_digest(digest))
        return self._fetched[digest]


def _each(question: Callable[[K], Digest | None], asked: Collection[K]) -> Mapping[K, RemoteTag]:
    """The answers, asked for in parallel; after a rate limit nobody is asked any more."""
    limited: list[Unknown] = []

    def ask(item: K) -> RemoteTag:
        if limited:
            return limited[0]  # it was waited for: what a server does not answer now of one, it will not of others
        try:
            digest = question(item)
        except ReconcilerError as error:
            answer = Unknown(error.reason, error.hint)
            if isinstance(error, RateLimitError):
                limited.append(answer)
            return answer
        return Known(digest) if digest else Absent()

    ordered = sorted(asked)
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="sync") as pool:
        return dict(zip(ordered, pool.map(ask, ordered), strict=True))


def _narrowed(data: bytes, sync: Sync) -> bytes:
    return narrow(data, sync.platforms, attestations=sync.referrers) if sync.platforms else data


def narrowed_key(sync: Sync) -> str:
    return platforms_key((*sync.platforms, *(() if sync.referrers else ("-",))))
