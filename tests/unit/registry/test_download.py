"""Blobs (cases P20-P37)."""

from __future__ import annotations

import base64
import gzip
import socket
import threading
from contextlib import closing
from datetime import timedelta
from email.utils import format_datetime

import pytest

from reconciler.errors import IntegrityError, NotFoundError, RegistryError
from reconciler.oci import media
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.registry.download import MIN_PROGRESS
from reconciler.registry.failure import TemporaryError
from reconciler.registry.hosts import Credentials, HostConfig, MirrorEndpoint
from reconciler.registry.retry import RetryPolicy
from reconciler.testing.scripted_registry import Step

from .conftest import MemorySink, layer

BLOB = bytes(range(256)) * 16
SIZE = len(BLOB)
GET = "GET /v2/app/blobs/"
USER = Credentials("ci", "s3cret")


def rest(start: int, total: str = str(SIZE), **more) -> Step:
    return Step(206, BLOB[start:], {"Content-Range": f"bytes {start}-{SIZE - 1}/{total}"}, **more)


def fetch(harness, registry, ref, sink=None, **more) -> bytes:
    sink = sink or MemorySink()
    harness.client(registry, **more).blob(ref("app:1"), layer(BLOB), sink)
    return bytes(sink.data)


def test_a_blob_is_asked_for_once_as_it_is(harness, registry, ref):
    registry.on(GET, Step(200, BLOB))
    seen: list[int] = []
    sink = MemorySink()
    name = harness.client(registry).blob(ref("app:1"), layer(BLOB), sink, seen.append)
    assert (bytes(sink.data), sum(seen), name) == (BLOB, SIZE, registry.host)
    assert registry.count("") == 1
    assert registry.headers(GET)["accept-encoding"] == "identity"
    assert "range" not in registry.headers(GET)


def test_p20_a_redirect_to_another_host_takes_no_login_along(harness, registry, storage, ref):
    registry.on(GET, Step(401, b"", {"WWW-Authenticate": "Basic realm=x", "Set-Cookie": "a=b"}))
    registry.on(GET, Step(307, b"", {"Location": f"{storage.url}/data?sig=a%2Fb%20c", "Set-Cookie": "a=b"}))
    storage.on("GET /data", Step(200, BLOB))
    assert fetch(harness, registry, ref, credentials=USER) == BLOB
    assert not {"authorization", "cookie"} & set(storage.headers("GET /"))
    assert storage.lines == ["GET /data?sig=a%2Fb%20c"], "a signed address goes out as it came"
    assert "cookie" not in registry.headers(GET, 1)


def test_p20_storage_that_wants_a_login_gets_none(harness, registry, storage, ref):
    registry.on(GET, Step(307, b"", {"Location": f"{storage.url}/data"}, times=4))
    storage.on("GET /data", Step(401, b"", {"WWW-Authenticate": "Basic realm=x"}, times=4))
    with pytest.raises(RegistryError, match="401"):
        fetch(harness, registry, ref, credentials=USER)
    assert all("authorization" not in asked.headers for asked in storage.asked)


def test_p22_a_redirect_within_the_host_keeps_the_login(harness, registry, ref):
    registry.on(GET, Step(401, b"", {"WWW-Authenticate": "Basic realm=x"}), Step(307, b"", {"Location": "/elsewhere"}))
    registry.on("GET /elsewhere", Step(200, BLOB))
    assert fetch(harness, registry, ref, credentials=USER) == BLOB
    assert registry.headers("GET /elsewhere")["authorization"].startswith("Basic ")


def test_p23_redirect_loop(harness, registry, ref):
    registry.on(GET, Step(307, b"", {"Location": "/a"}))
    registry.on("GET /a", Step(307, b"", {"Location": "/b"})).on("GET /b", Step(307, b"", {"Location": "/a"}))
    with pytest.raises(RegistryError, match="loop"):
        fetch(harness, registry, ref)
    assert registry.count("") == 3


def test_p23_more_than_ten_redirects(harness, registry, ref):
    registry.on(GET, Step(307, b"", {"Location": "/r0"}))
    for hop in range(20):
        registry.on(f"GET /r{hop}", Step(307, b"", {"Location": f"/r{hop + 1}"}))
    with pytest.raises(RegistryError, match="more than 10"):
        fetch(harness, registry, ref)
    assert registry.count("") == 11


