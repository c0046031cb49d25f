"""Images of more layers than can be mounted are refused before anything of them is downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reconciler.clock import SystemClock
from reconciler.engine.embedded.images.checks import check_depth
from reconciler.engine.embedded.images.intake import Images
from reconciler.engine.embedded.images.resolve import ManifestSource, resolve_all
from reconciler.engine.embedded.state import SCHEMAS, WriterState
from reconciler.errors import InvalidError
from reconciler.linux.mounts import MAX_LOWERS
from reconciler.model.address import Address
from reconciler.model.desired import Pin
from reconciler.model.facts import Absent
from reconciler.model.resources import Pull
from reconciler.oci import media
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.manifest import Manifest
from reconciler.oci.reference import Reference
from reconciler.registry.client import RegistryClient
from reconciler.registry.hosts import HostConfig, RegistryHosts
from reconciler.store.database import WritableDatabase
from reconciler.store.identity import claim_identity
from reconciler.testing.scripted_registry import FOREVER, ScriptedRegistry, Step

IMAGE = Address("image", "shop/app")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[WriterState]:
    root = tmp_path / "root"
    root.mkdir(0o700)
    opened = WriterState(claim_identity(root, run=tmp_path / "run"), WritableDatabase(root, SCHEMAS))
    yield opened
    opened.close()


@pytest.fixture
def registry() -> Iterator[ScriptedRegistry]:
    """No request for a blob has an answer: one made fails the test."""
    with ScriptedRegistry() as registry:
        registry.on("GET /v2/ ", Step(200, b"{}", times=FOREVER))
        yield registry


@pytest.fixture
def client(registry: ScriptedRegistry) -> Iterator[RegistryClient]:
    hosts = RegistryHosts({registry.host: HostConfig(registry.host, plain_http=True)})
    with RegistryClient(hosts, clock=SystemClock()) as client:
        yield client


def serve(registry: ScriptedRegistry, layers: int) -> Digest:
    """Serves the manifest of an image of so many layers, as ``app:1`` and by its digest."""
    described = [Descriptor(media.OCI_LAYER_GZIP, Digest.of(b"%d" % number), 9) for number in range(layers)]
    manifest = Manifest.build(Descriptor(media.OCI_CONFIG, Digest.of(b"{}"), 2), tuple(described), {})
    digest = Digest.of(manifest)
    step = Step(200, manifest, {"Content-Type": media.OCI_MANIFEST, "Docker-Content-Digest": digest}, times=FOREVER)
    for method in ("HEAD", "GET"):
        for name in ("1", digest):
            registry.on(f"{method} /v2/app/manifests/{name}", step)
    return digest


@pytest.mark.parametrize(("layers", "fits"), [(MAX_LOWERS, True), (MAX_LOWERS + 1, False)])
def test_s43_a_plan_refuses_what_could_not_be_mounted(
    state: WriterState, registry: ScriptedRegistry, client: RegistryClient, layers: int, fits: bool
) -> None:
    serve(registry, layers)
    pull = Pull(Reference.parse(f"{registry.host}/app:1"))
    found = resolve_all({IMAGE: pull}, state, lambda: client, ManifestSource(state, {}), {})[IMAGE]
    if fits:
        assert isinstance(found, Pin)
    else:
        assert isinstance(found, Absent)
        assert found.reason == f"it has {layers} layers, and Linux can mount {MAX_LOWERS} on each other"
        assert "fewer layers" in found.hint


def test_s43_a_pull_by_digest_refuses_it_before_a_blob_is_asked_for(
    state: WriterState, registry: ScriptedRegistry, client: RegistryClient
) -> None:
    digest = serve(registry, MAX_LOWERS + 1)
    reference = Reference.parse(f"{registry.host}/app@{digest}")
    with ThreadPoolExecutor(2) as pool, pytest.raises(InvalidError) as refused:
        Images(state, ManifestSource(state, {}), pool).pull(client, reference, digest, None, lambda *_: None)
    assert str(refused.value) == (
        f"image {reference} has {MAX_LOWERS + 1} layers, and Linux can mount {MAX_LOWERS} on each other"
    )
    assert not any("/blobs/" in line for line in registry.lines)
    assert list(state.content.digests()) == []
    assert state.images.list() == ()


def test_the_limit_itself_is_allowed() -> None:
    check_depth(MAX_LOWERS, "it")
