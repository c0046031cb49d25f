"""Mirrors in front of and behind an origin (cases P59-P62)."""

from __future__ import annotations

import socket
import threading
from contextlib import closing

import pytest

from reconciler.errors import IntegrityError, NotFoundError, RegistryError
from reconciler.oci.digest import Digest
from reconciler.registry.hosts import Credentials, HostConfig, MirrorEndpoint
from reconciler.testing.scripted_registry import ScriptedRegistry, Step

from .conftest import MemorySink, layer, manifest, served

DATA = manifest()
OTHER = manifest(annotations={"from": "mirror"})
HEAD = "HEAD /v2/app/manifests/1"
BLOB = b"blob" * 1000
BLOBS = "GET /v2/app/blobs/"
NOBODY = "http://127.0.0.1:1"


@pytest.fixture
def second():
    with ScriptedRegistry() as server:
        yield server


def mirrors(registry, *urls, resolve="fallback"):
    return {registry.host: tuple(MirrorEndpoint(url, resolve) for url in urls)}


@pytest.mark.parametrize(
    "bad",
    [Step(404), Step(401), Step(403), Step(500), Step(200, b"x" * 4000), Step(200, b"short"), Step(200, BLOB, cut=9)],
    ids=["404", "401", "403", "500", "bad digest", "bad size", "broken"],
)
def test_p59_bytes_come_from_the_mirrors_in_order_then_the_origin(harness, registry, mirror, second, ref, bad):
    mirror.on(BLOBS, bad)
    second.on(BLOBS, Step(500))
    rest = Step(206, BLOB[9:], {"Content-Range": "bytes 9-3999/4000"})
    registry.on(BLOBS, rest if bad.cut else Step(200, BLOB))
    sink = MemorySink()
    client = harness.client(registry, mirrors=mirrors(registry, mirror.url, second.url))
    name = client.blob(ref("app:1"), layer(BLOB), sink)
    assert bytes(sink.data) == BLOB
    assert (mirror.count(""), second.count(""), registry.count("")) == (1, 1, 1)
    assert name == registry.host
    assert [note.split()[2].rstrip(":") for note in harness.notes] == [mirror.url, second.url]
    assert harness.slept == [], "a mirror has a stand-in: nobody waits for it"


def test_p59_all_failing_is_one_error_that_lists_each(harness, registry, mirror, second, ref):
    mirror.on("GET ", Step(404))
    second.on("GET ", Step(403, b'{"errors":[{"code":"DENIED","message":"no"}]}'))
    registry.on("GET ", Step(500, times=4))
    client = harness.client(registry, mirrors=mirrors(registry, mirror.url, second.url))
    with pytest.raises(RegistryError) as caught:
        client.manifest(ref(f"app@{Digest.of(DATA)}"))
    text = str(caught.value)
    what = f"manifest {Digest.of(DATA)} of app"
    assert f"[1] {mirror.url}: no {what} there (404)" in text
    assert f"[2] {second.url}: GET {what}: 403 DENIED: no" in text
    assert f"[3] {registry.host}: GET {what}: 500" in text


def test_p59_a_wrong_manifest_is_passed_over(harness, registry, mirror, ref):
    mirror.on("GET ", served(OTHER))
    registry.on("GET ", served(DATA))
    client = harness.client(registry, mirrors=mirrors(registry, mirror.url))
    assert client.manifest(ref(f"app@{Digest.of(DATA)}")) == DATA


def test_p59_everybody_has_wrong_bytes(harness, registry, mirror, ref):
    for server in (registry, mirror):
        server.on(BLOBS, Step(200, b"x" * len(BLOB)))
    sink = MemorySink()
    with pytest.raises(IntegrityError):
        harness.client(registry, mirrors=mirrors(registry, mirror.url)).blob(ref("app:1"), layer(BLOB), sink)
    assert sink.offset == 0