def test_p23_ten_redirects_are_followed(harness, registry, ref):
    registry.on(GET, Step(307, b"", {"Location": "/r1"}))
    for hop in range(1, 10):
        registry.on(f"GET /r{hop} ".strip(), Step(307, b"", {"Location": f"/r{hop + 1}"}))
    registry.on("GET /r10", Step(200, BLOB))
    assert fetch(harness, registry, ref) == BLOB
    assert registry.count("") == 11


@pytest.mark.parametrize("location", ["ftp://h/x", "file:///etc/passwd", "http://user:pw@127.0.0.1/x", "http://[bad/"])
def test_p23_redirects_to_places_that_are_none(harness, registry, ref, location):
    registry.on(GET, Step(307, b"", {"Location": location}))
    with pytest.raises(RegistryError, match="sends us"):
        fetch(harness, registry, ref)


def test_p25_an_expired_address_is_asked_for_again(harness, registry, storage, ref):
    registry.on(GET, *(Step(307, b"", {"Location": f"{storage.url}/{n}"}) for n in "abc"))
    storage.on("GET /a", Step(200, BLOB, cut=1000)).on("GET /b", Step(403)).on("GET /c", rest(1000))
    assert fetch(harness, registry, ref) == BLOB
    assert storage.headers("GET /c")["range"] == "bytes=1000-"


FAR = "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("date", 42.0), (None, 0.5), ("31536000", 60.0), ("nonsense", 0.5), ("-5", 0.5), (FAR, 0.5)],
)
def test_p26_retry_after(harness, registry, ref, header, seconds):
    if header == "date":
        header = format_datetime(harness.clock.now() + timedelta(seconds=42), usegmt=True)
    registry.on(GET, Step(429, b"", {"Retry-After": header} if header else {}), Step(200, BLOB))
    assert fetch(harness, registry, ref) == BLOB
    assert harness.slept == [seconds]
    if header == "31536000":
        assert any(note.startswith("waiting 60 s of the 31536000 s asked for: ") for note in harness.notes)


def test_p26_pauses_double_and_end(harness, registry, ref):
    registry.on(GET, Step(503, times=4))
    with pytest.raises(RegistryError, match="503"):
        fetch(harness, registry, ref)
    assert harness.slept == [0.5, 1.0, 2.0]


@pytest.mark.parametrize(("jitter", "pauses"), [(0.0, [0.25, 0.5, 1.0]), (0.5, [0.375, 0.75, 1.5])])
def test_p26_pauses_are_jittered(jitter, pauses):
    slept: list[float] = []
    policy = RetryPolicy(sleep=slept.append, jitter=lambda: jitter)
    for failed in (1, 2, 3):
        policy.pause(failed, TemporaryError("not now"), lambda _: None)
    assert slept == pauses


def test_p28_nobody_listens(harness, registry, ref):
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        host = f"127.0.0.1:{server.getsockname()[1]}"
    client = harness.client(hosts={host: HostConfig(host, plain_http=True)})
    sink = MemorySink()
    reference = ref("app:1").parse(f"{host}/app:1")
    with pytest.raises(RegistryError, match=f"{host}: cannot connect"):
        client.blob(reference, layer(BLOB), sink)
    assert len(harness.slept) == 3
    with pytest.raises(RegistryError):
        client.blob(reference, layer(BLOB), sink)
    assert len(harness.slept) == 3, "a server known to be down is asked once"


def test_p29_a_body_that_ends_early_is_resumed(harness, registry, ref):
    registry.on(GET, Step(200, BLOB, cut=1000), rest(1000, cut=500), rest(1500))
    assert fetch(harness, registry, ref) == BLOB
    assert [asked.headers.get("range") for asked in registry.asked] == [None, "bytes=1000-", "bytes=1500-"]


def test_p29_without_headway_it_ends(harness, registry, ref):
    sink = MemorySink()
    registry.on(GET, Step(200, BLOB, cut=100), rest(100, cut=0, times=3))
    with pytest.raises(RegistryError):
        fetch(harness, registry, ref, sink)
    assert registry.count("") == 4
    assert bytes(sink.data) == BLOB[:100], "what came is kept to go on from"


