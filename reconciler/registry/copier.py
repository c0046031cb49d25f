"""Copies between repositories: a manifest with all that it names and all that refers to it, nothing stored here.

Order makes it safe to stop anywhere: blobs before the manifest that names them, manifests before the index that lists
them, signatures and other referrers before the tag, the tag last.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import contextmanager
from dataclasses import field
from typing import TYPE_CHECKING

from reconciler.errors import IntegrityError, InvalidError, NotFoundError, RateLimitError
from reconciler.oci.companion import MOST_DEEP, companion_of, is_referrers_tag, referrers_tag
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.manifest import Index, Manifest, parse_manifest
from reconciler.oci.narrow import narrow
from reconciler.oci.platform import Platform
from reconciler.oci.reference import Reference
from reconciler.registry.blob_upload import Outcome
from reconciler.registry.referrers import ReferrerLists, tagged
from reconciler.registry.upload import PushManifest
from reconciler.value import dataclass

if TYPE_CHECKING:
    from reconciler.registry.client import RegistryClient

# Layers that their makers let nobody pass on: who runs the image fetches them from the URLs that it names.
_KEPT_BACK = re.compile(r"nondistributable|foreign", re.ASCII)
_MOST_NESTED = 8


@dataclass(slots=True)
class _Way:
    """From which repository to which, how many bytes went, and who hears of them."""

    source: Reference
    target: Reference
    progress: Callable[[int], None]
    sent: int = 0
    guard: threading.Lock = field(default_factory=threading.Lock)

    def count(self, more: int) -> None:
        with self.guard:
            self.sent += more
        self.progress(more)


class Copier:
    """Copies with ``client``, blobs in parallel on ``executor``, which must not be the pool that ``tag`` runs in.

    Safe to share between threads. While it lives, each blob and each manifest goes to a repository at most once,
    however many tags have it, and after a ``RateLimitError`` nothing more is tried. ``fetched`` keeps the manifests
    that were read.
    """

    def __init__(self, client: RegistryClient, executor: Executor, fetched: dict[Digest, bytes] | None = None) -> None:
        self._client = client
        self._executor = executor
        self._guard = threading.Lock()
        self._blobs: dict[tuple[str, Digest], Future[Outcome]] = {}
        self._manifests: dict[tuple[str, Digest], Future[None]] = {}
        self._written: set[tuple[str, Digest]] = set()
        self._data = {} if fetched is None else fetched
        self._known_tags: dict[str, frozenset[str]] = {}
        self._companions: dict[str, Mapping[Digest, Sequence[str]]] = {}
        self._lists = ReferrerLists(client, self._read)
        self._limited: RateLimitError | None = None

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
        way = _Way(source, target, progress)
        with self._heeding_limits():
            return self._tag(way, source.digest, wanted, platforms, referrers=referrers)

    def _tag(self, way: _Way, of: Digest, wanted: Digest, platforms: Collection[Platform], *, referrers: bool) -> int:
        source, target = way.source, way.target
        whole = self._read(source)
        data = narrow(whole, platforms, attestations=referrers) if platforms else whole
        digest = Digest.of(data)
        if digest != wanted:
            raise IntegrityError(f"narrowing {source} gave {digest.short}, not {wanted.short}", hint="plan again")
        if isinstance(parse_manifest(data), Index) or not self._has(target, digest):
            self._parts(data, way)
        if referrers:
            self._attach(_subjects(data, of), way)
        self._put(target, data)
        return way.sent

    def referrers(
        self,
        source: Reference,
        target: Reference,
        *,
        platforms: Collection[Platform] = (),
        progress: Callable[[int], None] = lambda _bytes: None,
    ) -> int:
        """Brings what refers to the manifest with the digest of ``source``, or to its parts, to where they are copied.

        Otherwise as ``tag``, without the tag.
        """
        assert source.digest is not None
        way = _Way(source, target, progress)
        with self._heeding_limits():
            whole = self._read(source)
            data = narrow(whole, platforms) if platforms else whole
            self._attach(_subjects(data, source.digest), way)
        return way.sent

    @contextmanager
    def _heeding_limits(self) -> Iterator[None]:
        """What a server does not give now of one image, after the waits that it asked for, it will not of others."""
        if self._limited is not None:
            raise RateLimitError(f"not tried after {self._limited}", hint=self._limited.hint)
        try:
            yield
        except RateLimitError as error:
            self._limited = self._limited or error
            raise

    def _parts(self, data: bytes, way: _Way, depth: int = 0) -> None:
        """All that a manifest names; when this returns, it may be pushed."""
        parsed = parse_manifest(data)
        if isinstance(parsed, Manifest):
            self._all_blobs(parsed, way)
            return
        if depth > _MOST_NESTED:
            raise InvalidError(f"indexes lie in each other more than {_MOST_NESTED} deep")
        for entry in parsed.manifests:
            self._manifest(entry.digest, way, depth + 1)

    def _all_blobs(self, manifest: Manifest, way: _Way) -> None:
        wanted = {blob.digest: blob for blob in travelling(manifest)}
        futures = [self._blob(blob, way) for blob in wanted.values()]
        wait(futures)
        for future in futures:
            future.result()

    def _blob(self, blob: Descriptor, way: _Way) -> Future[Outcome]:
        key = (way.target.name, blob.digest)
        with self._guard:
            if key not in self._blobs:
                self._blobs[key] = self._executor.submit(
                    self._client.copy_blob, way.source, way.target, blob, way.count
                )
            return self._blobs[key]

    def _manifest(self, digest: Digest, way: _Way, depth: int) -> None:
        """Makes a manifest exist at the target by its digest, with all that it names."""
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
        if not self._has(way.target, digest):
            data = self._read(way.source.with_digest(digest))
            self._parts(data, way, depth)
            self._put(way.target.with_digest(digest), data)

    def _has(self, repository: Reference, digest: Digest) -> bool:
        return (repository.name, digest) in self._written or self._client.has_manifest(repository.with_digest(digest))

    def _attach(self, subjects: Collection[Digest], way: _Way) -> None:
        """Brings what is listed as referring to ``subjects``, the tags that are about them, and so on from those."""
        met, steps = set(subjects), list(subjects)
        named = self._companion_tags(way.source)
        for _ in range(MOST_DEEP):
            found: list[Digest] = []
            for subject in steps:
                found += self._listed(subject, way)
                found += [self._companion(tag, way) for tag in named.get(subject, ())]
            steps = [digest for digest in dict.fromkeys(found) if digest not in met]
            met |= set(steps)

    def _listed(self, subject: Digest, way: _Way) -> list[Digest]:
        """What the source lists for ``subject``, brought to the target and listed there."""
        listing = self._lists.of(way.source.with_digest(subject), self._tags(way.source))
        gone = set()
        for entry in listing.entries:
            try:
                self._manifest(entry.digest, way, 0)
            except NotFoundError:
                # A tag that lists may name what was deleted since.
                if self._client.has_manifest(way.source.with_digest(entry.digest)):
                    raise
                gone.add(entry.digest)
        data = self._lists.add(way.target.with_digest(subject), listing, gone)
        if data is not None:
            self._put(tagged(way.target, referrers_tag(subject)), data)
        return [entry.digest for entry in listing.entries if entry.digest not in gone]

    def _tags(self, repository: Reference) -> frozenset[str]:
        if repository.name not in self._known_tags:
            self._known_tags[repository.name] = frozenset(self._client.tags(repository))
        return self._known_tags[repository.name]

    def _companion_tags(self, source: Reference) -> Mapping[Digest, Sequence[str]]:
        """The tags that are about a manifest by their name, but for those that list."""
        if source.name not in self._companions:
            found: dict[Digest, list[str]] = {}
            for tag in sorted(self._tags(source)):
                if (about := companion_of(tag)) is not None and not is_referrers_tag(tag):
                    found.setdefault(about, []).append(tag)
            self._companions[source.name] = found
        return self._companions[source.name]

    def _companion(self, tag: str, way: _Way) -> Digest:
        digest = self._client.tag_digest(tagged(way.source, tag))
        if digest is None:
            raise NotFoundError(f"{way.source.name}:{tag} was deleted meanwhile", hint="plan again")
        if self._client.tag_digest(tagged(way.target, tag)) != digest:
            data = self._read(way.source.with_digest(digest))
            self._parts(data, way)
            self._put(tagged(way.target, tag), data)
        return digest

    def _put(self, reference: Reference, data: bytes) -> None:
        manifest = PushManifest(parse_manifest(data).media_type, data, Digest.of(data))
        self._client.push(reference, (), [manifest])
        self._written.add((reference.name, manifest.digest))


def travelling(manifest: Manifest) -> list[Descriptor]:
    """The blobs that go along with a manifest."""
    return [blob for blob in manifest.blobs if not _KEPT_BACK.search(blob.media_type)]


def _subjects(data: bytes, digest: Digest) -> tuple[Digest, ...]:
    """What of an image signatures are of: itself, unless it was narrowed from what has ``digest``, and its parts."""
    parsed = parse_manifest(data)
    parts = tuple(entry.digest for entry in parsed.manifests) if isinstance(parsed, Index) else ()
    return (digest, *parts) if Digest.of(data) == digest else parts