def test_a_dead_mirror_is_asked_once_in_half_a_minute(harness, registry, ref):
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        dead = f"http://127.0.0.1:{server.getsockname()[1]}"
    registry.on(BLOBS, Step(200, BLOB, times=3))
    client = harness.client(registry, mirrors=mirrors(registry, dead))
    for expected in (1, 1):
        client.blob(ref("app:1"), layer(BLOB), MemorySink())
        assert len(harness.notes) == expected
    harness.clock.advance(31)
    client.blob(ref("app:1"), layer(BLOB), MemorySink())
    assert len(harness.notes) == 2


def test_tags_are_the_origins_while_it_answers(harness, registry, mirror, ref):
    registry.on(HEAD, served(DATA))
    client = harness.client(registry, mirrors=mirrors(registry, mirror.url))
    found = client.resolve(ref("app:1"))
    assert (found.descriptor.digest, found.source, found.notes) == (Digest.of(DATA), registry.host, ())
    assert mirror.asked == []


def test_tags_come_from_a_mirror_when_the_origin_fails(harness, registry, mirror, ref):
    registry.on(HEAD, Step(503, times=2))
    mirror.on(HEAD, served(OTHER))
    found = harness.client(registry, mirrors=mirrors(registry, mirror.url)).resolve(ref("app:1"))
    assert (found.descriptor.digest, found.source) == (Digest.of(OTHER), mirror.url)
    assert len(found.notes) == 1
    assert "503" in found.notes[0]


def test_tags_are_the_origins_also_when_its_storage_cannot_be_reached(harness, registry, mirror, ref):
    registry.on("GET /v2/app/", Step(307, b"", {"Location": f"{NOBODY}/x"}, times=9))
    registry.on(HEAD, served(DATA))
    mirror.on("GET ", Step(404, times=9)).on(HEAD, served(OTHER))
    client = harness.client(registry, mirrors=mirrors(registry, mirror.url))
    with pytest.raises(RegistryError, match=r"redirects: .* cannot connect"):
        client.blob(ref("app:1"), layer(BLOB), MemorySink())
    found = client.resolve(ref("app:1"))
    assert (found.descriptor.digest, found.source) == (Digest.of(DATA), registry.host)


def test_a_mirror_that_refuses_did_answer_and_is_named_once(harness, registry, mirror, ref):
    mirror.on(BLOBS, Step(403))
    registry.on(BLOBS, Step(200, BLOB))
    client = harness.client(registry, mirrors=mirrors(registry, mirror.url))
    client.blob(ref("app:1"), layer(BLOB), MemorySink())
    assert {server.name: server.state for server in client.health()}[mirror.url] == "good"
    assert harness.notes[0].count(mirror.url) == 1


def test_an_origin_does_not_rest_for_its_token_server(harness, registry, mirror, ref):
    asks = Step(401, b"", {"WWW-Authenticate": f'Bearer realm="{NOBODY}/token"'})
    registry.on(HEAD, asks, served(DATA))
    mirror.on(HEAD, served(OTHER))
    client = harness.client(registry, mirrors=mirrors(registry, mirror.url))
    assert "token server 127.0.0.1:1: cannot connect" in client.resolve(ref("app:1")).notes[0]
    assert not [server for server in client.health() if server.failures], "the registry itself did answer"


@pytest.mark.parametrize("host", ["xn--a", "h:99999", "h:port", "a..b", "a" * 64])
def test_p59_a_mirror_that_redirects_to_no_address_is_passed_over(harness, registry, mirror, ref, host):
    mirror.on(BLOBS, Step(307, b"", {"Location": f"http://{host}/x"}))
    registry.on(BLOBS, Step(200, BLOB))
    client = harness.client(registry, mirrors=mirrors(registry, mirror.url))
    assert client.blob(ref("app:1"), layer(BLOB), MemorySink()) == registry.host


def test_a_mirrors_answer_says_that_the_origin_was_not_asked(harness, registry, mirror, ref):
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        host = f"127.0.0.1:{server.getsockname()[1]}"
    mirror.on(HEAD, served(OTHER, times=2))
    client = harness.client(
        hosts={host: HostConfig(host, plain_http=True)}, mirrors={host: (MirrorEndpoint(mirror.url),)}
    )
    reference = ref("app:1").parse(f"{host}/app:1")
    assert "cannot connect" in client.resolve(reference).notes[0]
    assert client.resolve(reference).notes == (f"{host} failed a moment ago, and is asked last",)


