"""Pushing (cases P64-P71)."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from reconciler.errors import AuthError, IntegrityError, RegistryError
from reconciler.oci import media
from reconciler.oci.digest import Digest
from reconciler.registry.hosts import Credentials, MirrorEndpoint
from reconciler.registry.upload import PushManifest
from reconciler.testing.scripted_registry import Step

from .conftest import layer, manifest

BLOB = b"layer" * 1000
DESCRIPTOR = layer(BLOB)
DIGEST = DESCRIPTOR.digest
DATA = manifest()
MANIFEST = PushManifest(media.OCI_MANIFEST, DATA, Digest.of(DATA))
HEAD, POST, PUT = "HEAD /v2/app/blobs/", "POST /v2/app/blobs/uploads/", "PUT /v2/app/blobs/uploads/"
BLOBS = [(DESCRIPTOR, lambda: io.BytesIO(BLOB))]
QUERY = f"digest=sha256%3A{DIGEST.hex}"


def session(location: str = "/v2/app/blobs/uploads/s1", **headers: str) -> Step:
    return Step(202, b"", {"Location": location, **headers})


@pytest.fixture
def open_registry(registry):
    """A registry without the blob, that takes the manifest."""
    registry.on(HEAD, Step(404))
    return registry.on("PUT /v2/app/manifests/", Step(201, b"", {"Docker-Content-Digest": MANIFEST.digest}))


def test_a_blob_goes_up_in_one_request(harness, open_registry, ref):
    open_registry.on(POST, session()).on(PUT, Step(201))
    seen: list[Any] = []
    client = harness.client(open_registry)
    result = client.push(ref("app:1"), BLOBS, [MANIFEST], progress=lambda *heard: seen.append(heard))
    assert open_registry.lines == [
        f"HEAD /v2/app/blobs/{DIGEST}",
        "POST /v2/app/blobs/uploads/",
        f"PUT /v2/app/blobs/uploads/s1?{QUERY}",
        "PUT /v2/app/manifests/1",
    ]
    put = open_registry.matching(PUT)[0]
    assert (put.body, put.headers["content-length"]) == (BLOB, str(len(BLOB)))
    assert "transfer-encoding" not in put.headers
    tagged = open_registry.matching("PUT /v2/app/manifests/1")[0]
    assert (tagged.body, tagged.headers["content-type"]) == (DATA, media.OCI_MANIFEST)
    assert (result.bytes_uploaded, result.skipped, result.mounted) == (len(BLOB), (), ())
    assert sum(more for _, what, more in seen if what == "uploading") == len(BLOB)
    assert seen[-1] == (DESCRIPTOR, "uploaded", 0)


def test_a_blob_that_is_there_is_skipped(harness, registry, ref):
    registry.on(HEAD, Step(200, BLOB)).on("PUT /v2/app/manifests/1", Step(201))
    result = harness.client(registry).push(ref("app:1"), [*BLOBS, *BLOBS], [MANIFEST])
    assert result.skipped == (DIGEST,)
    assert registry.count("") == 2


def test_p64_mounted(harness, open_registry, ref):
    open_registry.on(POST, Step(201))
    result = harness.client(open_registry).push(ref("app:1"), BLOBS, [MANIFEST], mount_from=ref("base"))
    assert result.mounted == (DIGEST,)
    assert open_registry.matching(POST)[0].line == f"POST /v2/app/blobs/uploads/?mount=sha256%3A{DIGEST.hex}&from=base"


def test_p64_not_mounted_but_begun(harness, open_registry, ref):
    open_registry.on(POST, session()).on(PUT, Step(201))
    result = harness.client(open_registry).push(ref("app:1"), BLOBS, [MANIFEST], mount_from=ref("base"))
    assert result.mounted == ()
    assert open_registry.count(POST) == 1


@pytest.mark.parametrize("status", [400, 403, 404, 405, 422])
def test_p64_mounting_refused(harness, open_registry, ref, status):
    open_registry.on(POST, Step(status), session()).on(PUT, Step(201))
    harness.client(open_registry).push(ref("app:1"), BLOBS, [MANIFEST], mount_from=ref("base"))
    assert open_registry.lines[2] == "POST /v2/app/blobs/uploads/"


def test_p64_no_mount_across_registries(harness, open_registry, mirror, ref):
    open_registry.on(POST, session()).on(PUT, Step(201))
    other = ref("app").parse(f"{mirror.host}/base")
    harness.client(open_registry).push(ref("app:1"), BLOBS, [MANIFEST], mount_from=other)
    assert open_registry.lines[1] == "POST /v2/app/blobs/uploads/"


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("s1", f"/v2/app/blobs/uploads/s1?{QUERY}"),
        ("/up/s1", f"/up/s1?{QUERY}"),
        ("/up/s1?_state=a%2Bb%3D%3D&x=1", f"/up/s1?_state=a%2Bb%3D%3D&x=1&{QUERY}"),
        ("{url}/up/s1?q=1", f"/up/s1?q=1&{QUERY}"),
    ],
    ids=["relative", "absolute path", "query", "absolute"],
)
def test_p65_the_upload_location(harness, open_registry, ref, location, expected):
    open_registry.on(POST, session(location.format(url=open_registry.url))).on("PUT ", Step(201))
    harness.client(open_registry).push(ref("app:1"), BLOBS, [MANIFEST])
    assert open_registry.lines[2] == f"PUT {expected}"


def test_p65_an_upload_elsewhere_takes_no_login_along(harness, open_registry, storage, ref):
    open_registry.on(POST, Step(401, b"", {"WWW-Authenticate": "Basic realm=x"}), session(f"{storage.url}/up"))
    storage.on("PUT /up", Step(201))
    harness.client(open_registry, credentials=Credentials("ci", "pw")).push(ref("app:1"), BLOBS, [MANIFEST])
    assert "authorization" not in storage.headers("PUT ")
    assert storage.asked[0].body == BLOB


@pytest.mark.parametrize(("least", "chunks"), [("", [2000, 2000, 1000]), ("3000", [3000, 2000])])
def test_p67_chunks_follow_the_newest_location(harness, open_registry, ref, least, chunks):
    open_registry.on(POST, session("/up/0", **({"OCI-Chunk-Min-Length": least} if least else {})))
    for number in range(len(chunks)):
        open_registry.on(f"PATCH /up/{number}", session(f"/up/{number + 1}?n"))
    open_registry.on(f"PUT /up/{len(chunks)}", Step(201))
    harness.client(open_registry, chunk_size=2000).push(ref("app:1"), BLOBS, [MANIFEST])
    patches = open_registry.matching("PATCH ")
    assert [len(patch.body) for patch in patches] == chunks
    assert b"".join(patch.body for patch in patches) == BLOB
    assert patches[1].headers["content-range"] == f"{chunks[0]}-{sum(chunks[:2]) - 1}"
    assert open_registry.matching("PUT /up")[0].line == f"PUT /up/{len(chunks)}?n&{QUERY}"
    assert open_registry.matching("PUT /up")[0].body == b""


class Source:
    """A blob that counts how often it was opened, and whether all were closed."""

    def __init__(self, seekable: bool = True) -> None:
        self.opened: list[io.BytesIO] = []
        self._seekable = seekable

    def __call__(self) -> io.BytesIO:
        source = io.BytesIO(BLOB)
        if not self._seekable:
            source.seekable = lambda: False
        self.opened.append(source)
        return source


def test_p68_a_session_that_is_gone_starts_anew(harness, open_registry, ref):
    source = Source()
    open_registry.on(POST, session("/up/1"), session("/up/2")).on(HEAD, Step(404))
    open_registry.on("PUT /up/1", Step(503)).on("GET /up/1", Step(404)).on("PUT /up/2", Step(201))
    harness.client(open_registry).push(ref("app:1"), [(DESCRIPTOR, source)], [MANIFEST])
    assert open_registry.matching("PUT /up/2")[0].body == BLOB
    assert len(source.opened) == 2
    assert all(opened.closed for opened in source.opened)


@pytest.mark.parametrize("status", [Step(405), Step(204), Step(204, b"", {"Range": "0-99999"}), Step(500)])
def test_p68_a_server_that_does_not_tell_starts_anew(harness, open_registry, ref, status):
    open_registry.on(POST, session("/up/1"), session("/up/2")).on(HEAD, Step(404))
    open_registry.on("PUT /up/1", Step(503)).on("GET /up/1", status).on("DELETE /up/1", Step(204))
    open_registry.on("PUT /up/2", Step(201))
    harness.client(open_registry).push(ref("app:1"), BLOBS, [MANIFEST])
    assert open_registry.matching("PUT /up/2")[0].body == BLOB


@pytest.mark.parametrize("seekable", [True, False])
def test_p68_a_broken_upload_goes_on_after_what_the_server_has(harness, open_registry, ref, seekable):
    """The connection broke in the middle of one big request; the rest follows as a chunk."""
    open_registry.on(POST, session("/up/1")).on("PUT /up/1", Step(502))
    open_registry.on("GET /up/1", Step(204, b"", {"Range": "0-2999", "Location": "/up/1b?x=1"}))
    open_registry.on("PATCH /up/1b", session("/up/1c")).on("PUT /up/1c", Step(201))
    result = harness.client(open_registry).push(ref("app:1"), [(DESCRIPTOR, Source(seekable))], [MANIFEST])
    patch = open_registry.matching("PATCH ")[0]
    assert (patch.body, patch.headers["content-range"]) == (BLOB[3000:], f"3000-{len(BLOB) - 1}")
    assert open_registry.matching("PUT /up/1c")[0].body == b""
    assert result.bytes_uploaded == sum(len(asked.body) for asked in open_registry.asked if "/up/" in asked.line)


def test_p68_416_asks_what_the_server_has(harness, open_registry, ref):
    open_registry.on(POST, session("/up/1")).on("PATCH /up/1", session("/up/2")).on("PATCH /up/2", Step(416))
    open_registry.on("GET /up/2", Step(204, b"", {"Range": "bytes=0-999"}))
    open_registry.on("PATCH /up/2", session("/up/3")).on("PATCH /up/3", session("/up/4"), session("/up/5"))
    open_registry.on("PATCH /up/4", session("/up/4")).on("PUT /up/", Step(201))
    harness.client(open_registry, chunk_size=2000).push(ref("app:1"), BLOBS, [MANIFEST])
    ranges = [patch.headers["content-range"] for patch in open_registry.matching("PATCH ")]
    assert ranges == ["0-1999", "2000-3999", "1000-2999", "3000-4999"]


def test_p68_everything_arrived_but_the_answer(harness, open_registry, ref):
    open_registry.on(POST, session("/up/1")).on("PUT /up/1", Step(504), Step(201))
    open_registry.on("GET /up/1", Step(204, b"", {"Range": f"0-{len(BLOB) - 1}"}))
    harness.client(open_registry).push(ref("app:1"), BLOBS, [MANIFEST])
    assert [put.body for put in open_registry.matching("PUT /up/1")] == [BLOB, b""]
    assert open_registry.count("PATCH ") == 0


def test_p68_the_blob_is_there_and_only_the_answer_was_lost(harness, open_registry, ref):
    open_registry.on(POST, session("/up/1")).on("PUT /up/1", Step(504)).on("GET /up/1", Step(404))
    open_registry.on(HEAD, Step(200, BLOB))
    harness.client(open_registry).push(ref("app:1"), BLOBS, [MANIFEST])
    assert open_registry.count(POST) == 1


def test_p68_without_headway_it_ends(harness, open_registry, ref):
    open_registry.on(POST, *(session(f"/up/{at}") for at in range(4))).on("PUT /up/", Step(502, times=4))
    open_registry.on("GET /up/", Step(204, b"", {"Range": "0-0"}, times=3)).on("DELETE /up/", Step(204, times=4))
    open_registry.on(HEAD, Step(404, times=3))
    with pytest.raises(RegistryError, match="502"):
        harness.client(open_registry).push(ref("app:1"), BLOBS, [MANIFEST])
    assert open_registry.lines[-1] == "DELETE /up/3"
    assert open_registry.count("PUT /v2/app/manifests") == 0


@pytest.mark.parametrize("chunk", [None, 1])
def test_p68_one_byte_or_none_is_not_gone_on_from(harness, open_registry, ref, chunk):
    """Range 0-0 is also how servers say that they have nothing (docker-registry does)."""
    open_registry.on(POST, session("/up/1"), session("/up/2")).on(HEAD, Step(404)).on("DELETE /up/1", Step(204))
    open_registry.on("PUT /up/1" if chunk is None else "PATCH /up/1", Step(502))
    open_registry.on("GET /up/1", Step(204, b"", {"Range": "0-0"}))
    open_registry.on("PATCH /up/2", session("/up/3")).on("PUT /up/", Step(201))
    one = layer(b"x")
    harness.client(open_registry, chunk_size=chunk).push(ref("app:1"), [(one, lambda: io.BytesIO(b"x"))], [MANIFEST])
    assert open_registry.matching("PUT /up/" if chunk is None else "PATCH /up/")[-1].body == b"x"


def test_p68_a_reset_in_the_middle_goes_on_after_what_the_server_has(harness, open_registry, ref):
    def fall() -> None:
        raise ConnectionResetError

    open_registry.on(POST, session("/up/1")).on("PATCH /up/1", Step(202, before=fall))
    open_registry.on("GET /up/1", Step(204, b"", {"Range": "0-999", "Location": "/up/2"}))
    open_registry.on("PATCH /up/2", session("/up/3")).on("PATCH /up/3", session("/up/4"))
    open_registry.on("PUT /up/4", Step(201))
    harness.client(open_registry, chunk_size=2000).push(ref("app:1"), BLOBS, [MANIFEST])
    ranges = [patch.headers["content-range"] for patch in open_registry.matching("PATCH ")]
    assert ranges == ["0-1999", "1000-2999", "3000-4999"]


def test_p70_two_pushers_of_one_tag(harness, registry, ref):
    """Each sends all that its own manifest needs before it sets the tag."""
    other = manifest(annotations={"who": "second"})
    registry.on(HEAD, Step(404, times=2)).on(POST, session("/up/1"), session("/up/2")).on(
        "PUT /up/", Step(201, times=2)
    )
    registry.on("PUT /v2/app/manifests/1", Step(201, times=2))
    client = harness.client(registry)
    manifests = [MANIFEST, PushManifest(media.OCI_MANIFEST, other, Digest.of(other))]
    blobs = [(layer(data), lambda data=data: io.BytesIO(data)) for data in (b"first", b"second")]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda n: client.push(ref("app:1"), [blobs[n]], [manifests[n]]), range(2)))
    tagged = [asked.body for asked in registry.matching("PUT /v2/app/manifests/1")]
    assert sorted(tagged) == sorted([DATA, other])
    for wanted, (_, opener) in zip((DATA, other), blobs, strict=True):
        sent = [asked.body for asked in registry.asked]
        assert sent.index(opener().read()) < sent.index(wanted)


def test_p70_children_before_parents_and_the_tag_last(harness, registry, ref):
    blobs = [(layer(bytes([n]) * 100), lambda n=n: io.BytesIO(bytes([n]) * 100)) for n in range(6)]
    children = [
        PushManifest(media.OCI_MANIFEST, data, Digest.of(data)) for data in (DATA, manifest(annotations={"a": "b"}))
    ]
    registry.on(HEAD, Step(404, times=6)).on(POST, *(session(f"/v2/app/blobs/uploads/{n}") for n in range(6)))
    registry.on(PUT, Step(201, times=6)).on("PUT /v2/app/manifests/", Step(201, times=3))
    index = PushManifest(media.OCI_INDEX, b"{}", Digest.of(b"{}"))
    with ThreadPoolExecutor(3) as pool:
        harness.client(registry).push(ref("app:1"), blobs, [*children, index], executor=pool)
    assert registry.lines[-3:] == [
        f"PUT /v2/app/manifests/{children[0].digest}",
        f"PUT /v2/app/manifests/{children[1].digest}",
        "PUT /v2/app/manifests/1",
    ]


def test_p70_without_a_tag_the_last_goes_by_digest(harness, registry, ref):
    registry.on("PUT /v2/app/manifests/", Step(201))
    harness.client(registry).push(ref(f"app@{MANIFEST.digest}"), [], [MANIFEST])
    assert registry.lines == [f"PUT /v2/app/manifests/{MANIFEST.digest}"]


def test_p70_a_blob_that_fails_keeps_the_tag_where_it_was(harness, registry, ref):
    registry.on(HEAD, Step(404)).on(POST, Step(403, b'{"errors":[{"code":"DENIED","message":"read only"}]}'))
    with pytest.raises(AuthError, match="DENIED: read only"), ThreadPoolExecutor(2) as pool:
        harness.client(registry).push(ref("app:1"), BLOBS, [MANIFEST], executor=pool)
    assert registry.count("PUT ") == 0


def test_p71_a_failed_push_deletes_its_session(harness, open_registry, ref):
    open_registry.on(POST, session("/up/1")).on("PUT /up/1", Step(400)).on("DELETE /up/1", Step(500))
    with pytest.raises(RegistryError, match="400"):
        harness.client(open_registry).push(ref("app:1"), BLOBS, [MANIFEST])
    assert open_registry.lines[-1] == "DELETE /up/1"


def test_p71_a_cancelled_push_deletes_its_session(harness, open_registry, ref):
    class Interrupted(io.BytesIO):
        def read(self, *_: object) -> bytes:
            raise KeyboardInterrupt

    open_registry.on(POST, session("/up/1")).on("DELETE /up/1", Step(204))
    with pytest.raises(KeyboardInterrupt):
        harness.client(open_registry).push(ref("app:1"), [(DESCRIPTOR, Interrupted)], [MANIFEST])
    assert "DELETE /up/1" in open_registry.lines


def test_p71_a_push_that_is_cancelled_while_it_waits_deletes_its_session(harness, open_registry, ref, monkeypatch):
    def interrupted(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(harness, "_sleep", interrupted)
    open_registry.on(POST, session("/up/1")).on("PUT /up/1", Step(503)).on("DELETE /up/1", Step(204))
    with pytest.raises(KeyboardInterrupt):
        harness.client(open_registry).push(ref("app:1"), BLOBS, [MANIFEST])
    assert open_registry.lines[-1] == "DELETE /up/1"


def test_a_source_that_is_too_short(harness, open_registry, ref):
    open_registry.on(POST, session("/up/1")).on("DELETE /up/1", Step(204))
    with pytest.raises(IntegrityError, match="shorter"):
        harness.client(open_registry).push(ref("app:1"), [(DESCRIPTOR, lambda: io.BytesIO(b"x"))], [MANIFEST])


def test_a_registry_that_stores_something_else(harness, registry, ref):
    registry.on("PUT ", Step(201, b"", {"Docker-Content-Digest": Digest.of(b"other")}))
    with pytest.raises(IntegrityError, match="stored"):
        harness.client(registry).push(ref("app:1"), [], [MANIFEST])


def test_p70_what_two_tags_have_in_common_goes_up_once(harness, open_registry, ref):
    asked_again, early = threading.Event(), []
    open_registry.on(POST, session())
    open_registry.on(PUT, Step(201, before=lambda: early.append(asked_again.wait(0.2))))
    open_registry.on(HEAD, Step(200, before=asked_again.set)).on("PUT /v2/app/manifests/", Step(201))
    client = harness.client(open_registry)
    with ThreadPoolExecutor(2) as pool:
        pushes = [pool.submit(client.push, ref(f"app:{tag}"), BLOBS, [MANIFEST]) for tag in ("1", "2")]
        results = [push.result() for push in pushes]
    assert early == [False]
    assert sorted(result.skipped for result in results) == [(), (DIGEST,)]


def test_p70_a_manifest_refused_while_another_push_writes_its_parts_is_put_again(harness, registry, ref):
    busy = Step(400, b'{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match"}]}')
    registry.on("PUT /v2/app/manifests/1", busy, busy, Step(201))
    harness.client(registry).push(ref("app:1"), [], [MANIFEST])
    assert harness.slept == [0.5, 1.0]


def test_a_manifest_that_is_refused_for_good_is_put_once(harness, registry, ref):
    registry.on("PUT ", Step(400, b'{"errors":[{"code":"MANIFEST_INVALID","message":"no"}]}'))
    with pytest.raises(RegistryError, match="400 MANIFEST_INVALID: no"):
        harness.client(registry).push(ref("app:1"), [], [MANIFEST])
    assert registry.count("PUT ") == 1


def test_mirrors_are_never_written_to(harness, open_registry, mirror, ref):
    open_registry.on(POST, session()).on(PUT, Step(201))
    client = harness.client(open_registry, mirrors={open_registry.host: (MirrorEndpoint(mirror.url, "first"),)})
    client.push(ref("app:1"), BLOBS, [MANIFEST])
    assert mirror.asked == []


def test_a_token_for_pushing_asks_for_both_repositories(harness, registry, storage, ref):
    challenge = f'Bearer realm="{storage.url}/token",service="s",scope="repository:app:pull,push"'
    registry.on(HEAD, Step(401, b"", {"WWW-Authenticate": challenge}), Step(404))
    registry.on(POST, Step(201)).on("PUT /v2/app/manifests/1", Step(201))
    storage.on("GET /token", Step(200, b'{"token": "t"}'))
    harness.client(registry).push(ref("app:1"), BLOBS, [MANIFEST], mount_from=ref("base"))
    assert "scope=repository%3Abase%3Apull" in storage.lines[0]
    assert storage.lines[0].count("repository%3Aapp%3A") == 1
    assert all(asked.headers["authorization"] == "Bearer t" for asked in registry.asked[1:])
