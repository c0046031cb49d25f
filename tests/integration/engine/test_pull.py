"""Pulling whole images into a root: from hostile mirrors, and by several processes at once (cases S10, S17, P59)."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import random
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from reconciler.clock import SystemClock
from reconciler.engine.embedded.images.intake import Images
from reconciler.engine.embedded.images.resolve import ManifestSource
from reconciler.engine.embedded.state import SCHEMAS, WriterState
from reconciler.errors import IntegrityError, InvalidError, RegistryError
from reconciler.oci import media
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.manifest import Manifest
from reconciler.oci.platform import Platform
from reconciler.oci.reference import Reference
from reconciler.registry.client import RegistryClient
from reconciler.registry.hosts import HostConfig, MirrorEndpoint, RegistryHosts
from reconciler.registry.transport import Timeouts
from reconciler.store.archive.reader import Entry, Kind
from reconciler.store.archive.writer import archive
from reconciler.store.database import WritableDatabase
from reconciler.store.identity import claim_identity
from reconciler.store.layers.file_list import listing, read_file_list
from reconciler.testing.recorded import Asked
from reconciler.testing.scripted_registry import FOREVER, ScriptedRegistry, Step

pytestmark = pytest.mark.root

NOISE = random.Random(3).randbytes(1 << 20)


def layer(name: str, count: int = 20) -> bytes:
    """A layer of files that do not compress."""
    size = len(NOISE) // count
    bodies = [NOISE[number * size :][:size] for number in range(count)]
    entries = [
        (Entry(b"%s/f%d" % (name.encode(), at), Kind.FILE, size=len(body)), body) for at, body in enumerate(bodies)
    ]
    return b"".join(archive(entries))


@dataclass(frozen=True)
class Image:
    """An image as a registry has it."""

    manifest: bytes
    blobs: dict[Digest, bytes]
    layers: tuple[Digest, ...]

    @classmethod
    def of(cls, *archives: bytes) -> Image:
        host = Platform.host()
        config = json.dumps(
            {
                "os": host.os,
                "architecture": host.architecture,
                "rootfs": {"type": "layers", "diff_ids": [Digest.of(data) for data in archives]},
            }
        ).encode()
        packed = [gzip.compress(data, 1, mtime=0) for data in archives]
        layers = tuple(Descriptor(media.OCI_LAYER_GZIP, Digest.of(data), len(data)) for data in packed)
        described = Descriptor(media.OCI_CONFIG, Digest.of(config), len(config))
        manifest = Manifest.build(described, layers, {})
        blobs = {Digest.of(data): data for data in (config, *packed)}
        return cls(manifest, blobs, tuple(one.digest for one in layers))

    @property
    def digest(self) -> Digest:
        return Digest.of(self.manifest)

    @property
    def headers(self) -> dict[str, str]:
        return {"Content-Type": media.OCI_MANIFEST, "Docker-Content-Digest": self.digest}

    def asked_for(self, asked: Asked) -> bytes:
        """The blob that a request names."""
        return self.blobs[Digest(asked.line.partition("/blobs/")[2].partition("?")[0])]

    def serve(self, registry: ScriptedRegistry) -> None:
        step = Step(200, self.manifest, {"Content-Type": media.OCI_MANIFEST}, times=FOREVER)
        registry.on(f"GET /v2/app/manifests/{self.digest}", step)
        for digest, data in self.blobs.items():
            registry.on(f"GET /v2/app/blobs/{digest}", Step(200, data, times=FOREVER))


def pull(
    root: Path,
    run: Path,
    image: Image,
    origin: str,
    mirror: str = "",
    *,
    tag: str = "",
    timeouts: Timeouts | None = None,
) -> WriterState:
    """Pulls the image by its digest; with ``tag``, that has to be what the registries say it is."""
    hosts = {host: HostConfig(host, plain_http=True) for host in (origin, mirror) if host}
    mirrors = {origin: (MirrorEndpoint(f"http://{mirror}"),)} if mirror else {}
    state = WriterState(claim_identity(root, run=run), WritableDatabase(root, SCHEMAS))
    made = RegistryClient(RegistryHosts(hosts, mirrors), clock=SystemClock(), timeouts=timeouts)
    with ThreadPoolExecutor(3) as pool, made as client:
        images = Images(state, ManifestSource(state, {}), pool)
        reference = Reference.parse(f"{origin}/app@{image.digest}")
        if tag:
            found = client.resolve(Reference.parse(f"{origin}/app:{tag}"), lambda _digest: False)
            assert (found.descriptor.digest, found.data) == (image.digest, image.manifest)
        images.pull(client, reference, image.digest, None, lambda *_: None)
    return state


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir(0o700)
    return path


def paths(state: WriterState) -> set[str]:
    """Every file of the unpacked layers, by the lists and by the disk, which must agree."""
    listed, there = set(), set()
    for directory in state.layers.directory.iterdir():
        if directory.is_dir():
            there |= {str(path.relative_to(directory)) for path in directory.rglob("*")}
        else:
            listed |= {os.fsdecode(path) for path in listing(read_file_list(directory)) if path}
    assert listed == there
    return there


BEHAVIOURS = ["dead", "slow", "silent", "stale", "wrong bytes", "wrong digest", "half full"]


def misbehave(mirror: ScriptedRegistry, how: str, image: Image, done: threading.Event) -> None:
    """Lets the mirror serve the image in a way that it should not; it stops at nothing once it is ``done``."""
    right = Step(200, image.manifest, {"Content-Type": media.OCI_MANIFEST}, times=FOREVER)
    other = Image.of(layer("old", 3))
    manifests, blobs = f"GET /v2/app/manifests/{image.digest}", "GET /v2/app/blobs/"
    match how:
        case "slow" | "silent":
            mirror.on(manifests, right)
            for digest, data in image.blobs.items():
                pauses = {"body_pause": lambda: done.wait(0.03)} if how == "slow" else {"before": lambda: done.wait(10)}
                mirror.on(f"{blobs}{digest}", Step(200, data, times=FOREVER, **pauses))  # type: ignore[arg-type]
        case "stale":
            mirror.on("HEAD /v2/app/manifests/1", Step(200, other.manifest, other.headers, times=FOREVER))
            other.serve(mirror)
        case "wrong bytes":
            mirror.on(manifests, right)
            mirror.on(blobs, Step(200, lambda asked: bytes(len(image.asked_for(asked))), times=FOREVER))
        case "wrong digest":
            mirror.on("GET /v2/app/manifests/", Step(200, other.manifest, image.headers, times=FOREVER))
            mirror.on(blobs, Step(200, image.asked_for, times=FOREVER))
        case "half full":
            mirror.on(manifests, right)
            mirror.on(f"{blobs}{image.layers[0]}", Step(200, image.blobs[image.layers[0]], times=FOREVER))
    mirror.on("", Step(404, times=FOREVER))


@pytest.mark.parametrize("how", BEHAVIOURS)
def test_p59_a_mirror_changes_how_fast_a_pull_is_and_nothing_else(root: Path, tmp_path: Path, how: str) -> None:
    """Whatever it does: the tag is what the origin says, and the store holds the image and nothing else."""
    image, done = Image.of(layer("a"), layer("b")), threading.Event()
    timeouts = Timeouts(connect=2, idle=0.3, total=5, window=0.1, brisk=1 << 40)
    with ScriptedRegistry() as origin, ScriptedRegistry() as mirror:
        tag = Step(200, image.manifest, image.headers, times=FOREVER)
        origin.on("HEAD /v2/app/manifests/1", tag)
        image.serve(origin)
        misbehave(mirror, how, image, done)
        named = dead_host() if how == "dead" else mirror.host
        try:
            state = pull(root, tmp_path / "run", image, origin.host, named, tag="1", timeouts=timeouts)
        finally:
            done.set()
        assert how == "dead" or mirror.asked, "it had its chance"
        assert mirror.count("HEAD ") == 0, "whose tag it is, the origin says"
    try:
        assert paths(state) == {"a", "b", *(f"{name}/f{at}" for name in "ab" for at in range(20))}
        assert [record.digest for record in state.images.list()] == [image.digest]
        assert set(state.content.digests()) == {image.digest, *image.blobs}
        for digest, data in image.blobs.items():
            assert state.content.read(digest, 1 << 24) == data
    finally:
        state.close()


def dead_host() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def hostile(data: bytes) -> Iterator[bytes]:
    """Bytes as long as a blob's own, which begin as it does or not at all."""
    evil = gzip.compress(b"".join(archive([(Entry(b"evil", Kind.FILE, size=len(NOISE)), NOISE[::-1])])), 1)
    yield (evil + bytes(len(data)))[: len(data)]
    yield bytes(len(data))
    yield data[: len(data) // 2] + data[len(data) // 2 :][::-1]
    yield data[:-1] + bytes([data[-1] ^ 1])
    yield b"".join(archive([(Entry(b"/../../evil", Kind.FILE), b"")])).ljust(len(data), b"\0")


@pytest.mark.parametrize("which", range(5))
def test_p59_wrong_bytes_of_a_mirror_then_the_right_ones_give_the_right_layer(
    root: Path, tmp_path: Path, which: int
) -> None:
    image = Image.of(layer("a"), layer("b"))
    with ScriptedRegistry() as origin, ScriptedRegistry() as mirror:
        image.serve(origin)
        mirror.on("GET /v2/app/manifests/", Step(404, times=FOREVER))
        for digest, data in image.blobs.items():
            wrong = list(hostile(data))[which] if digest in image.layers else data
            mirror.on(f"GET /v2/app/blobs/{digest}", Step(200, wrong, times=FOREVER))
        state = pull(root, tmp_path / "run", image, origin.host, mirror.host)
    try:
        assert paths(state) == {"a", "b", *(f"{name}/f{at}" for name in "ab" for at in range(20))}
        assert {path.name for path in (root / "ingest").iterdir()} == set()
    finally:
        state.close()


@pytest.mark.parametrize("archives", [[b"no archive" * 100], [layer("a"), b"../" * 1000], [layer("a")[:-3000]]])
def test_u62_a_broken_layer_leaves_no_image_and_no_layer(root: Path, tmp_path: Path, archives: list[bytes]) -> None:
    image = Image.of(*archives)
    with ScriptedRegistry() as origin:
        image.serve(origin)
        with pytest.raises((IntegrityError, InvalidError)):
            pull(root, tmp_path / "run", image, origin.host)
    assert list((root / "layers").iterdir()) == []


def test_a_layer_that_cannot_be_had_is_what_the_error_says(root: Path, tmp_path: Path) -> None:
    image = Image.of(layer("a"), layer("b"), layer("c"))
    with ScriptedRegistry() as origin:
        origin.on(f"GET /v2/app/blobs/{image.layers[1]}", Step(403, b"{}", times=FOREVER))
        image.serve(origin)
        with pytest.raises(RegistryError, match=image.layers[1].short[:12]):
            pull(root, tmp_path / "run", image, origin.host)
    assert list((root / "layers").iterdir()) == []


def _pull_and_leave(root: Path, run: Path, image: Image, origin: str) -> None:
    pull(root, run, image, origin).close()


def test_s17_two_processes_share_one_download_and_one_unpack(root: Path, tmp_path: Path) -> None:
    shared, here = layer("shared"), multiprocessing.get_context("spawn")
    images = [Image.of(shared, layer("one")), Image.of(shared, layer("two"))]
    with ScriptedRegistry() as origin:
        for image in images:
            image.serve(origin)
        processes = [
            here.Process(target=_pull_and_leave, args=(root, tmp_path / "run", image, origin.host)) for image in images
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0, 0]
        assert origin.count(f"GET /v2/app/blobs/{images[0].layers[0]}") == 1
    # Five: the shared layer with its list, and the two that lie on it.
    assert sorted(path.suffix for path in (root / "layers").iterdir()) == ["", "", "", ".files", ".files", ".files"]


@pytest.mark.parametrize("which", [0, 1])
def test_s17_the_first_being_killed_does_not_fail_the_second(root: Path, tmp_path: Path, which: int) -> None:
    """The first holds the layer, in the middle of its download; the second waits, and goes on from there."""
    image, held, go = Image.of(layer("a"), layer("b")), threading.Event(), threading.Event()
    here = multiprocessing.get_context("spawn")
    with ScriptedRegistry() as origin:
        pieces = iter(range(FOREVER))

        def pause() -> None:
            if next(pieces) == 20:  # of some 64
                held.set()
                go.wait(30)

        digest = image.layers[which]
        origin.on(f"GET /v2/app/blobs/{digest}", Step(200, image.blobs[digest], body_pause=pause))
        image.serve(origin)
        arguments = (root, tmp_path / "run", image, origin.host)
        first, second = (here.Process(target=_pull_and_leave, args=arguments) for _ in range(2))
        first.start()
        assert held.wait(30)
        second.start()
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        first.join(30)
        second.join(60)
        go.set()
        assert second.exitcode == 0
    state = pull(root, tmp_path / "run", image, "127.0.0.1:9")  # nothing is left to ask for
    try:
        assert paths(state) == {"a", "b", *(f"{name}/f{at}" for name in "ab" for at in range(20))}
    finally:
        state.close()
