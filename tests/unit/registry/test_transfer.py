"""From registry to registry, with nothing stored."""

from __future__ import annotations

import pytest

from reconciler.errors import IntegrityError, RegistryError
from reconciler.oci import media
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.registry.hosts import Credentials, HostConfig, MirrorEndpoint
from reconciler.registry.transfer import BlobStream
from reconciler.testing.scripted_registry import Step

from .conftest import layer, manifest, served

BLOB = bytes(range(256)) * 8192
GET = "GET /v2/app/blobs/"
HEAD, POST, PUT = "HEAD /v2/copy/blobs/", "POST /v2/copy/blobs/uploads/", "PUT /up"
SESSION = Step(202, b"", {"Location": "/up"})


@pytest.fixture
def there(ref, storage):
    return ref("copy:1").parse(f"{storage.host}/copy:1")


def test_a_blob_is_streamed_to_another_registry(harness, registry, storage, ref, there):
    registry.on(GET, Step(200, BLOB))
    storage.on(HEAD, Step(404)).on(POST, SESSION).on(PUT, Step(201))
    sent: list[int] = []
    client = harness.client(registry, storage)
    assert client.copy_blob(ref("app:1"), there, layer(BLOB), sent.append) == "uploaded"
    assert storage.matching(PUT)[0].body == BLOB
    assert sum(sent) == len(BLOB)


def test_a_blob_that_is_there_is_not_fetched(harness, registry, storage, ref, there):
    storage.on(HEAD, Step(200, BLOB))
    assert harness.client(registry, storage).copy_blob(ref("app:1"), there, layer(BLOB)) == "skipped"
    assert registry.asked == []


def test_within_a_registry_it_is_mounted(harness, registry, ref):
    registry.on(HEAD, Step(404)).on(POST, Step(201))
    assert harness.client(registry).copy_blob(ref("app:1"), ref("copy:1"), layer(BLOB)) == "mounted"
    assert registry.lines[-1].endswith("&from=app")


def test_within_a_registry_that_does_not_mount_it_is_streamed(harness, registry, ref):
    registry.on(HEAD, Step(404)).on(POST, SESSION).on(PUT, Step(201)).on(GET, Step(200, BLOB))
    assert harness.client(registry).copy_blob(ref("app:1"), ref("copy:1"), layer(BLOB)) == "uploaded"


def test_a_source_that_breaks_is_gone_on_from(harness, registry, storage, ref, there):
    rest = Step(206, BLOB[700_000:], {"Content-Range": f"bytes 700000-{len(BLOB) - 1}/{len(BLOB)}"})
    registry.on(GET, Step(200, BLOB, cut=700_000), rest)
    storage.on(HEAD, Step(404)).on(POST, SESSION).on(PUT, Step(201))
    harness.client(registry, storage).copy_blob(ref("app:1"), there, layer(BLOB))
    assert storage.matching(PUT)[0].body == BLOB


def test_wrong_bytes_never_become_a_blob(harness, registry, storage, ref, there):
    """The last chunk is held back until all is verified: the target sees a broken upload, and is told to forget it."""
    wrong = BLOB[:-1] + b"?"
    registry.on(GET, Step(200, wrong))
    storage.on(HEAD, Step(404)).on(POST, SESSION).on("DELETE /up", Step(204))
    with pytest.raises(IntegrityError):
        harness.client(registry, storage).copy_blob(ref("app:1"), there, layer(BLOB))
    assert storage.count(PUT) == 0, "no whole request arrived"
    assert storage.lines[-1] == "DELETE /up"


def test_a_mirror_with_wrong_bytes_is_noticed_and_the_copy_begun_anew(harness, registry, mirror, storage, ref, there):
    mirror.on(GET, Step(200, BLOB[:-1] + b"?"))
    registry.on(GET, Step(200, BLOB, times=2))
    storage.on(HEAD, Step(404, times=2)).on(POST, SESSION, SESSION).on(PUT, Step(201)).on("GET /up", Step(404))
    mirrors = {registry.host: (MirrorEndpoint(mirror.url),)}
    client = harness.client(registry, storage, mirrors=mirrors)
    assert client.copy_blob(ref("app:1"), there, layer(BLOB)) == "uploaded"
    assert storage.matching(PUT)[0].body == BLOB
    assert mirror.count("") == 1


def test_a_source_that_must_start_over_is_read_anew(harness, registry, storage, ref, there):
    registry.on(GET, Step(200, BLOB, cut=700_000), Step(200, BLOB), Step(200, BLOB))
    storage.on(HEAD, Step(404, times=2)).on(POST, SESSION, SESSION).on(PUT, Step(201)).on("GET /up", Step(404))
    assert harness.client(registry, storage).copy_blob(ref("app:1"), there, layer(BLOB)) == "uploaded"
    assert storage.matching(PUT)[0].body == BLOB


def test_a_target_that_refuses_ends_the_fetching(harness, registry, storage, ref, there):
    registry.on(GET, Step(200, BLOB * 8))
    storage.on(HEAD, Step(404)).on(POST, SESSION).on(PUT, Step(400)).on("DELETE /up", Step(204))
    with pytest.raises(RegistryError, match="400"):
        harness.client(registry, storage).copy_blob(ref("app:1"), there, layer(BLOB * 8))


def test_embedded_data_needs_no_source(harness, registry, storage, ref, there):
    storage.on(HEAD, Step(404)).on(POST, SESSION).on(PUT, Step(201))
    descriptor = Descriptor(media.OCI_CONFIG, Digest.of(b"{}"), 2, data=b"{}")
    harness.client(registry, storage).copy_blob(ref("app:1"), there, descriptor)
    assert (registry.asked, storage.matching(PUT)[0].body) == ([], b"{}")


@pytest.mark.parametrize("source", ["app:1", f"app@{Digest.of(manifest())}"])
def test_a_manifest_is_copied_as_it_is(harness, registry, storage, ref, there, source):
    data = manifest()
    registry.on("HEAD ", served(data)).on("GET ", served(data))
    storage.on("PUT /v2/copy/manifests/1", Step(201, b"", {"Docker-Content-Digest": Digest.of(data)}))
    found = harness.client(registry, storage).copy_manifest(ref(source), there)
    assert (found.digest, storage.asked[0].body) == (Digest.of(data), data)
    assert storage.headers("PUT ")["content-type"] == media.OCI_MANIFEST


def test_each_side_gets_its_own_login(harness, registry, storage, ref, there):
    challenge = Step(401, b"", {"WWW-Authenticate": "Basic realm=x"})
    registry.on(GET, challenge, Step(200, BLOB))
    storage.on(HEAD, challenge, Step(404)).on(POST, SESSION).on(PUT, Step(201))
    hosts = {
        registry.host: HostConfig(registry.host, plain_http=True, credentials=Credentials("from", "one")),
        storage.host: HostConfig(storage.host, plain_http=True, credentials=Credentials("to", "two")),
    }
    harness.client(hosts=hosts).copy_blob(ref("app:1"), there, layer(BLOB))
    assert registry.asked[-1].headers["authorization"] != storage.asked[-1].headers["authorization"]


def test_a_stream_that_nobody_reads_on_ends_its_thread():
    wrote: list[int] = []

    def fetch(sink) -> None:
        for number in range(1000):
            sink.write(b"x")
            wrote.append(number)

    stream = BlobStream(fetch)
    assert stream.read(1) == b"x"
    stream.close()
    stream._thread.join(10)
    assert len(wrote) < 20
