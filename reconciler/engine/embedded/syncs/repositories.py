"""The registries as a look at a sync needs them: ``sync_view.Repositories`` over the registry client."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from reconciler.engine.embedded.state import State
from reconciler.engine.embedded.syncs.rows import platforms_key
from reconciler.errors import InvalidError, NotFoundError, ReconcilerError
from reconciler.model.address import Address
from reconciler.model.facts import Absent, Known, RemoteTag, Unknown
from reconciler.model.resources import Sync
from reconciler.oci.digest import Digest
from reconciler.oci.manifest import Index, Manifest, parse_manifest
from reconciler.oci.narrow import narrow
from reconciler.oci.reference import Reference

if TYPE_CHECKING:
    from reconciler.registry.client import RegistryClient

_WORKERS = 8
# Who plans wants to know the cost, but not at the cost of a quota: images asked about for it.
_MEASURED = 20


class SyncRepositories:
    """Asks ``client``; ``fetched`` keeps the manifests that were read. With ``measure`` copies are told in bytes."""

    def __init__(self, state: State, client: RegistryClient, fetched: dict[Digest, bytes], *, measure: bool) -> None:
        self._state = state
        self._client = client
        self._fetched = fetched
        self._measure = measure
        self._now = time.time()
        self._narrowed: dict[str, dict[Digest, Digest]] = {}

    def tags(self, repository: str) -> Collection[str]:
        return list(self._client.tags(Reference.parse(repository)))

    def digests(self, repository: str, tags: Collection[str]) -> Mapping[str, RemoteTag]:
        def ask(tag: str) -> RemoteTag:
            try:
                digest = self._client.tag_digest(Reference.parse(f"{repository}:{tag}"))
            except ReconcilerError as error:
                return Unknown(error.reason, error.hint)
            return Known(digest) if digest else Absent()

        ordered = sorted(tags)
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="sync") as pool:
            return dict(zip(ordered, pool.map(ask, ordered), strict=True))

    def wanted(self, sync: Sync, digest: Digest) -> Digest:
        if sync.target not in self._narrowed:
            address = Address("sync", sync.target)
            self._narrowed[sync.target] = self._state.syncs.narrowed(address, narrowed_key(sync))
        known = self._narrowed[sync.target]
        if digest not in known:
            data = narrow(self._read(sync.source, digest), sync.platforms, attestations=sync.referrers)
            known[digest] = Digest.of(data)
            self._fetched[known[digest]] = data
        return known[digest]

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

    def size(self, sync: Sync, digests: Collection[Digest]) -> int | None:
        if not self._measure or len(digests) > _MEASURED or self._client.quotas():
            return None
        blobs: dict[Digest, int] = {}
        try:
            with ThreadPoolExecutor(_WORKERS, thread_name_prefix="sync") as pool:
                for found in pool.map(lambda digest: self._blobs(sync, digest), sorted(digests)):
                    blobs |= found
        except ReconcilerError:
            return None  # the copy will tell what is wrong
        return sum(blobs.values())

    def _blobs(self, sync: Sync, digest: Digest) -> dict[Digest, int]:
        data = self._read(sync.source, digest)
        parsed = parse_manifest(narrow(data, sync.platforms, attestations=sync.referrers) if sync.platforms else data)
        if isinstance(parsed, Manifest):
            return {blob.digest: blob.size for blob in parsed.blobs}
        parts: dict[Digest, int] = {}
        for entry in parsed.manifests:
            inner = parse_manifest(self._read(sync.source, entry.digest))
            if not isinstance(inner, Manifest):
                raise InvalidError(f"index {digest.short} lists another index")
            parts |= {blob.digest: blob.size for blob in inner.blobs}
        return parts

    def first_seen(self, repository: str, digests: Mapping[str, Digest]) -> Mapping[str, float]:
        return self._state.tag_ledger.first_seen(repository, digests, self._now)

    def now(self) -> float:
        return self._now

    def _read(self, repository: str, digest: Digest) -> bytes:
        if digest not in self._fetched:
            self._fetched[digest] = self._client.manifest(Reference.parse(repository).with_digest(digest))
        return self._fetched[digest]


def narrowed_key(sync: Sync) -> str:
    return platforms_key((*sync.platforms, *(() if sync.referrers else ("-",))))
