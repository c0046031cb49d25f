"""Tags to digests, digests to manifests (cases P38-P47)."""

from __future__ import annotations

import pytest

from reconciler.errors import IntegrityError, InvalidError, NotFoundError, RegistryError
from reconciler.oci import media
from reconciler.oci.digest import Digest
from reconciler.registry.hosts import MirrorEndpoint
from reconciler.testing.scripted_registry import Step

from .conftest import CONFIG, manifest, served

DATA = manifest()
HEAD = "HEAD /v2/app/manifests/1"
GET = "GET /v2/app/manifests/1"
BY_DIGEST = f"GET /v2/app/manifests/{Digest.of(DATA)}"


def test_p41_one_head_is_enough_for_a_known_digest(harness, registry, ref):
    registry.on(HEAD, served(DATA))
    found = harness.client(registry).resolve(ref("app:1"))
    assert found.descriptor.digest == Digest.of(DATA)
    assert (found.descriptor.media_type, found.descriptor.size) == (media.OCI_MANIFEST, len(DATA))
    assert found.data is None
    assert registry.lines == [HEAD]
    assert media.OCI_INDEX in registry.headers(HEAD)["accept"]


def test_p41_an_unknown_digest_is_fetched_by_digest(harness, registry, ref):
    registry.on(HEAD, served(DATA)).on(BY_DIGEST, served(DATA))
    asked: list[Digest] = []
    found = harness.client(registry).resolve(ref("app:1"), known=lambda digest: bool(asked.append(digest)))
    assert found.data == DATA
    assert asked == [Digest.of(DATA)]
    assert registry.lines == [HEAD, BY_DIGEST]


@pytest.mark.parametrize(
    "head",
    [
        Step(405),
        Step(200, DATA, {"Content-Type": media.OCI_MANIFEST}),
        Step(200, DATA, {"Content-Type": media.OCI_MANIFEST, "Docker-Content-Digest": Digest.of(DATA)}, length=-1),
        Step(200, DATA, {"Content-Type": "text/plain", "Docker-Content-Digest": Digest.of(DATA)}),
    ],
    ids=["405", "no digest", "no length", "generic type"],
)
def test_p41_head_that_does_not_tell_all_is_followed_by_get(harness, registry, ref, head):
    registry.on(HEAD, head).on(GET, served(DATA))
    found = harness.client(registry).resolve(ref("app:1"))
    assert (found.descriptor.digest, found.data) == (Digest.of(DATA), DATA)
    assert registry.lines == [HEAD, GET]


def test_p41_404_is_final_and_not_retried(harness, registry, ref):
    registry.on(HEAD, Step(404))
    with pytest.raises(NotFoundError, match="404"):
        harness.client(registry).resolve(ref("app:1"))
    assert registry.lines == [HEAD]
    assert harness.slept == []


def test_unknown_is_not_absent(harness, registry, ref):
    registry.on(HEAD, Step(500, times=4))
    with pytest.raises(RegistryError, match="500"):
        harness.client(registry).resolve(ref("app:1"))


def test_tag_digest_is_none_for_an_absent_tag(harness, registry, ref):
    registry.on(HEAD, Step(404), served(DATA))
    client = harness.client(registry)
    assert client.tag_digest(ref("app:1")) is None
    assert client.tag_digest(ref("app:1")) == Digest.of(DATA)


def test_a_reference_with_a_digest_is_fetched(harness, registry, ref):
    registry.on(BY_DIGEST, served(DATA))
    found = harness.client(registry).resolve(ref(f"app:1@{Digest.of(DATA)}"))
    assert (found.data, found.descriptor.size) == (DATA, len(DATA))


def sized(size: int) -> bytes:
    """A manifest of exactly so many bytes."""
    return manifest(annotations={"x": "y" * (size - len(manifest(annotations={"x": ""})))})


