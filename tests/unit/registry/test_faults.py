"""Thousands of pulls from servers that spoil their answers: the right bytes or a typed error, and no secret astray."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator

import pytest

from reconciler.errors import ReconcilerError
from reconciler.oci import media
from reconciler.oci.digest import Digest
from reconciler.oci.reference import Reference
from reconciler.registry.client import RegistryClient
from reconciler.registry.hosts import Credentials, HostConfig, MirrorEndpoint
from reconciler.testing.chaos import STALL, ChaoticRegistry
from reconciler.testing.leaks import find_leaks, shapes_of
from reconciler.testing.recorded import ROLL

from .conftest import Harness, MemorySink, layer, manifest

ORIGIN, MIRROR = Credentials("ci", "canary-origin-51c8"), Credentials("ci", "canary-mirror-77ab")
PULLS, SECONDS = 2000, 28.0


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Looked for after every few pulls here: what is asked in all would be too much to look through at the end."""
    yield
    ROLL.news()


class World:
    """An origin with a token server and storage of its own, and two mirrors, one of which may be anything."""

    def __init__(self, seed: int, stack: contextlib.ExitStack, harness: Harness) -> None:
        choice = self.choice = random.Random(seed)

        def server(rate: float, **more: str) -> ChaoticRegistry:
            return stack.enter_context(ChaoticRegistry(random.Random(choice.random()), rate, **more))

        self.tokens = server(choice.choice([0, 0.2]))
        self.storage = server(choice.choice([0, 0.2, 0.4]))
        self.origin = server(choice.choice([0, 0.1, 0.3]), realm=f"{self.tokens.url}/token", elsewhere=self.storage.url)
        self.mirrors = [
            server(choice.choice([0, 0.2, 0.9])),
            server(choice.choice([0.1, 0.4]), elsewhere=self.storage.url),
        ]
        self.mirrors[0].hostile = choice.random() < 0.2
        self.is_breaking = choice.random() < 0.4
        self.servers = [self.tokens, self.storage, self.origin, *self.mirrors]
        for one in self.servers:
            one.breaking = 0.5 if self.is_breaking else 0.0
        self.client: RegistryClient = harness.client(
            idle=STALL * 0.7,
            mirrors={self.origin.host: tuple(MirrorEndpoint(mirror.url) for mirror in self.mirrors)},
            hosts={
                self.origin.host: HostConfig(self.origin.host, plain_http=True, credentials=ORIGIN),
                self.mirrors[0].host: HostConfig(self.mirrors[0].host, plain_http=True, credentials=MIRROR),
            },
        )

    def image(self) -> tuple[Digest, list[bytes]]:
        """A new image, at the origin and partly at the mirrors, under the tag 1."""
        sizes = [self.choice.choice([0, 1, 100, 5000, 5000, 70_000, 70_000, 400_000]) for _ in range(2)]
        contents = [self.choice.randbytes(size) for size in sizes]
        data = manifest(layers=[layer(content).to_json() for content in contents])
        digest = Digest.of(data)
        for server in (self.origin, self.storage, *self.mirrors):
            server.manifests.clear()
            server.blobs.clear()
            whole = server in (self.origin, self.storage)
            if whole or self.choice.random() < 0.7:
                server.manifests |= dict.fromkeys(("1", str(digest)), (media.OCI_MANIFEST, data))
            for content in contents:
                if whole or self.choice.random() < 0.7:
                    server.blobs[Digest.of(content)] = content
        return digest, contents

    @property
    def sent(self) -> int:
        return sum(server.sent for server in self.servers)

    def spoiled(self) -> bool:
        return any(server.spoiled or server.hostile for server in self.servers)

    def forget(self) -> None:
        for server in self.servers:
            server.spoiled.clear()
            server.sent = 0


class Tally:
    """What all the pulls came to; bytes of all blobs, and of those that only broke off, in servers that break often."""

    def __init__(self) -> None:
        self.pulls = self.whole = 0
        self.bytes = Bytes()
        self.broken = Bytes()
        self.errors: dict[str, int] = {}


class Bytes:
    """How many were wanted, and how many were sent for that."""

    def __init__(self) -> None:
        self.wanted = self.sent = 0

    @property
    def share(self) -> float:
        return self.sent / max(self.wanted, 1)


def pull(world: World, tally: Tally, harness: Harness) -> None:
    """One pull: what is returned is right, whatever was served."""
    digest, contents = world.image()
    reference = Reference.parse(f"{world.origin.host}/app:1")
    tally.pulls += 1
    try:
        assert world.client.resolve(reference, known=lambda _: True).descriptor.digest == digest
        assert Digest.of(world.client.manifest(reference.with_digest(digest))) == digest
        for content in contents:
            world.forget()
            sink = MemorySink()
            world.client.blob(reference, layer(content), sink)
            assert bytes(sink.data) == content
            counts = [tally.bytes, tally.broken] if world.is_breaking and not world.spoiled() else [tally.bytes]
            for count in counts:
                count.wanted += len(content)
                count.sent += world.sent
        tally.whole += 1
    except ReconcilerError as error:
        kind = type(error).__name__
        tally.errors[kind] = tally.errors.get(kind, 0) + 1
        harness.notes.append(f"{error} {error.hint}")
    harness.clock.advance(world.choice.choice([0, 1, 40]))


def test_random_faults_never_give_wrong_bytes(
    harness: Harness, say: Callable[[str], None], long_run: bool, pytestconfig: pytest.Config
) -> None:
    chosen = pytestconfig.getoption("--fuzz-seed")
    tally = Tally()
    began, seed = time.monotonic(), chosen if chosen is not None else random.randrange(1 << 30)
    limit, enough = (300.0, 1 << 30) if long_run else (SECONDS, PULLS)
    while time.monotonic() - began < limit and tally.pulls < enough:
        try:
            with contextlib.ExitStack() as stack:
                world = World(seed, stack, harness)
                for _ in range(40):
                    pull(world, tally, harness)
                world.client.close()
                given = [(world.origin.host, ORIGIN), (world.mirrors[0].host, MIRROR)]
                assert find_leaks([(server, server.asked) for server in world.servers], given) == []
        except BaseException:
            say(f"the case is made again by --fuzz-seed={seed}")
            raise
        told = "\n".join(harness.notes)
        assert not [secret for login in (ORIGIN, MIRROR) for secret in shapes_of(login) if secret in told]
        assert "token-" not in told
        harness.notes.clear()
        harness.given.clear()
        harness.clients.clear()
        if chosen is not None:
            break
        seed += 1
    shares = f"{tally.bytes.share:.2f} times the bytes, {tally.broken.share:.3f} where they only broke off"
    say(f"{tally.pulls} pulls, {tally.whole} whole, {shares}, errors {tally.errors}")
    assert tally.whole > tally.pulls / 2
    assert tally.bytes.share < 1.25
    assert tally.broken.share < 1.05
