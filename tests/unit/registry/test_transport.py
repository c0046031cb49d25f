"""Deadlines, and how fast is fast enough (case P37)."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import httpx
import pytest

from reconciler.clock import ManualClock, SystemClock
from reconciler.errors import RegistryError
from reconciler.oci.reference import Reference
from reconciler.registry.failure import SlowError, TemporaryError
from reconciler.registry.hosts import HostConfig, MirrorEndpoint, RegistryHosts
from reconciler.registry.proxy import Proxies
from reconciler.registry.transport import Timeouts, Transport
from reconciler.testing.scripted_registry import Step

from .conftest import MemorySink, layer, manifest, served


class Trickle(httpx.SyncByteStream):
    """A body whose every piece takes a while to come."""

    def __init__(self, clock: ManualClock, seconds: float, pieces: list[bytes]) -> None:
        self._clock, self._seconds, self._pieces = clock, seconds, pieces

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self._clock.advance(self._seconds)
            yield piece


def body(seconds: float, pieces: list[bytes], timeouts: Timeouts, *, brisk: bool = False) -> Iterator[bytes]:
    clock = ManualClock()
    transport = Transport(RegistryHosts(), clock=clock, proxies=Proxies(), user_agent="", timeouts=timeouts)
    request = httpx.Request("GET", "https://r.example.com/")
    response = httpx.Response(200, stream=Trickle(clock, seconds, pieces), request=request)
    return transport.chunks(response, sum(map(len, pieces)), brisk=brisk)


def test_p37_a_byte_a_minute_has_a_deadline():
    got = bytearray()
    with pytest.raises(TemporaryError, match=r"r.example.com: too slow"):
        for chunk in body(60, [b"x"] * 100, Timeouts(total=600)):
            got += chunk
    assert bytes(got) == b"x" * 11, "what came is given on"


def test_p37_a_slow_reader_is_not_the_servers_fault():
    clock = ManualClock()
    transport = Transport(RegistryHosts(), clock=clock, proxies=Proxies(), user_agent="", timeouts=Timeouts())
    request = httpx.Request("GET", "https://r.example.com/")
    pieces = [b"x" * 300_000] * 10
    response = httpx.Response(200, stream=Trickle(clock, 1, pieces), request=request)
    total = 0
    for chunk in transport.chunks(response, 3_000_000, brisk=True):
        total += len(chunk)
        clock.advance(10_000)
    assert total == 3_000_000


@pytest.mark.parametrize(("brisk", "size"), [(True, 1000), (False, 1000), (True, 200_000)])
def test_a_slow_body_is_given_up_only_where_another_server_could_be_asked(brisk, size):
    chunks = body(1, [b"x" * size] * 20, Timeouts(), brisk=brisk)
    if brisk and size == 1000:
        with pytest.raises(SlowError, match="1 KiB/s"):
            list(chunks)
    else:
        assert sum(map(len, chunks)) == 20 * size


def test_p37_a_trickle_of_header_bytes_has_a_deadline(harness, registry, ref):
    """Each byte comes well within the idle time; the head as a whole does not come."""
    ended = threading.Event()
    registry.on("HEAD ", Step(200, head_pause=lambda: ended.wait(0.05)))
    client = harness.client(registry, attempts=1, clock=SystemClock(), timeouts=Timeouts(idle=5, total=0.3))
    try:
        with pytest.raises(RegistryError, match=r"did not finish the head of its answer within 0.3 s"):
            client.tag_digest(ref("app:1"))
    finally:
        ended.set()


def test_p37_the_place_of_a_hung_request_is_free_again(harness, registry, ref):
    ended = threading.Event()
    registry.on("HEAD ", Step(200, head_pause=lambda: ended.wait(0.05)), served(manifest()))
    client = harness.client(registry, attempts=2, clock=SystemClock(), timeouts=Timeouts(idle=5, total=0.3))
    try:
        assert client.tag_digest(ref("app:1")) is not None
    finally:
        ended.set()


def test_a_slow_mirror_is_left_in_the_middle_and_gone_on_from_elsewhere(harness, registry, mirror, ref):
    blob = bytes(range(256)) * 4096
    ended = threading.Event()
    mirror.on("GET ", Step(200, blob, body_pause=lambda: ended.wait(0.02)))
    registry.on("GET ", Step(206, lambda asked: blob[start(asked) :], headers=lambda asked: content_range(asked, blob)))
    mirrors = {registry.host: (MirrorEndpoint(mirror.url),)}
    sink = MemorySink()
    client = harness.client(
        registry, mirrors=mirrors, clock=SystemClock(), timeouts=Timeouts(window=0.1, brisk=1 << 40)
    )
    try:
        name = client.blob(ref("app:1"), layer(blob), sink)
    finally:
        ended.set()
    assert bytes(sink.data) == blob
    assert name == registry.host
    assert start(registry.asked[0]) > 0, "what the slow one gave is not fetched again"
    assert any("slow" in note for note in harness.notes)
    (health,) = [health for health in client.health() if health.name == mirror.url]
    assert health.state == "resting"


def test_a_slow_mirror_is_better_than_none(harness, mirror, ref):
    """The origin cannot be reached: what is slow comes to its end after all."""
    blob = bytes(range(256)) * 2048
    ended = threading.Event()
    mirror.on("GET ", Step(200, blob, body_pause=lambda: ended.wait(0.02)))
    mirror.on("GET ", Step(206, lambda asked: blob[start(asked) :], headers=lambda asked: content_range(asked, blob)))
    host = "registry.invalid"
    sink = MemorySink()
    client = harness.client(
        mirrors={host: (MirrorEndpoint(mirror.url),)},
        hosts={host: HostConfig(host, plain_http=True)},
        clock=SystemClock(),
        timeouts=Timeouts(connect=1, window=0.1, brisk=1 << 40),
    )
    try:
        assert client.blob(Reference.parse(f"{host}/app:1"), layer(blob), sink) == mirror.url
    finally:
        ended.set()
    assert bytes(sink.data) == blob


def start(asked) -> int:
    return int(asked.headers["range"].removeprefix("bytes=").partition("-")[0])


def content_range(asked, blob: bytes) -> dict[str, str]:
    return {"Content-Range": f"bytes {start(asked)}-{len(blob) - 1}/{len(blob)}"}


def test_one_connection_serves_one_request_after_the_other(harness, registry, ref):
    """Also after answers without a body, of which nothing is read: a new connection may cost a TLS handshake."""
    registry.on("HEAD ", served(manifest()), Step(404), served(manifest()))
    registry.on("DELETE ", Step(202))
    client = harness.client(registry)
    found = client.tag_digest(ref("app:1"))
    assert client.tag_digest(ref("app:2")) is None
    assert client.tag_digest(ref("app:3")) == found
    assert client.delete_manifest(ref(f"app@{found}"))
    assert registry.connections == 1
