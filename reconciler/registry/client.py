"""The registry client: what the rest of the system asks of registries.

    with RegistryClient(hosts, clock=SystemClock()) as client:
        found = client.resolve(Reference.parse("shop/app:1.4"), known=store.has)

Messages name the server, what was asked of it, and its answer. A client is safe to share between threads; it keeps its
connections and tokens until it is closed.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from types import TracebackType
from typing import BinaryIO, Literal, Self, cast

from reconciler.clock import Clock
from reconciler.errors import InvalidError
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.reference import Reference
from reconciler.oci.sizes import DEFAULT_MANIFEST_BYTES
from reconciler.registry.blob_upload import BlobProgress, Opener, Outcome
from reconciler.registry.catalog import Catalog
from reconciler.registry.download import Downloader, Sink
from reconciler.registry.fallback import Patience
from reconciler.registry.health import EndpointHealth, Health
from reconciler.registry.hosts import RegistryHosts
from reconciler.registry.proxy import Proxies
from reconciler.registry.quota import Quota
from reconciler.registry.resolve import Resolved, Resolver
from reconciler.registry.retry import RetryPolicy
from reconciler.registry.session import Session
from reconciler.registry.transfer import BlobStream
from reconciler.registry.transport import Timeouts, Transport
from reconciler.registry.turns import Turns
from reconciler.registry.upload import Push, PushManifest, PushResult

USER_AGENT = "reconciler"


def _unheard(_text: str) -> None:
    pass


def _uncounted(_bytes: int) -> None:
    pass


def _unwatched(_blob: Descriptor, _what: Outcome | Literal["uploading"], _bytes: int) -> None:
    pass


def _every(_digest: Digest) -> bool:
    return True


class RegistryClient:
    """Pulls from and pushes to registries, through the mirrors declared for them.

    ``note`` hears, from any thread, one sentence for each server passed over and each wait that a server asked for.
    ``chunk_size`` makes pushes send blobs in chunks of that many bytes, for servers that limit a request's size; None
    sends each in one request. Of a server that counts requests for manifests, ``quota_floor`` are left unused.
    ``health`` is what is known of servers, which clients may share. ``manifest_limit`` bounds manifests, in bytes.
    """

    def __init__(
        self,
        hosts: RegistryHosts,
        *,
        clock: Clock,
        proxies: Proxies | None = None,
        user_agent: str = USER_AGENT,
        note: Callable[[str], None] = _unheard,
        timeouts: Timeouts | None = None,
        retry: RetryPolicy | None = None,
        chunk_size: int | None = None,
        quota_floor: int = 0,
        health: Health | None = None,
        manifest_limit: int = DEFAULT_MANIFEST_BYTES,
    ) -> None:
        self._transport = Transport(
            hosts, clock=clock, proxies=proxies or Proxies(), user_agent=user_agent, timeouts=timeouts or Timeouts()
        )
        self._hosts = hosts
        self._chunk_size = chunk_size
        self._health = health or Health(clock)
        self._session = Session(self._transport, hosts, clock, self._health, quota_floor)
        self._patience = Patience(self._health, retry or RetryPolicy(), note)
        self._resolver = Resolver(self._session, hosts, self._patience, manifest_limit)
        self._catalog = Catalog(self._session, hosts, self._patience)
        self._downloader = Downloader(self._session, hosts, self._patience)
        self._pushing = Turns()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes all connections. The client may not be used again."""
        self._transport.close()

    def health(self) -> tuple[EndpointHealth, ...]:
        """How each server did when it was last asked, by name. It asks nobody."""
        return self._health.shown()

    def quotas(self) -> tuple[Quota, ...]:
        """What servers last said of how often they may still be asked, by name; what is out of date is left out."""
        return self._session.quotas()

    def resolve(
        self, reference: Reference, known: Callable[[Digest], bool] = _every, *, quiet: bool = False
    ) -> Resolved:
        """What ``reference`` points at now.

        A tag is translated by the origin while it answers, else by its mirrors in order; mirrors declared ``resolve:
        first`` come before the origin. It costs one HEAD, and a GET only when ``known`` says that the digest is not
        at hand: then ``data`` holds the manifest, fetched as ``manifest`` does. A reference with a digest is fetched.
        With ``quiet`` the servers passed over are in the result's notes alone, for a caller that tells them.

        Raises ``NotFoundError`` when the origin says that it does not exist (absent), ``RegistryError`` or a
        subclass, ``IntegrityError`` or ``InvalidError`` when no server gave a usable answer (unknown); the text then
        lists what each said.
        """
        return self._resolver.resolve(reference, known, quiet=quiet)

    def manifest(self, reference: Reference) -> bytes:
        """The manifest or index with the digest of ``reference``: from the mirrors in order, then the origin.

        Its digest is verified, it has at most ``manifest_limit`` bytes, and ``parse_manifest`` accepted it under the
        Content-Type it came with. Raises as ``resolve``.
        """
        return self._resolver.manifest(reference)

    def tag_digest(self, reference: Reference) -> Digest | None:
        """The digest of a tag at the origin, never at a mirror; None when the origin says there is none.

        Raises as ``resolve`` when the origin gave no usable answer.
        """
        if reference.tag is None:
            raise InvalidError(f"{reference} names no tag")
        return self._resolver.tag_digest(reference)

    def check_access(self, registry: str) -> None:
        """Asks the origin whether it lets us in with the credentials at hand (distribution-spec, ``GET /v2/``).

        Raises ``AuthError`` when it refuses them, else as ``resolve``.
        """
        self._resolver.check_access(registry)

    def blob(
        self, reference: Reference, descriptor: Descriptor, sink: Sink, progress: Callable[[int], None] = _uncounted
    ) -> str:
        """Fills ``sink`` with a blob of the repository of ``reference``; returns the name of the last server asked.

        On success the sink holds exactly the descriptor's bytes, and has said so itself (``Sink.digest``). It goes on
        from the sink's offset, also from one server to the next; a server that gave wrong bytes has them thrown away.
        ``progress`` hears the bytes of each chunk, those fetched twice twice; what it raises ends the download. What
        the sink raises passes through. After a failure the sink keeps what can be gone on from. Raises as ``manifest``.
        """
        return self._downloader.blob(reference, descriptor, sink, progress)

    def tags(self, reference: Reference) -> Iterator[str]:
        """The tags of the repository of ``reference`` at its origin, each once, in the server's order, page by page.

        It is lazy: what is not taken is not asked for. Raises as ``resolve``, also in the middle of the list.
        """
        return self._catalog.tags(reference)

    def referrers(self, reference: Reference, artifact_type: str = "") -> tuple[Descriptor, ...]:
        """What says at the origin that it refers to the manifest with the digest of ``reference``: signatures, SBOMs.

        Where the server has no such API, what the tag ``sha256-HEX`` lists. ``artifact_type`` leaves only that type.
        An unknown digest has none. Raises as ``resolve``.
        """
        return self._catalog.referrers(reference, artifact_type)

    def listed_referrers(self, reference: Reference) -> tuple[Descriptor, ...] | None:
        """As ``referrers``, but None where the server has no such API."""
        return self._catalog.listed_referrers(reference)

    def has_manifest(self, reference: Reference) -> bool:
        """Whether the origin has the manifest with the digest of ``reference``: one HEAD. Raises as ``resolve``."""
        return self._catalog.has_manifest(reference)

    def has_blob(self, reference: Reference, digest: Digest) -> bool:
        """Whether the repository of ``reference`` has the blob at its origin: one HEAD. Raises as ``resolve``."""
        return self._catalog.has_blob(reference, digest)

    def delete_manifest(self, reference: Reference) -> bool:
        """Deletes the manifest with the digest of ``reference`` at the origin, and so every tag of it there.

        False when there was none. Raises ``RegistryError`` when the server refuses, ``InvalidError`` without a digest.
        """
        return self._catalog.delete_manifest(reference)

    def copy_blob(
        self,
        source: Reference,
        target: Reference,
        descriptor: Descriptor,
        progress: Callable[[int], None] = _uncounted,
    ) -> Outcome:
        """Makes a blob of the repository of ``source`` exist in that of ``target``; nothing is stored here.

        It is skipped when it is there, mounted within a registry that allows it, else streamed, and verified on the
        way: a blob that is not what ``descriptor`` says never becomes complete. ``progress`` hears the bytes sent.
        Raises as ``blob`` and ``push``.
        """

        def opener() -> BinaryIO:
            if descriptor.data is not None:
                return io.BytesIO(descriptor.data)
            return cast("BinaryIO", BlobStream(lambda sink: self.blob(source, descriptor, sink)))

        def sent(_blob: Descriptor, what: Outcome | Literal["uploading"], more: int) -> None:
            if what == "uploading":
                progress(more)

        return self._push(target, source, sent).blob(descriptor, opener)

    def copy_manifest(self, source: Reference, target: Reference) -> Descriptor:
        """Puts the manifest or index that ``source`` points at under the tag of ``target``, or its digest there.

        Its bytes are untouched. What it names must be there already. Raises as ``resolve`` and ``push``.
        """
        found = self.resolve(source, lambda _digest: False)
        assert found.data is not None
        manifest = PushManifest(found.descriptor.media_type, found.data, found.descriptor.digest)
        self._push(target, None, _unwatched).run((), (manifest,), None)
        return found.descriptor

    def push(
        self,
        reference: Reference,
        blobs: Iterable[tuple[Descriptor, Opener]],
        manifests: Sequence[PushManifest],
        *,
        mount_from: Reference | None = None,
        executor: Executor | None = None,
        progress: BlobProgress = _unwatched,
    ) -> PushResult:
        """Makes the last of ``manifests``, and all it refers to, exist at the origin, under the tag of ``reference``.

        ``manifests`` are in the order children before parents; without a tag the last too is pushed by its digest.
        Blobs that are there are skipped; with ``mount_from``, a repository of the same registry, others are mounted
        from there where the server allows it; the rest is streamed, in parallel on ``executor``, which must not be the
        pool this call itself runs in; ``progress`` hears of each from its threads. Pushing again what is there changes
        nothing.

        Raises ``RegistryError`` or a subclass, and ``IntegrityError`` when the server stored something else. Whatever
        fails, the tag does not move.
        """
        return self._push(reference, mount_from, progress).run(blobs, manifests, executor)

    def _push(self, reference: Reference, mount_from: Reference | None, progress: BlobProgress) -> Push:
        return Push(
            self._session,
            self._patience,
            self._hosts.origin(reference.registry),
            reference,
            turns=self._pushing,
            mount_from=mount_from,
            chunk_size=self._chunk_size,
            progress=progress,
        )
