"""Against Debian's docker-registry, with nginx as a mirror. Needs no root, but the servers."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from reconciler.clock import SystemClock
from reconciler.errors import AuthError, NotFoundError
from reconciler.oci import media
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.manifest import Manifest, parse_manifest
from reconciler.oci.reference import Reference
from reconciler.registry.client import RegistryClient
from reconciler.registry.hosts import Credentials, HostConfig, MirrorEndpoint, RegistryHosts
from reconciler.registry.upload import PushManifest
from reconciler.testing.mirror_server import running_mirror
from reconciler.testing.registry_server import RegistryServer, running_registry

pytestmark = pytest.mark.skipif(
    shutil.which("docker-registry") is None or shutil.which("nginx") is None, reason="needs docker-registry and nginx"
)
LAYERS = [os.urandom(3_000_000), os.urandom(100), b"", os.urandom(70_000)]
CONFIG = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'


class Sink:
    def __init__(self) -> None:
        self.data = bytearray()

    @property
    def offset(self) -> int:
        return len(self.data)

    def digest(self) -> Digest:
        return Digest("sha256:" + hashlib.sha256(self.data).hexdigest())

    def write(self, chunk: bytes) -> None:
        self.data += chunk

    def restart(self) -> None:
        self.data.clear()


def image() -> tuple[list[tuple[Descriptor, object]], PushManifest]:
    contents = [(CONFIG, media.OCI_CONFIG), *((data, media.OCI_LAYER_GZIP) for data in LAYERS)]
    blobs = [(Descriptor(kind, Digest.of(data), len(data)), lambda d=data: io.BytesIO(d)) for data, kind in contents]
    data = Manifest.build(blobs[0][0], tuple(descriptor for descriptor, _ in blobs[1:]), {})
    return blobs, PushManifest(media.OCI_MANIFEST, data, Digest.of(data))


def client(server: RegistryServer, *mirrors: str, **more) -> RegistryClient:
    host = HostConfig(server.host, plain_http=True, credentials=more.pop("credentials", None))
    endpoints = tuple(MirrorEndpoint(url) for url in mirrors)
    return RegistryClient(RegistryHosts({server.host: host}, {server.host: endpoints}), clock=SystemClock(), **more)


@pytest.fixture
def server(tmp_path) -> Iterator[RegistryServer]:
    with running_registry(tmp_path / "registry") as running:
        yield running


def pull(puller: RegistryClient, reference: Reference) -> list[bytes]:
    found = puller.resolve(reference, known=lambda _: False)
    assert found.data is not None
    manifest = parse_manifest(found.data)
    assert isinstance(manifest, Manifest)
    contents = []
    for descriptor in manifest.blobs:
        sink = Sink()
        puller.blob(reference, descriptor, sink)
        contents.append(bytes(sink.data))
    return contents


def test_push_then_pull(server):
    blobs, manifest = image()
    reference = Reference.parse(f"{server.host}/shop/app:1")
    with client(server) as registry, ThreadPoolExecutor(4) as pool:
        assert registry.tag_digest(reference) is None
        with pytest.raises(NotFoundError, match="resolve"):
            registry.resolve(reference)
        first = registry.push(reference, blobs, [manifest], executor=pool)
        assert first.bytes_uploaded == len(CONFIG) + sum(map(len, LAYERS))
        assert registry.tag_digest(reference) == manifest.digest
        assert pull(registry, reference) == [CONFIG, *LAYERS]
        again = registry.push(reference, blobs, [manifest], executor=pool)
        assert again.bytes_uploaded == 0
        assert len(again.skipped) == len(blobs)
    for descriptor, _ in blobs:
        assert server.requests("GET", f"blobs/{descriptor.digest}") == (1 if descriptor.size else 0)


def test_push_in_chunks(server):
    blobs, manifest = image()
    reference = Reference.parse(f"{server.host}/shop/app:1")
    with client(server, chunk_size=1_000_000) as registry:
        registry.push(reference, blobs, [manifest])
        assert pull(registry, reference) == [CONFIG, *LAYERS]
    assert server.requests("PATCH") == 6


def test_p64_mount_from_another_repository(server):
    blobs, manifest = image()
    base, app = (Reference.parse(f"{server.host}/{name}:1") for name in ("base", "app"))
    with client(server) as registry:
        registry.push(base, blobs, [manifest])
        result = registry.push(app, blobs, [manifest], mount_from=base)
        assert len(result.mounted) == len(blobs)
        assert pull(registry, app) == [CONFIG, *LAYERS]


def test_a_login(tmp_path):
    blobs, manifest = image()
    with running_registry(tmp_path / "registry", users={"ci": "s3cret"}) as server:
        reference = Reference.parse(f"{server.host}/app:1")
        with client(server, credentials=Credentials("ci", "s3cret")) as registry:
            registry.push(reference, blobs, [manifest])
            assert pull(registry, reference) == [CONFIG, *LAYERS]
        with client(server) as anonymous, pytest.raises(AuthError, match="login required"):
            anonymous.resolve(reference)
        with client(server, credentials=Credentials("ci", "wrong")) as intruder, pytest.raises(AuthError) as caught:
            intruder.resolve(reference)
        assert "wrong" not in str(caught.value)


def test_a_dead_mirror_and_a_living_one(server, tmp_path):
    blobs, manifest = image()
    reference = Reference.parse(f"{server.host}/shop/app:1")
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        dead = f"http://127.0.0.1:{listener.getsockname()[1]}"
    notes: list[str] = []
    with client(server) as registry:
        registry.push(reference, blobs, [manifest])
    with (
        running_mirror(tmp_path / "nginx", server.url, prefix="/hub") as mirror,
        client(server, dead, f"{mirror.url}/hub", note=notes.append) as registry,
    ):
        assert pull(registry, reference) == [CONFIG, *LAYERS]
    access = mirror.log.read_text()  # whole, now that nginx has ended
    assert len(notes) == 1, "the dead mirror is noticed once, then avoided"
    assert access.count("GET /hub/v2/shop/app/blobs/") == len([data for data in LAYERS if data]) + 1
    assert f"ns={server.host.replace(':', '%3A')}" in access


def test_without_its_origin_a_mirror_resolves_tags(tmp_path):
    blobs, manifest = image()
    with running_registry(tmp_path / "mirror") as copy:
        with client(copy) as registry:
            registry.push(Reference.parse(f"{copy.host}/app:1"), blobs, [manifest])
        with running_registry(tmp_path / "origin") as server:
            reference = Reference.parse(f"{server.host}/app:1")
        with client(server, copy.url) as registry:
            found = registry.resolve(reference)
            assert (found.descriptor.digest, found.source) == (manifest.digest, copy.url)
            assert len(found.notes) == 1
            assert pull(registry, reference) == [CONFIG, *LAYERS]