@pytest.mark.parametrize("length", [None, -1], ids=["announced", "chunked"])
@pytest.mark.parametrize(("limit", "more"), [({}, 4 << 20), ({"manifest_limit": 6 << 20}, 6 << 20)])
def test_p38_a_manifest_above_the_limit_is_refused(harness, registry, ref, length, limit, more):
    big = sized(more + 1)
    registry.on("GET ", served(big, length=length))
    with pytest.raises(InvalidError, match=rf"more than manifest_bytes \({more}\) allows") as caught:
        harness.client(registry, **limit).manifest(ref(f"app@{Digest.of(big)}"))
    assert f"manifest_bytes: {2 * more}" in caught.value.hint


@pytest.mark.parametrize("length", [None, -1], ids=["announced", "chunked"])
@pytest.mark.parametrize("limit", [1000, 6 << 20])
@pytest.mark.parametrize("below", [0, 1])
def test_p38_a_manifest_at_or_below_the_limit_is_taken(harness, registry, ref, length, limit, below):
    data = sized(limit - below)
    registry.on("GET ", served(data, length=length))
    assert harness.client(registry, manifest_limit=limit).manifest(ref(f"app@{Digest.of(data)}")) == data


def test_p38_a_mirror_with_too_large_a_manifest_is_passed_over(harness, registry, mirror, ref):
    mirror.on("GET ", served(sized(2000), digest=Digest.of(DATA)))
    registry.on("GET ", served(DATA))
    mirrors = {registry.host: (MirrorEndpoint(mirror.url),)}
    client = harness.client(registry, mirrors=mirrors, manifest_limit=1999)
    assert client.manifest(ref(f"app@{Digest.of(DATA)}")) == DATA


def test_p40_header_that_is_not_the_digest_of_the_bytes(harness, registry, ref):
    registry.on(HEAD, Step(405)).on(GET, served(DATA, digest=Digest.of(b"other")))
    with pytest.raises(IntegrityError, match="promised"):
        harness.client(registry).resolve(ref("app:1"))


def test_p40_for_a_request_by_digest_the_requested_digest_decides(harness, registry, ref):
    registry.on(BY_DIGEST, served(DATA, digest=Digest.of(b"other")), served(b"{}"))
    client = harness.client(registry)
    assert client.manifest(ref(f"app@{Digest.of(DATA)}")) == DATA
    with pytest.raises(IntegrityError, match="promised"):
        client.manifest(ref(f"app@{Digest.of(DATA)}"))


@pytest.mark.parametrize("content_type", [f"{media.OCI_MANIFEST}; charset=utf-8", "", "text/plain"])
def test_p43_the_body_decides_when_the_header_is_generic(harness, registry, ref, content_type):
    registry.on(HEAD, Step(405)).on(GET, served(DATA, content_type))
    assert harness.client(registry).resolve(ref("app:1")).descriptor.media_type == media.OCI_MANIFEST


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (DATA, media.DOCKER_MANIFEST),
        (manifest(manifests=[]), media.OCI_MANIFEST),
    ],
    ids=["types differ", "layers and manifests"],
)
def test_p44_ambiguous_manifest(harness, registry, ref, data, content_type):
    registry.on("GET ", served(data, content_type))
    with pytest.raises(InvalidError):
        harness.client(registry).manifest(ref(f"app@{Digest.of(data)}"))


def test_p46_schema_1(harness, registry, ref):
    old = b'{"schemaVersion": 1}'
    registry.on(HEAD, served(old, media.DOCKER_SCHEMA1_SIGNED)).on(GET, served(old, media.DOCKER_SCHEMA1_SIGNED))
    with pytest.raises(InvalidError, match="schema 1") as caught:
        harness.client(registry).resolve(ref("app:1"))
    assert "rebuild" in caught.value.hint


def test_p47_mixed_docker_and_oci_types_are_kept_byte_for_byte(harness, registry, ref):
    mixed = manifest(layers=[{**CONFIG.to_json(), "mediaType": media.DOCKER_LAYER_GZIP}])
    registry.on("GET ", served(mixed))
    assert harness.client(registry).manifest(ref(f"app@{Digest.of(mixed)}")) == mixed


def test_head_with_a_malformed_digest_is_an_error(harness, registry, ref):
    registry.on(HEAD, served(DATA, digest="sha256:../../etc"))
    with pytest.raises(RegistryError, match="digest"):
        harness.client(registry).resolve(ref("app:1"))