def test_a_reason_leaves_it_to_the_reader_to_say_what_was_asked_for(harness, ref):
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        host = f"127.0.0.1:{server.getsockname()[1]}"
    client = harness.client(hosts={host: HostConfig(host, plain_http=True)})
    with pytest.raises(RegistryError) as caught:
        client.resolve(ref("app:1").parse(f"{host}/app:1"))
    assert caught.value.reason == f"{host}: cannot connect: Connection refused"
    assert str(caught.value) == f"cannot resolve {host}/app:1: {caught.value.reason}"


def test_the_origins_404_is_an_answer(harness, registry, mirror, ref):
    registry.on(HEAD, Step(404))
    with pytest.raises(NotFoundError):
        harness.client(registry, mirrors=mirrors(registry, mirror.url)).resolve(ref("app:1"))
    assert mirror.asked == []


def test_a_mirrors_404_is_none(harness, registry, mirror, ref):
    """The origin is down and the mirror never saw the tag: whether it exists is unknown."""
    registry.on(HEAD, Step(503, times=4))
    mirror.on(HEAD, Step(404))
    with pytest.raises(RegistryError) as caught:
        harness.client(registry, mirrors=mirrors(registry, mirror.url)).resolve(ref("app:1"))
    assert not isinstance(caught.value, NotFoundError)


def test_resolve_first_and_never(harness, registry, mirror, second, ref):
    declared = {registry.host: (MirrorEndpoint(second.url, "never"), MirrorEndpoint(mirror.url, "first"))}
    client = harness.client(registry, mirrors=declared)
    mirror.on(HEAD, served(OTHER), Step(404))
    assert client.resolve(ref("app:1")).descriptor.digest == Digest.of(OTHER)
    registry.on(HEAD, Step(503, times=4))
    with pytest.raises(RegistryError):
        client.resolve(ref("app:1"))
    assert second.asked == []


def test_tag_digest_asks_no_mirror(harness, registry, mirror, ref):
    registry.on(HEAD, Step(503, times=4))
    declared = {registry.host: (MirrorEndpoint(mirror.url, "first"),)}
    with pytest.raises(RegistryError):
        harness.client(registry, mirrors=declared).tag_digest(ref("app:1"))
    assert mirror.asked == []


def test_p61_a_blob_that_the_mirror_lacks(harness, registry, mirror, ref):
    mirror.on("GET /v2/app/manifests", served(DATA)).on(BLOBS, Step(404))
    registry.on(BLOBS, Step(200, BLOB))
    client = harness.client(registry, mirrors=mirrors(registry, mirror.url))
    client.manifest(ref(f"app@{Digest.of(DATA)}"))
    client.blob(ref("app:1"), layer(BLOB), MemorySink())
    assert registry.count("") == 1


def test_a_break_is_resumed_at_the_next_server(harness, registry, mirror, ref):
    mirror.on(BLOBS, Step(200, BLOB, cut=100))
    registry.on(BLOBS, Step(206, BLOB[100:], {"Content-Range": "bytes 100-3999/4000"}))
    sink = MemorySink()
    harness.client(registry, mirrors=mirrors(registry, mirror.url)).blob(ref("app:1"), layer(BLOB), sink)
    assert bytes(sink.data) == BLOB
    assert registry.headers(BLOBS)["range"] == "bytes=100-"


def test_a_mirrors_wrong_half_does_not_spoil_the_origins(harness, registry, mirror, ref):
    mirror.on(BLOBS, Step(200, b"x" * len(BLOB), cut=100))
    registry.on(BLOBS, Step(206, BLOB[100:], {"Content-Range": "bytes 100-3999/4000"}), Step(200, BLOB))
    sink = MemorySink()
    harness.client(registry, mirrors=mirrors(registry, mirror.url)).blob(ref("app:1"), layer(BLOB), sink)
    assert bytes(sink.data) == BLOB


