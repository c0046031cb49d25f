"""What is heard of the layers of an image while it is pulled: each state once and in order, and bytes as they came."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reconciler.clock import SystemClock
from reconciler.engine.embedded.images.intake import Images, Pulled
from reconciler.engine.embedded.images.resolve import ManifestSource
from reconciler.engine.embedded.state import SCHEMAS, WriterState
from reconciler.oci import media
from reconciler.oci.digest import Digest
from reconciler.oci.platform import Platform
from reconciler.oci.reference import Reference
from reconciler.registry.client import RegistryClient
from reconciler.registry.hosts import HostConfig, RegistryHosts
from reconciler.store.archive.reader import Entry, Kind
from reconciler.store.archive.writer import archive
from reconciler.store.database import WritableDatabase
from reconciler.store.identity import claim_identity
from reconciler.testing.scripted_registry import Step
from reconciler.testing.served_registry import ServedRegistry

pytestmark = pytest.mark.root

SIZE = 700_000
Heard = list[tuple[str, str, int, int | None]]


class World:
    """A registry with images whose layers are named by a letter each, and a root to pull them into."""

    def __init__(self, registry: ServedRegistry, state: WriterState) -> None:
        self.registry, self.state = registry, state
        self.archives: dict[str, bytes] = {}

    def layer(self, name: str) -> tuple[Digest, bytes]:
        if name not in self.archives:
            body = random.Random(name).randbytes(SIZE)
            self.archives[name] = b"".join(archive([(Entry(name.encode(), Kind.FILE, size=SIZE), body)]))
        packed = gzip.compress(self.archives[name], 1, mtime=0)
        return Digest.of(packed), packed

    def pull(self, names: str) -> tuple[Pulled, Heard]:
        packed = [self.layer(name)[1] for name in names]
        here = Platform.host()
        diff_ids = [str(Digest.of(self.archives[name])) for name in names]
        rootfs = {"type": "layers", "diff_ids": diff_ids}
        config = json.dumps({"os": here.os, "architecture": here.architecture, "rootfs": rootfs}).encode()
        layers = [self.registry.blob("app", data) for data in packed]
        described = self.registry.blob("app", config) | {"mediaType": media.OCI_CONFIG}
        document = {"schemaVersion": 2, "mediaType": media.OCI_MANIFEST, "config": described, "layers": layers}
        digest = self.registry.put("app", document)
        heard: Heard = []

        def hear(item: str, state: str, done: int, total: int | None, origin: str = "") -> None:
            heard.append((item, state, done, total))

        host = self.registry.host
        with (
            ThreadPoolExecutor(3) as pool,
            RegistryClient(RegistryHosts({host: HostConfig(host, plain_http=True)}), clock=SystemClock()) as client,
        ):
            images = Images(self.state, ManifestSource(self.state, {}), pool)
            return images.pull(client, Reference.parse(f"{host}/app@{digest}"), digest, None, hear), heard


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    (tmp_path / "root").mkdir(0o700)
    identity = claim_identity(tmp_path / "root", run=tmp_path / "run")
    state = WriterState(identity, WritableDatabase(tmp_path / "root", SCHEMAS))
    with ServedRegistry() as registry:
        yield World(registry, state)
    state.close()


def states(heard: Heard, layer: tuple[Digest, bytes]) -> list[str]:
    """The states of a layer, each as often as it was come into."""
    mine = [state for item, state, *_ in heard if item == layer[0].short]
    return [state for at, state in enumerate(mine) if at == 0 or mine[at - 1] != state]


def test_each_layer_goes_through_its_states_in_order(world: World) -> None:
    pulled, heard = world.pull("abc")
    for name in "abc":
        layer = world.layer(name)
        whole = ["waiting", "pulling", "downloading", "verifying", "extracting", "complete"]
        assert states(heard, layer) == whole
        done = [done for item, state, done, _ in heard if (item, state) == (layer[0].short, "downloading")]
        assert done == sorted(done)
        assert done[-1] == len(layer[1])
    assert len({item for item, *_ in heard}) == 3, "a config is no layer"
    assert pulled.fetched == sum(map(len, world.registry.blobs["app"].values()))
    assert pulled.there == ()

    again, heard = world.pull("abc")
    assert (again.fetched, len(again.there), heard) == (0, 3, [])


def test_a_layer_of_another_image_exists_already(world: World) -> None:
    world.pull("a")
    pulled, heard = world.pull("ab")
    assert states(heard, world.layer("a")) == ["waiting", "exists"]
    assert states(heard, world.layer("b"))[-1] == "complete"
    assert [layer.digest for layer in pulled.there] == [world.layer("a")[0]]
    assert pulled.bytes_there == len(world.layer("a")[1])


def test_what_an_earlier_run_left_is_gone_on_from_and_not_counted(world: World) -> None:
    digest, packed = world.layer("a")
    with world.state.content.ingest(digest, len(packed)) as ingest:
        ingest.write(packed[:300_000])
    place = f"bytes 300000-{len(packed) - 1}/{len(packed)}"
    world.registry.on(f"GET /v2/app/blobs/{digest}", Step(206, packed[300_000:], {"Content-Range": place}))
    pulled, heard = world.pull("a")
    assert states(heard, world.layer("a"))[:3] == ["waiting", "resuming", "downloading"]
    assert next(done for _, state, done, _ in heard if state == "resuming") == 300_000
    (config,) = (data for name, data in world.registry.blobs["app"].items() if name != digest)
    assert pulled.fetched == len(packed) - 300_000 + len(config)
