"""What the client does at Debian's docker-registry beyond pulls and pushes: tokens, TLS, lists, copies, deletions."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from reconciler.clock import SystemClock
from reconciler.errors import AuthError, NotFoundError, RegistryError
from reconciler.oci import media
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.manifest import Manifest
from reconciler.oci.reference import Reference
from reconciler.registry.client import RegistryClient
from reconciler.registry.failure import TemporaryError
from reconciler.registry.hosts import Credentials, HostConfig, RegistryHosts, TlsConfig
from reconciler.registry.upload import PushManifest
from reconciler.testing.registry_server import RegistryServer, running_registry
from reconciler.testing.token_server import running_token_server

pytestmark = pytest.mark.skipif(
    shutil.which("docker-registry") is None or shutil.which("openssl") is None, reason="needs docker-registry, openssl"
)
CONFIG = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
LAYER = os.urandom(2_000_000)
USER = Credentials("ci", "s3cret-password")


class Sink:
    def __init__(self) -> None:
        self.data = bytearray()

    @property
    def offset(self) -> int:
        return len(self.data)

    def digest(self) -> Digest:
        return Digest.of(bytes(self.data))

    def write(self, chunk: bytes) -> None:
        self.data += chunk

    def restart(self) -> None:
        self.data.clear()


def blob(data: bytes, media_type: str = media.OCI_LAYER_GZIP) -> Descriptor:
    return Descriptor(media_type, Digest.of(data), len(data))


BLOBS = [(blob(CONFIG, media.OCI_CONFIG), lambda: io.BytesIO(CONFIG)), (blob(LAYER), lambda: io.BytesIO(LAYER))]


def manifest(**annotations: str) -> PushManifest:
    data = Manifest.build(BLOBS[0][0], (BLOBS[1][0],), annotations)
    return PushManifest(media.OCI_MANIFEST, data, Digest.of(data))


def client(*servers: RegistryServer, tls: TlsConfig | None = None, login: Credentials | None = None) -> RegistryClient:
    hosts = {
        server.host: HostConfig(server.host, plain_http=server.scheme == "http", tls=tls, credentials=login)
        for server in servers
    }
    return RegistryClient(RegistryHosts(hosts), clock=SystemClock())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RegistryServer]:
    with running_registry(tmp_path / "registry") as running:
        yield running


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("tls")
    chain, key = directory / "chain.pem", directory / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    files = ["-keyout", key, "-out", chain, "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    return chain, key


def push_and_pull(registry: RegistryClient, host: str) -> None:
    reference = Reference.parse(f"{host}/team/app:1")
    pushed = manifest()
    registry.push(reference, BLOBS, [pushed])
    found = registry.resolve(reference, known=lambda _: False)
    assert (found.descriptor.digest, found.data) == (pushed.digest, pushed.data)
    sink = Sink()
    registry.blob(reference, blob(LAYER), sink)
    assert bytes(sink.data) == LAYER


@pytest.fixture(params=["plain", "tokens", "tls", "tokens over tls"])
def way(
    request: pytest.FixtureRequest, tmp_path: Path, certificate: tuple[Path, Path]
) -> Iterator[tuple[RegistryServer, RegistryHosts]]:
    """A registry, and what a client is told of it."""
    secure = certificate if "tls" in request.param else None
    trust = TlsConfig(ca=certificate[0])
    login = USER if "tokens" in request.param else None
    hosts: dict[str, HostConfig] = {}
    with ExitStack() as stack:
        tokens = None
        if login is not None:
            users = {USER.username: USER.password}
            tokens = stack.enter_context(running_token_server(tmp_path / "tokens", users, certificate=secure))
            hosts[tokens.host] = HostConfig(tokens.host, plain_http=secure is None, tls=trust)
        server = stack.enter_context(running_registry(tmp_path / "registry", tokens=tokens, certificate=secure))
        hosts[server.host] = HostConfig(server.host, plain_http=secure is None, tls=trust, credentials=login)
        yield server, RegistryHosts(hosts)


def test_all_that_a_client_does_on_each_way(way: tuple[RegistryServer, RegistryHosts]) -> None:
    """An index pushed in chunks with its children first, mounted elsewhere, resumed, read, listed."""
    server, hosts = way
    reference, elsewhere = (Reference.parse(f"{server.host}/team/{name}:1") for name in ("app", "copy"))
    children = [manifest(machine="one"), manifest(machine="two")]
    entries = [
        {**Descriptor(child.media_type, child.digest, len(child.data)).to_json(), "platform": {"os": "linux"}}
        for child in children
    ]
    data = json.dumps({"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": entries}).encode()
    whole = [*children, PushManifest(media.OCI_INDEX, data, Digest.of(data))]
    with RegistryClient(hosts, clock=SystemClock(), chunk_size=600_000) as registry:
        registry.push(reference, BLOBS, whole)
        assert server.requests("PATCH") == 5  # four chunks of the layer, one of the config
        assert registry.push(elsewhere, BLOBS, whole, mount_from=reference).mounted == tuple(b.digest for b, _ in BLOBS)
        assert server.requests("PATCH") == 5
        for place in (reference, elsewhere):
            found = registry.resolve(place, known=lambda _: False)
            assert (found.descriptor.media_type, found.data) == (media.OCI_INDEX, data)
            for child in children:
                assert registry.manifest(place.with_digest(child.digest)) == child.data
            sink = Sink()
            sink.data += LAYER[:700_000]
            fetched: list[int] = []
            registry.blob(place, blob(LAYER), sink, fetched.append)
            assert (bytes(sink.data), sum(fetched)) == (LAYER, len(LAYER) - 700_000)
        assert list(registry.tags(reference)) == ["1"]
    assert server.requests("GET", "/blobs/") == 2


def test_p01_tokens(tmp_path: Path) -> None:
    with (
        running_token_server(tmp_path / "tokens", {"ci": USER.password}) as tokens,
        running_registry(tmp_path / "registry", tokens=tokens) as server,
    ):
        with client(server, login=USER) as registry:
            push_and_pull(registry, server.host)
        assert len(tokens.asked) == 2, "one to push, one to pull"
        assert all("scope=repository%3Ateam%2Fapp%3Apull" in line for line in tokens.lines)
        with client(server, login=Credentials("ci", "wrong-password")) as registry, pytest.raises(AuthError) as caught:
            registry.tag_digest(Reference.parse(f"{server.host}/team/app:1"))
        assert "incorrect username or password" in str(caught.value)
        assert "wrong-password" not in str(caught.value)


def test_p10_tokens_that_last_a_second(tmp_path: Path) -> None:
    with (
        running_token_server(tmp_path / "tokens", {"ci": USER.password}, lifetime=1) as tokens,
        running_registry(tmp_path / "registry", tokens=tokens) as server,
        client(server, login=USER) as registry,
    ):
        push_and_pull(registry, server.host)


def test_identity_tokens_over_tls(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    login = Credentials("", "", "identity-token-1")
    with (
        running_token_server(
            tmp_path / "tokens", {}, identity_tokens={"identity-token-1": "ci"}, certificate=certificate
        ) as tokens,
        running_registry(tmp_path / "registry", tokens=tokens, certificate=certificate) as server,
    ):
        realm = tokens.realm.removeprefix("https://").partition("/")[0]
        trust = TlsConfig(ca=certificate[0])
        hosts = {
            server.host: HostConfig(server.host, tls=trust, credentials=login),
            realm: HostConfig(realm, tls=trust),
        }
        with RegistryClient(RegistryHosts(hosts), clock=SystemClock()) as registry:
            push_and_pull(registry, server.host)
        assert set(tokens.lines) == {"POST /token"}


def test_p28_tls(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    with running_registry(tmp_path / "registry", certificate=certificate) as server:
        with client(server, tls=TlsConfig(ca=certificate[0])) as registry:
            push_and_pull(registry, server.host)
        with client(server) as stranger, pytest.raises(RegistryError, match="TLS failed"):
            stranger.tag_digest(Reference.parse(f"{server.host}/team/app:1"))


def test_p73_tags(server: RegistryServer) -> None:
    reference = Reference.parse(f"{server.host}/team/app")
    names = [f"v{number}" for number in range(25)]
    with client(server) as registry:
        with pytest.raises(NotFoundError):
            list(registry.tags(reference))
        pushed = manifest()
        for name in names:
            registry.push(Reference.parse(f"{reference.name}:{name}"), BLOBS, [pushed])
        assert sorted(registry.tags(reference)) == sorted(names)
        assert len(list(itertools.islice(registry.tags(reference), 3))) == 3


def test_a_deleted_manifest_takes_its_tags_along(server: RegistryServer) -> None:
    reference = Reference.parse(f"{server.host}/team/app:1")
    pushed = manifest()
    with client(server) as registry:
        registry.push(reference, BLOBS, [pushed])
        assert registry.delete_manifest(reference.with_digest(pushed.digest)) is True
        assert registry.tag_digest(reference) is None
        assert registry.delete_manifest(reference.with_digest(pushed.digest)) is False


def test_referrers_are_found_by_their_tag(server: RegistryServer) -> None:
    """This registry has no such API: clients keep an index under a tag."""
    reference = Reference.parse(f"{server.host}/team/app:1")
    pushed, signature = manifest(), manifest(kind="signature")
    entry = {**Descriptor(media.OCI_MANIFEST, signature.digest, len(signature.data)).to_json(), "artifactType": "a/b"}
    data = json.dumps({"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [entry]}).encode()
    index = PushManifest(media.OCI_INDEX, data, Digest.of(data))
    with client(server) as registry:
        registry.push(reference, BLOBS, [pushed])
        assert registry.referrers(reference.with_digest(pushed.digest)) == ()
        tag = Reference.parse(f"{reference.name}:sha256-{pushed.digest.hex}")
        registry.push(tag, BLOBS, [signature, index])
        (found,) = registry.referrers(reference.with_digest(pushed.digest), "a/b")
        assert found.digest == signature.digest


def test_an_image_goes_from_one_registry_to_another(server: RegistryServer, tmp_path: Path) -> None:
    with running_registry(tmp_path / "other") as other, client(server, other) as registry:
        source, target = (Reference.parse(f"{host}/team/app:1") for host in (server.host, other.host))
        pushed = manifest()
        registry.push(source, BLOBS, [pushed])
        for descriptor, _ in BLOBS:
            assert registry.copy_blob(source, target, descriptor) == "uploaded"
            assert registry.copy_blob(source, target, descriptor) == "skipped"
        within = Reference.parse(f"{other.host}/copies/app:1")
        assert registry.copy_blob(target, within, BLOBS[1][0]) == "mounted"
        assert registry.copy_manifest(source, target).digest == pushed.digest
        sink = Sink()
        registry.blob(target, BLOBS[1][0], sink)
        assert bytes(sink.data) == LAYER


@pytest.mark.parametrize("chunk", [None, 700_000])
def test_p68_an_upload_that_breaks_is_made_whole(server: RegistryServer, chunk: int | None) -> None:
    """The source fails once in the middle, as a connection does. This registry then forgets the session: begun anew."""
    reads = itertools.count()

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if next(reads) == 5:
                raise TemporaryError("the connection broke")
            return super().read(size)

    host = HostConfig(server.host, plain_http=True)
    reference = Reference.parse(f"{server.host}/team/app:1")
    with RegistryClient(RegistryHosts({server.host: host}), clock=SystemClock(), chunk_size=chunk) as registry:
        registry.push(reference, [BLOBS[0], (blob(LAYER), lambda: Broken(LAYER))], [manifest()])
        sink = Sink()
        registry.blob(reference, blob(LAYER), sink)
    assert bytes(sink.data) == LAYER
