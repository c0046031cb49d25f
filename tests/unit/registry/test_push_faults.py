"""Pushes to a server that loses requests, answers and sessions: all of an image is there, or there is a typed error."""

from __future__ import annotations

import io
import random
import time
from collections.abc import Callable, Iterator

import pytest

from reconciler.errors import ReconcilerError
from reconciler.oci import media
from reconciler.oci.digest import Digest
from reconciler.oci.reference import Reference
from reconciler.registry.client import RegistryClient
from reconciler.registry.hosts import Credentials
from reconciler.registry.upload import PushManifest
from reconciler.testing.leaks import find_leaks, shapes_of
from reconciler.testing.recorded import ROLL, Asked
from reconciler.testing.scripted_registry import Step
from reconciler.testing.served_registry import ServedRegistry

from .conftest import Harness, layer, manifest

LOGIN = Credentials("ci", "canary-push-3e91")
SECONDS = 6.0


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Looked for after every few pushes here."""
    yield
    ROLL.news()


class Lossy(ServedRegistry):
    """A registry of which ``rate`` of the answers is spoiled. ``received`` counts the bytes of blobs that came.

    ``refused`` are the requests that no client may make: of bytes that are not what their digest says, and of manifests
    before what they name.
    """

    def __init__(self, choice: random.Random, rate: float) -> None:
        super().__init__()
        self._choice = choice
        self._rate = rate
        self.received = 0
        self.refused: list[str] = []

    def answer(self, asked: Asked) -> Step:
        self.scripted(asked)
        if "/blobs/uploads/" in asked.line:
            self.received += len(asked.body)
        if self._choice.random() >= self._rate:
            return self._honest(asked)
        return self._choice.choice([self._not_now, self._deaf, self._lost, self._lost, self._partly, self._forgetful])(
            asked
        )

    def _honest(self, asked: Asked) -> Step:
        if asked.headers.get("authorization") != shapes_of(LOGIN)[0]:
            return Step(401, headers=[("WWW-Authenticate", 'Basic realm="lossy"')])
        session = self._session(asked)
        begins = asked.headers.get("content-range", "").partition("-")[0]
        if begins and session in self.uploads and int(begins) != len(self.uploads[session]):
            return Step(416)
        step = self._answer(asked)
        if step.status == 400:
            self.refused.append(f"{asked.line}: {step.body!r}")
        place = next((value for name, value in _pairs(step) if name == "Location"), "")
        if place:
            forms = [place, f"{self.url}{place}", f"{place}?state=a%2Fb", f"{self.url}{place}?n=1"]
            return Step(step.status, step.body, {**dict(_pairs(step)), "Location": self._choice.choice(forms)})
        return step

    def _session(self, asked: Asked) -> str:
        return asked.line.partition(" ")[2].partition("?")[0].rpartition("/")[2]

    def _not_now(self, _asked: Asked) -> Step:
        return Step(self._choice.choice([408, 429, 500, 502, 503, 504]), b"not now")

    def _deaf(self, _asked: Asked) -> Step:
        def fall() -> None:
            raise ConnectionResetError

        return Step(200, before=fall)

    def _lost(self, asked: Asked) -> Step:
        """It does what it was asked, and nobody hears of it."""
        self._honest(asked)
        return self._choice.choice([self._not_now, self._deaf])(asked)

    def _partly(self, asked: Asked) -> Step:
        """The connection broke in the middle: what came so far is kept."""
        session = self._session(asked)
        if asked.line.startswith(("PUT", "PATCH")) and session in self.uploads:
            begins = int(asked.headers.get("content-range", "0").partition("-")[0])
            if begins == len(self.uploads[session]):
                self.uploads[session] += asked.body[: self._choice.randint(0, len(asked.body))]
        return self._deaf(asked)

    def _forgetful(self, asked: Asked) -> Step:
        self.uploads.pop(self._session(asked), None)
        return self._honest(asked)


def _pairs(step: Step) -> list[tuple[str, str]]:
    assert not callable(step.headers)
    return list(step.headers.items() if hasattr(step.headers, "items") else step.headers)


def push(
    registry: Lossy, client: RegistryClient, choice: random.Random, harness: Harness, tally: dict[str, int]
) -> None:
    """One push of a new image, perhaps in an index; if it returns, all of it is there."""
    contents = [choice.randbytes(choice.choice([0, 1, 100, 5000, 70_000, 200_000])) for _ in range(3)]
    data = manifest(layers=[layer(content).to_json() for content in contents[1:]], config=layer(contents[0]).to_json())
    manifests = [PushManifest(media.OCI_MANIFEST, data, Digest.of(data))]
    if choice.random() < 0.3:
        child = {"mediaType": media.OCI_MANIFEST, "digest": manifests[0].digest, "size": len(data)}
        index = manifest(manifests=[child], layers=None, config=None, mediaType=media.OCI_INDEX)
        manifests.append(PushManifest(media.OCI_INDEX, index, Digest.of(index)))
    blobs = [(layer(content), lambda content=content: io.BytesIO(content)) for content in contents]
    reference = Reference.parse(f"{registry.host}/app:1")
    before, began = registry.tags.get("app", {}).get("1"), registry.received
    tally["pushes"] += 1
    try:
        client.push(reference, blobs, manifests)
    except ReconcilerError as error:
        harness.notes.append(f"{error} {error.hint}")
        assert registry.tags.get("app", {}).get("1") in (before, manifests[-1].digest)
    else:
        tally["whole"] += 1
        tally["wanted"] += sum(map(len, set(contents)))
        tally["sent"] += registry.received - began
        assert registry.tags["app"]["1"] == manifests[-1].digest
        assert all(registry.blobs["app"][Digest.of(content)] == content for content in contents)
        assert all(registry.manifests["app"][one.digest] == (one.media_type, one.data) for one in manifests)


def test_p68_random_faults_never_push_half_an_image(
    harness: Harness, say: Callable[[str], None], long_run: bool, pytestconfig: pytest.Config
) -> None:
    chosen = pytestconfig.getoption("--fuzz-seed")
    tally = dict.fromkeys(("pushes", "whole", "wanted", "sent"), 0)
    began, seed = time.monotonic(), chosen if chosen is not None else random.randrange(1 << 30)
    while time.monotonic() - began < (300 if long_run else SECONDS):
        choice = random.Random(seed)
        try:
            with Lossy(choice, choice.choice([0, 0.05, 0.2])) as registry:
                chunk = choice.choice([None, None, 20_000, 100_000])
                with harness.client(registry, credentials=LOGIN, chunk_size=chunk) as client:
                    for _ in range(40):
                        push(registry, client, choice, harness, tally)
                assert registry.refused == []
                assert find_leaks([(registry, registry.asked)], [(registry.host, LOGIN)]) == []
        except BaseException:
            say(f"the case is made again by --fuzz-seed={seed}")
            raise
        told = "\n".join(harness.notes)
        assert not [secret for secret in shapes_of(LOGIN) if secret in told]
        harness.notes.clear()
        harness.given.clear()
        harness.clients.clear()
        if chosen is not None:
            break
        seed += 1
    share = tally["sent"] / max(tally["wanted"], 1)
    say(f"{tally['pushes']} pushes, {tally['whole']} whole, {share:.2f} times the bytes")
    assert tally["whole"] > tally["pushes"] / 2
    assert share < 1.25
