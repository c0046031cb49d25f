"""Copies between repositories: a manifest with all that it names and all that refers to it, nothing stored here.

Order makes it safe to stop anywhere: blobs before the manifest that names them, manifests before the index that lists
them, signatures and other referrers before the tag, the tag last.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.errors import IntegrityError, InvalidError
from reconciler.oci import media
from reconciler.oci.companion import companion_of, referrers_tag
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.manifest import Index, Manifest, parse_manifest
from reconciler.oci.narrow import narrow
from reconciler.oci.platform import Platform
from reconciler.oci.reference import Reference
from reconciler.registry.blob_upload import Outcome
from reconciler.registry.upload import PushManifest

if TYPE_CHECKING:
    from reconciler.registry.client import RegistryClient

# Layers that their makers let nobody pass on: who runs the image fetches them from the URLs that it names.
_KEPT_BACK = re.compile(r"nondistributable|foreign", re.ASCII)
_MOST_DEEP = 8


@dataclass(frozen=True, slots=True)
class _Way:
    """From which repository to which, what is wanted of it, and who hears of bytes."""

    source: Reference
    target: Reference
    referrers: bool
    progress: Callable[[int], None]


class Copier:
    """Copies with ``client``, blobs in parallel on ``executor``, which must not be the pool that ``tag`` runs in.

    Safe to share between threads. While it lives, each blob and each manifest goes to a repository at most once,
    however many tags have it. ``fetched`` keeps the manifests that were read.
    """

    def __init__(self, client: RegistryClient, executor: Executor, fetched: dict[Digest, bytes] | None = None) -> None:
        self._client = client
        self._executor = executor
        self._guard = threading.Lock()
        self._blobs: dict[tuple[str, Digest], Future[Outcome]] = {}
        self._manifests: dict[tuple[str, Digest], Future[None]] = {}
        self._data = {} if fetched is None else fetched
        self._companions: dict[str, Mapping[Digest, tuple[str, ...]]] = {}
        self._without_api: set[str] = set()

    def _read(self, reference: Reference) -> bytes:
        assert reference.digest is not None
        if reference.digest not in self._data:
            self._data[reference.digest] = self._client.manifest(reference)
        return self._data[reference.digest]

    def tag(
        self,
        source: Reference,
        target: Reference,
        *,
        wanted: Digest,
        platforms: Collection[Platform] = (),
        referrers: bool = True,
        progress: Callable[[int], None] = lambda _bytes: None,
    ) -> int:
        """Makes the tag of ``target`` the manifest with the digest of ``source``, an index narrowed to ``platforms``.

        ``wanted`` is the digest that this gives. Returns how many bytes of blobs were sent; ``progress`` hears of each.
        Of a narrowed index, only the referrers of what stays are carried along: a signature of the whole does not hold
        for a part. Raises as ``RegistryClient.copy_blob`` and ``copy_manifest``, ``InvalidError`` for an index that has
        none of the platforms, ``IntegrityError`` when something other than ``wanted`` comes of it; whatever fails, the
        tag is untouched.
        """
        assert source.digest is not None
        sent = 0
        guard = threading.Lock()

        def count(more: int) -> None:
            nonlocal sent
            with guard:
                sent += more
            progress(more)

        way = _Way(source, target, referrers, count)
        whole = self._read(source)
        data = narrow(whole, platforms, attestations=referrers) if platforms else whole
        digest = Digest.of(data)
        if digest != wanted:
            raise IntegrityError(f"narrowing {source} gave {digest.short}, not {wanted.short}", hint="plan again")
        if not self._client.has_manifest(target.with_digest(digest)) or isinstance(parse_manifest(data), Index):
            self._parts(data, way)
        if referrers and digest == source.digest:
            self._referrers(digest, way, 0)
        self._put(target, data)
        return sent

    def _parts(self, data: bytes, way: _Way, depth: int = 0) -> None:
        """All that a manifest names; when this returns, it may be pushed."""
        parsed = parse_manifest(data)
        if isinstance(parsed, Manifest):
            self._all_blobs(parsed, way)
            return
        if depth > _MOST_DEEP:
            raise InvalidError(f"indexes lie in each other more than {_MOST_DEEP} deep")
        for entry in parsed.manifests:
            self._manifest(entry.digest, way, depth + 1)

    def _all_blobs(self, manifest: Manifest, way: _Way) -> None:
        wanted = {blob.digest: blob for blob in manifest.blobs if not _KEPT_BACK.search(blob.media_type)}
        futures = [self._blob(blob, way) for blob in wanted.values()]
        wait(futures)
        for future in futures:
            future.result()

    def _blob(self, blob: Descriptor, way: _Way) -> Future[Outcome]:
        key = (way.target.name, blob.digest)
        with self._guard:
            if key not in self._blobs:
                self._blobs[key] = self._executor.submit(
                    self._client.copy_blob, way.source, way.target, blob, way.progress
                )
            return self._blobs[key]

    def _manifest(self, digest: Digest, way: _Way, depth: int) -> None:
        """Makes a manifest exist at the target by its digest, with all that it names and that refers to it."""
        key = (way.target.name, digest)
        with self._guard:
            future = self._manifests.get(key)
            mine = future is None
            if future is None:
                future = self._manifests[key] = Future()
        if mine:
            try:
                self._bring(digest, way, depth)
            except BaseException as error:  # noqa: BLE001 - it is everybody's who waits for this manifest
                future.set_exception(error)
            else:
                future.set_result(None)
        future.result()

    def _bring(self, digest: Digest, way: _Way, depth: int) -> None:
        there = self._client.has_manifest(way.target.with_digest(digest))
        if not there:
            data = self._read(way.source.with_digest(digest))
            self._parts(data, way, depth)
            self._put(way.target.with_digest(digest), data)
        if way.referrers:
            self._referrers(digest, way, depth)

    def _referrers(self, digest: Digest, way: _Way, depth: int) -> None:
        """What refers to a manifest: by the list that its registry keeps, and by the tags that stand in for one."""
        if depth > _MOST_DEEP:
            return
        listed = self._listed(way.source.with_digest(digest))
        for entry in listed:
            self._manifest(entry.digest, way, depth + 1)
        self._list_at_target(digest, listed, way)
        # The tags that are about a tagged manifest are tags to copy like any other; these are about its parts.
        if depth > 0:
            for tag in self._companion_tags(way.source).get(digest, ()):
                self._companion(tag, way, depth)

    def _listed(self, reference: Reference) -> tuple[Descriptor, ...]:
        if reference.name in self._without_api:
            return ()
        listed = self._client.listed_referrers(reference)
        if listed is None:
            self._without_api.add(reference.name)
        return listed or ()

    def _list_at_target(self, digest: Digest, listed: tuple[Descriptor, ...], way: _Way) -> None:
        """Where the target's registry keeps no list of referrers, keeps it in the tag that stands in for one."""
        if not listed:
            return
        there = self._client.referrers(way.target.with_digest(digest))
        missing = [entry for entry in listed if entry not in there]
        if missing:
            self._put(_tagged(way.target, referrers_tag(digest)), _referrers_index((*there, *missing)))

    def _companion_tags(self, source: Reference) -> Mapping[Digest, tuple[str, ...]]:
        if source.name not in self._companions:
            found: dict[Digest, tuple[str, ...]] = {}
            for tag in self._client.tags(source):
                if (about := companion_of(tag)) is not None:
                    found[about] = (*found.get(about, ()), tag)
            self._companions[source.name] = found
        return self._companions[source.name]

    def _companion(self, tag: str, way: _Way, depth: int) -> None:
        digest = self._client.tag_digest(_tagged(way.source, tag))
        if digest is None or self._client.tag_digest(_tagged(way.target, tag)) == digest:
            return
        data = self._read(way.source.with_digest(digest))
        self._parts(data, way, depth)
        self._put(_tagged(way.target, tag), data)

    def _put(self, reference: Reference, data: bytes) -> None:
        manifest = PushManifest(parse_manifest(data).media_type, data, Digest.of(data))
        self._client.push(reference, (), [manifest])


def _tagged(repository: Reference, tag: str) -> Reference:
    return Reference(repository.registry, repository.repository, tag)


def _referrers_index(entries: Iterable[Descriptor]) -> bytes:
    """The index of the distribution specification's referrers tag schema: entries by digest, so always the same."""
    manifests = [
        entry.to_json()
        | ({"artifactType": entry.artifact_type} if entry.artifact_type else {})
        | ({"annotations": dict(sorted(entry.annotations.items()))} if entry.annotations else {})
        for entry in sorted(entries, key=lambda entry: entry.digest)
    ]
    document = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": manifests}
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