def test_p29_headway_is_worth_another_try(harness, registry, ref):
    big = BLOB * (8 * MIN_PROGRESS // SIZE)
    step = MIN_PROGRESS
    registry.on(GET, Step(200, big, cut=step))
    for start in range(step, len(big), step):
        registry.on(GET, Step(206, big[start:], {"Content-Range": f"bytes {start}-{len(big) - 1}/*"}, cut=step))
    sink = MemorySink()
    harness.client(registry, attempts=2).blob(ref("app:1"), layer(big), sink)
    assert bytes(sink.data) == big
    assert registry.count("") == 8


@pytest.mark.parametrize(
    "answer",
    [
        Step(206, BLOB[900:], {"Content-Range": f"bytes 900-4095/{SIZE}"}),
        Step(206, BLOB[1000:], {"Content-Range": "bytes 1000-4095/9999"}),
        Step(206, BLOB[1000:]),
        Step(206, BLOB[1000:], {"Content-Range": "rubbish"}),
        Step(416),
    ],
    ids=["elsewhere", "another total", "no range", "rubbish", "416"],
)
def test_p31_never_appends_what_does_not_fit(harness, registry, ref, answer):
    registry.on(GET, Step(200, BLOB, cut=1000), answer, Step(200, BLOB))
    sink = MemorySink()
    assert fetch(harness, registry, ref, sink) == BLOB
    assert sink.restarts == 1
    assert "range" not in registry.headers(GET, 2)


def test_p31_a_server_without_ranges_starts_over(harness, registry, ref):
    registry.on(GET, Step(200, BLOB, cut=1000), Step(200, BLOB))
    assert fetch(harness, registry, ref) == BLOB


def test_p32_a_complete_file_is_verified_without_asking(harness, registry, ref):
    assert fetch(harness, registry, ref, MemorySink(BLOB)) == BLOB
    assert registry.asked == []


def test_p32_a_complete_but_wrong_file_is_fetched_anew(harness, registry, ref):
    registry.on(GET, Step(200, BLOB))
    assert fetch(harness, registry, ref, MemorySink(b"x" * SIZE)) == BLOB


def test_a_rotten_prefix_is_fetched_anew(harness, registry, ref):
    registry.on(GET, rest(1000), Step(200, BLOB))
    assert fetch(harness, registry, ref, MemorySink(b"x" * 1000)) == BLOB


def test_a_file_that_is_too_long_is_fetched_anew(harness, registry, ref):
    registry.on(GET, Step(200, BLOB))
    assert fetch(harness, registry, ref, MemorySink(b"x" * (SIZE + 1))) == BLOB


def test_p34_without_content_length(harness, registry, ref):
    registry.on(GET, Step(200, BLOB, length=-1))
    assert fetch(harness, registry, ref) == BLOB


@pytest.mark.parametrize("length", [None, -1], ids=["announced", "chunked"])
def test_p34_more_bytes_than_promised(harness, registry, ref, length):
    registry.on(GET, Step(200, BLOB + b"x", length=length))
    sink = MemorySink()
    with pytest.raises(IntegrityError):
        fetch(harness, registry, ref, sink)
    assert sink.offset == 0


def test_p35_content_encoding_is_never_decoded(harness, registry, ref):
    packed = gzip.compress(BLOB)
    registry.on(GET, Step(200, packed, {"Content-Encoding": "gzip"}))
    sink = MemorySink()
    harness.client(registry).blob(ref("app:1"), layer(packed), sink)
    assert bytes(sink.data) == packed


def test_p37_a_silent_server(harness, registry, mirror, ref):
    gate = threading.Event()
    mirror.on(GET, Step(200, BLOB, before=lambda: gate.wait(10)))
    registry.on(GET, Step(200, BLOB))
    try:
        mirrors = {registry.host: (MirrorEndpoint(mirror.url),)}
        assert fetch(harness, registry, ref, mirrors=mirrors, idle=0.2) == BLOB
    finally:
        gate.set()
    assert any("silent for 0.2 s" in note for note in harness.notes)


def test_404(harness, registry, ref):
    registry.on(GET, Step(404, b'{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}'))
    with pytest.raises(
        NotFoundError, match=rf"no blob {layer(BLOB).digest.short} of app there \(404 BLOB_UNKNOWN: blob unknown\)"
    ):
        fetch(harness, registry, ref)


def test_what_the_sink_raises_passes_through(harness, registry, mirror, ref):
    class Full(MemorySink):
        def write(self, chunk: bytes) -> None:
            raise OSError(28, "No space left on device")

    registry.on(GET, Step(200, BLOB))
    with pytest.raises(OSError, match="No space"):
        fetch(harness, registry, ref, Full())
    assert registry.count("") == 1


def test_an_empty_blob_needs_no_request(harness, registry, ref):
    sink = MemorySink()
    harness.client(registry).blob(ref("app:1"), layer(b""), sink)
    assert registry.asked == []


def test_memory_stays_bounded(harness, registry, ref):
    pieces: list[int] = []

    class Counting(MemorySink):
        def write(self, chunk: bytes) -> None:
            pieces.append(len(chunk))
            super().write(chunk)

    big = BLOB * 2000
    registry.on(GET, Step(200, big))
    harness.client(registry).blob(ref("app:1"), layer(big), Counting())
    assert max(pieces) < 1024 * 1024
    assert len(pieces) < 2 * len(big) / (256 * 1024)


@pytest.mark.parametrize(
    "media_type",
    [
        media.OCI_LAYER_ZSTD,
        f"{media.OCI_LAYER_GZIP}+encrypted",
        f"{media.OCI_LAYER}+unheard-of",
        "application/vnd.example.model",
    ],
)
def test_p56_a_blob_of_any_type_is_fetched_as_it_is(harness, registry, ref, media_type):
    """What can be unpacked is for others to say: a copy needs no such thing."""
    registry.on(GET, Step(200, BLOB))
    sink = MemorySink()
    harness.client(registry).blob(ref("app:1"), Descriptor(media_type, Digest.of(BLOB), SIZE), sink)
    assert bytes(sink.data) == BLOB


@pytest.mark.parametrize("held", [b"", BLOB[:100], b"x" * 100], ids=["nothing", "a part", "a wrong part"])
def test_p58_embedded_data_is_used_without_asking(harness, registry, ref, held):
    entry = {**layer(BLOB).to_json(), "data": base64.b64encode(BLOB).decode()}
    sink, seen = MemorySink(held), []
    harness.client(registry).blob(ref("app:1"), Descriptor.from_json(entry, "x"), sink, seen.append)
    assert (bytes(sink.data), sum(seen)) == (BLOB, SIZE)
    assert registry.asked == []


@pytest.mark.parametrize("data", [BLOB[:-1], BLOB[:-1] + b"?", BLOB + b"?"], ids=["short", "wrong", "long"])
def test_p58_embedded_data_that_is_not_what_it_should_be_is_not_used(harness, registry, ref, data):
    registry.on(GET, Step(200, BLOB))
    sink = MemorySink()
    entry = {**layer(BLOB).to_json(), "data": base64.b64encode(data).decode()}
    harness.client(registry).blob(ref("app:1"), Descriptor.from_json(entry, "x"), sink)
    assert bytes(sink.data) == BLOB
    assert registry.count("") == 1


def test_p28_a_reset_connection_is_tried_again(harness, registry, ref):
    def fall() -> None:
        raise ConnectionResetError

    registry.on(GET, Step(200, BLOB, before=fall, times=2), Step(200, BLOB))
    assert fetch(harness, registry, ref) == BLOB


def test_p28_a_name_that_nobody_knows(harness, registry, ref):
    host = "registry.invalid"
    mirrors = {registry.host: (MirrorEndpoint(f"http://{host}"),)}
    registry.on(GET, Step(200, BLOB))
    assert fetch(harness, registry, ref, mirrors=mirrors) == BLOB
    assert harness.notes[0].split(": ", 2)[2].startswith("cannot connect")


def test_p26_a_mirror_that_asks_for_time_is_not_waited_for(harness, registry, mirror, ref):
    mirror.on(GET, Step(429, b"", {"Retry-After": "300"}))
    registry.on(GET, Step(200, BLOB, times=2))
    client = harness.client(registry, mirrors={registry.host: (MirrorEndpoint(mirror.url),)})
    for _ in range(2):
        client.blob(ref("app:1"), layer(BLOB), MemorySink())
        harness.clock.advance(200)
    assert (mirror.count(""), harness.slept) == (1, [])


def test_p32_416_for_what_is_complete_at_the_server_too(harness, registry, ref):
    """The sink has all but the size it should: the server says there is no more, so it was not this blob."""
    registry.on(GET, Step(416), Step(200, BLOB))
    sink = MemorySink(BLOB[:-1])
    assert fetch(harness, registry, ref, sink) == BLOB
