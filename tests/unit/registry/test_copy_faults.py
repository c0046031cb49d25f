"""Copies between two servers that both fail at random: all of an image arrives, or its tag stays as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from reconciler.errors import ReconcilerError
from reconciler.oci.digest import Digest
from reconciler.oci.reference import Reference
from reconciler.registry.copier import Copier
from reconciler.testing.recorded import Asked
from reconciler.testing.scripted_registry import Step
from reconciler.testing.served_registry import ServedRegistry

from .conftest import Harness

ROUNDS = 24


class Failing(ServedRegistry):
    """A registry of which ``rate`` of the answers fail: not given, given too late, broken off, or with other bytes."""

    def __init__(self, choice: random.Random, *, referrers_api: bool) -> None:
        super().__init__(referrers_api=referrers_api)
        self._choice = choice
        self.rate = 0.0

    def answer(self, asked: Asked) -> Step:
        self.scripted(asked)
        if self._choice.random() >= self.rate:
            return self._answer(asked)
        kind = self._choice.randrange(6)
        if kind == 0:
            return Step(503)
        if kind == 1:
            return Step(429, headers={"Retry-After": "1"})
        if kind == 2:
            return Step(200, b"x", cut=0)  # nothing was done, and the connection ends
        honest = self._answer(asked)
        if kind == 3:
            return Step(502)  # it was done, and nobody hears of it
        body = honest.body
        assert isinstance(body, bytes)
        if kind == 4 or not body:
            return Step(honest.status, body, honest.headers, cut=len(body) // 2)
        return Step(honest.status, bytes([body[0] ^ 1]) + body[1:], honest.headers)


def images(registry: ServedRegistry) -> dict[str, Digest]:
    shared = bytes(range(256)) * 400
    amd, arm = registry.image("app", "", shared, b"amd"), registry.image("app", "", shared, b"arm")
    index = registry.index("app", "1.0", {"amd64": amd, "arm64": arm})
    plain = registry.image("app", "2.0", shared, b"plain")
    signature = registry.referrer("app", plain, b"signature")
    registry.referrer("app", signature, b"of the signature")
    registry.referrer("app", amd, b"of a part")
    return {"1.0": index, "2.0": plain}


def broken(registry: ServedRegistry, name: str) -> Iterator[str]:
    """What a registry has of which something is missing."""
    held, blobs = registry.manifests.get(name, {}), registry.blobs.get(name, {})
    for digest in held:
        document = registry.document(name, digest)
        parts = [*document.get("layers", ()), *filter(None, [document.get("config")])]
        yield from (f"{digest.short} lacks a blob" for part in parts if Digest(part["digest"]) not in blobs)
        entries = document.get("manifests", ())
        yield from (f"{digest.short} lacks a part" for entry in entries if Digest(entry["digest"]) not in held)
    yield from (f"{digest.short} is another blob" for digest, data in blobs.items() if Digest.of(data) != digest)


@pytest.mark.parametrize(("at_source", "at_target"), [(True, False), (False, False), (False, True)])
def test_random_faults_never_leave_half_an_image(at_source: bool, at_target: bool) -> None:
    whole = failed = 0
    for seed in range(ROUNDS // 3):
        choice = random.Random(seed)
        source = Failing(choice, referrers_api=at_source)
        target = Failing(choice, referrers_api=at_target)
        harness = Harness()
        with source, target:
            tags = images(source)
            client = harness.client(source, target)
            for rate in (choice.choice([0.02, 0.1, 0.4]), 0.0):
                source.rate = target.rate = rate
                begun = set(target.uploads)
                with ThreadPoolExecutor(4) as pool:
                    copier = Copier(client, pool)
                    for tag, digest in tags.items():
                        there = Reference.parse(f"{target.host}/app:{tag}")
                        try:
                            copier.tag(there_of(source, digest), there, wanted=digest)
                            whole += 1
                        except ReconcilerError:
                            assert rate
                            failed += 1
                        assert list(broken(target, "app")) == [], f"seed {seed}"
                        assert target.tags.get("app", {}).get(tag) in (None, digest)
            client.close()
            assert target.uploads.keys() <= begun, "a session is left that nobody broke"
            assert {tag: target.tags["app"][tag] for tag in tags} == tags
            assert target.manifests["app"].keys() >= source.manifests["app"].keys() - _lists(source)
    assert whole > ROUNDS // 3 * 2
    assert failed


def there_of(registry: ServedRegistry, digest: Digest) -> Reference:
    return Reference.parse(f"{registry.host}/app").with_digest(digest)


def _lists(registry: ServedRegistry) -> set[Digest]:
    """The indexes that lists of referrers ever were."""
    return {
        digest for digest in registry.manifests["app"] if "platform" not in str(registry.document("app", digest))
    } & {digest for digest in registry.manifests["app"] if "manifests" in registry.document("app", digest)}