def test_p61_a_blob_that_the_first_mirror_lacks_comes_from_the_second(harness, registry, mirror, second, ref):
    mirror.on("GET /v2/app/manifests", served(DATA)).on(BLOBS, Step(404))
    second.on(BLOBS, Step(200, BLOB))
    client = harness.client(registry, mirrors=mirrors(registry, mirror.url, second.url))
    client.manifest(ref(f"app@{Digest.of(DATA)}"))
    assert client.blob(ref("app:1"), layer(BLOB), MemorySink()) == second.url
    assert registry.asked == []


def test_p59_a_mirror_that_does_not_answer_in_time(harness, registry, mirror, second, ref):
    gate = threading.Event()
    mirror.on("GET ", Step(200, DATA, before=lambda: gate.wait(10)))
    second.on("GET ", served(DATA))
    client = harness.client(registry, mirrors=mirrors(registry, mirror.url, second.url), idle=0.2)
    try:
        assert client.manifest(ref(f"app@{Digest.of(DATA)}")) == DATA
    finally:
        gate.set()
    assert (mirror.count(""), second.count(""), registry.asked) == (1, 1, [])


def test_p62_ns_goes_to_mirrors_and_the_origins_login_does_not(harness, registry, mirror, ref):
    mirror.on("GET ", Step(401, b"", {"WWW-Authenticate": "Basic realm=x"}))
    registry.on("GET ", Step(401, b"", {"WWW-Authenticate": "Basic realm=x"}), served(DATA))
    client = harness.client(
        registry,
        credentials=Credentials("ci", "s3cret"),
        mirrors=mirrors(registry, mirror.url),
        hosts={mirror.host: HostConfig(mirror.host, plain_http=True)},
    )
    assert client.manifest(ref(f"app@{Digest.of(DATA)}")) == DATA
    assert mirror.lines[0].endswith(f"?ns={registry.host.replace(':', '%3A')}")
    assert all("authorization" not in asked.headers for asked in mirror.asked)
    assert all("ns=" not in line for line in registry.lines)


def test_a_mirror_has_its_own_login(harness, registry, mirror, ref):
    mirror.on("GET ", Step(401, b"", {"WWW-Authenticate": "Basic realm=x"}), served(DATA))
    own = HostConfig(mirror.host, plain_http=True, credentials=Credentials("m", "pw"))
    client = harness.client(registry, mirrors=mirrors(registry, mirror.url), hosts={mirror.host: own})
    assert client.manifest(ref(f"app@{Digest.of(DATA)}")) == DATA
    assert mirror.headers("GET ", 1)["authorization"].startswith("Basic ")


def test_p59_a_stale_mirror_changes_no_tag(harness, registry, mirror, ref):
    """Its bytes are asked for by the digest that the origin gave; it has not got them yet."""
    mirror.on("GET ", Step(404))
    registry.on(HEAD, served(DATA)).on("GET ", served(DATA))
    found = harness.client(registry, mirrors=mirrors(registry, mirror.url)).resolve(ref("app:1"), lambda _: False)
    assert (found.descriptor.digest, found.data, found.source) == (Digest.of(DATA), DATA, registry.host)
    assert mirror.count("HEAD ") == 0


def test_p59_a_hostile_mirror_is_found_out_and_left_alone(harness, registry, mirror, ref):
    """Wrong manifests and wrong blobs of the right length: found out once, then not asked for a while."""
    mirror.on("GET ", served(OTHER, digest=Digest.of(DATA)))
    registry.on("GET /v2/app/manifests", served(DATA)).on(BLOBS, Step(200, BLOB))
    client = harness.client(registry, mirrors=mirrors(registry, mirror.url))
    assert client.manifest(ref(f"app@{Digest.of(DATA)}")) == DATA
    sink = MemorySink()
    client.blob(ref("app:1"), layer(BLOB), sink)
    assert bytes(sink.data) == BLOB
    assert mirror.count("") == 1
    assert any("not the promised" in note for note in harness.notes)


def test_p59_a_dead_mirror_costs_one_attempt(harness, registry, ref):
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        dead = f"http://127.0.0.1:{server.getsockname()[1]}"
    registry.on(BLOBS, Step(200, BLOB, times=3))
    client = harness.client(registry, mirrors=mirrors(registry, dead))
    for _ in range(3):
        assert client.blob(ref("app:1"), layer(BLOB), MemorySink()) == registry.host
    assert len(harness.notes) == 1
    assert harness.slept == []


def test_p62_the_logins_of_all_sides_stay_apart(harness, registry, mirror, second, storage, ref):
    """Two mirrors and an origin, each with a login; the mirror's token server is named by the mirror."""
    challenge = Step(401, b"", {"WWW-Authenticate": "Basic realm=x"})
    mirror.on("GET ", Step(401, b"", {"WWW-Authenticate": f'Bearer realm="{storage.url}/token"'}), Step(404))
    storage.on("GET /token", Step(200, b'{"token": "mirror-token"}'))
    second.on("GET ", challenge, Step(404))
    registry.on("GET ", challenge, served(DATA))
    hosts = {
        server.host: HostConfig(server.host, plain_http=True, credentials=Credentials("ci", f"secret-{number}"))
        for number, server in enumerate((registry, mirror, second))
    }
    client = harness.client(mirrors=mirrors(registry, mirror.url, second.url), hosts=hosts)
    assert client.manifest(ref(f"app@{Digest.of(DATA)}")) == DATA
    sent = {server.asked[-1].headers["authorization"] for server in (registry, mirror, second, storage)}
    assert len(sent) == 4


def test_p62_one_mirror_of_every_registry_is_told_which_one_is_meant(harness, registry, second, mirror, ref):
    """Two registries have repositories of the same name. One that does not listen to `ns` gives the wrong bytes."""
    one, two = (server.host.replace(":", "%3A") for server in (registry, second))
    mirror.on(f"GET /cache/v2/app/manifests/{Digest.of(DATA)}?ns={one}", served(DATA))
    mirror.on(f"GET /cache/v2/app/manifests/{Digest.of(OTHER)}?ns={two}", served(DATA))
    second.on("GET ", served(OTHER))
    client = harness.client(registry, second, mirrors={"*": (MirrorEndpoint(f"{mirror.url}/cache"),)})
    assert client.manifest(ref(f"app@{Digest.of(DATA)}")) == DATA
    assert client.manifest(ref("app").parse(f"{second.host}/app@{Digest.of(OTHER)}")) == OTHER
    assert (mirror.count(""), registry.count(""), second.count("")) == (2, 0, 1)


def test_p62_what_a_mirror_below_a_path_redirects_to_gets_neither_ns_nor_login(harness, registry, mirror, storage, ref):
    mirror.on("GET /v2/team/", Step(401, b"", {"WWW-Authenticate": "Basic realm=x"}))
    mirror.on("GET /v2/team/app/blobs/", Step(307, b"", {"Location": f"{storage.url}/bucket/x?sig=1"}))
    storage.on("GET /bucket/x?sig=1", Step(200, BLOB))
    own = HostConfig(mirror.host, plain_http=True, credentials=Credentials("m", "pw"))
    client = harness.client(registry, mirrors=mirrors(registry, f"{mirror.url}/v2/team"), hosts={mirror.host: own})
    sink = MemorySink()
    client.blob(ref("app:1"), layer(BLOB), sink)
    assert bytes(sink.data) == BLOB
    assert "authorization" in mirror.asked[1].headers
    assert storage.lines == ["GET /bucket/x?sig=1"]
    assert registry.asked == []


def test_p62_tags_and_what_the_origin_has_are_never_a_mirrors_to_say(harness, registry, mirror, ref):
    declared = {"*": (MirrorEndpoint(mirror.url, "first"),)}
    registry.on("GET /v2/app/tags/list", Step(200, b'{"name": "app", "tags": ["1"]}'))
    registry.on("HEAD /v2/app/manifests/", served(DATA, times=3))
    client = harness.client(registry, mirrors=declared)
    assert list(client.tags(ref("app:1"))) == ["1"]
    assert client.has_manifest(ref(f"app@{Digest.of(DATA)}"))
    assert client.tag_digest(ref("app:1")) == Digest.of(DATA)
    assert mirror.asked == []
