"""Manifests and indexes: what they are, which image an index means, and what is refused."""

from __future__ import annotations

import base64
import json

import pytest

from reconciler.errors import InvalidError
from reconciler.oci import media
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.document import MAX_DEPTH
from reconciler.oci.manifest import MAX_MANIFEST_BYTES, Index, Manifest, parse_manifest
from reconciler.oci.platform import Platform

A, B, C = (Digest.of(text) for text in (b"a", b"b", b"c"))
BLOB = Descriptor(media.OCI_LAYER_GZIP, A, 5)
CONFIG = Descriptor(media.OCI_CONFIG, B, 7)
IMAGE = {"schemaVersion": 2, "config": CONFIG.to_json(), "layers": [BLOB.to_json()]}
AMD64 = Platform.parse("linux/amd64")


def manifest(content_type: str = "", **fields) -> Manifest | Index:
    return parse_manifest(json.dumps({**IMAGE, **fields}).encode(), content_type)


def entry(digest, platform="", **fields):
    found = {"mediaType": media.OCI_MANIFEST, "digest": digest, "size": 1, **fields}
    if platform:
        os_, architecture, *variant = platform.split("/")
        found["platform"] = {"os": os_, "architecture": architecture, **({"variant": variant[0]} if variant else {})}
    return found


def index(*entries):
    found = parse_manifest(json.dumps({"schemaVersion": 2, "manifests": entries}).encode())
    assert isinstance(found, Index)
    return found


def test_a_built_manifest_reads_back():
    data = Manifest.build(CONFIG, (BLOB,), {"b": "2", "a": "1"})
    read = parse_manifest(data, media.OCI_MANIFEST + "; charset=utf-8")
    assert isinstance(read, Manifest)
    assert (read.blobs, read.is_image, dict(read.annotations)) == ((CONFIG, BLOB), True, {"a": "1", "b": "2"})
    assert data == Manifest.build(CONFIG, (BLOB,), {"a": "1", "b": "2"})


@pytest.mark.parametrize("header", ["", "text/plain", "application/json; charset=utf-8", "Application/Octet-Stream"])
def test_p43_the_body_decides_under_a_header_that_tells_nothing(header):
    assert manifest(header, mediaType=media.DOCKER_MANIFEST).media_type == media.DOCKER_MANIFEST
    assert manifest(header).media_type == media.OCI_MANIFEST


def test_p43_parameters_of_the_header_are_no_part_of_the_type():
    header = f"{media.DOCKER_MANIFEST}; charset=utf-8"
    assert manifest(header, mediaType=media.DOCKER_MANIFEST).media_type == media.DOCKER_MANIFEST
    assert manifest(header).media_type == media.DOCKER_MANIFEST


@pytest.mark.parametrize(
    ("document", "header"),
    [
        ({**IMAGE, "mediaType": media.OCI_MANIFEST}, media.DOCKER_MANIFEST),
        ({"mediaType": media.OCI_INDEX, "manifests": []}, media.OCI_MANIFEST),
        ({"manifests": []}, media.OCI_MANIFEST),
        (IMAGE, media.OCI_INDEX),
        (IMAGE, "application/vnd.oci.image.config.v1+json"),
        ({**IMAGE, "mediaType": media.OCI_LAYER}, ""),
        ({**IMAGE, "manifests": []}, ""),
        ({"schemaVersion": 2, "config": CONFIG.to_json(), "manifests": []}, ""),
        ({**IMAGE, "Manifests": [entry(A)]}, ""),
        ({**IMAGE, "LAYERS": []}, media.OCI_MANIFEST),
        ({**IMAGE, "layerſ": []}, ""),
    ],
)
def test_p44_a_document_that_is_two_things_is_refused(document, header):
    with pytest.raises(InvalidError):
        parse_manifest(json.dumps(document).encode(), header)


def test_p44_a_key_that_is_there_twice_is_refused():
    text = json.dumps(IMAGE)[:-1] + ', "layers": []}'
    with pytest.raises(InvalidError, match="twice"):
        parse_manifest(text.encode())


@pytest.mark.parametrize(
    ("document", "header"),
    [
        ({"schemaVersion": 1, "fsLayers": []}, ""),
        ({"schemaVersion": 1}, "application/json"),
        ({"schemaVersion": 2, "fsLayers": []}, ""),
        (IMAGE, media.DOCKER_SCHEMA1_SIGNED),
    ],
)
def test_p46_schema_1_is_refused_with_what_to_do(document, header):
    with pytest.raises(InvalidError, match="schema 1") as caught:
        parse_manifest(json.dumps(document).encode(), header)
    assert "rebuild the image" in caught.value.hint


def test_p47_media_types_of_both_families_may_be_mixed():
    config = {**CONFIG.to_json(), "mediaType": media.DOCKER_CONFIG}
    layers = [BLOB.to_json(), {**BLOB.to_json(), "mediaType": media.DOCKER_LAYER_GZIP}]
    found = manifest(media.OCI_MANIFEST, mediaType=media.OCI_MANIFEST, config=config, layers=layers)
    assert isinstance(found, Manifest)
    assert found.is_image
    assert {layer.media_type for layer in found.layers} == {media.OCI_LAYER_GZIP, media.DOCKER_LAYER_GZIP}


@pytest.mark.parametrize(
    "other",
    [
        entry(A, "unknown/unknown"),
        entry(A, "linux/unknown"),
        entry(A, platform="linux/amd64", artifactType="application/x"),
        entry(A, "linux/amd64", annotations={"vnd.docker.reference.type": "attestation-manifest"}),
        entry(A, "linux/amd64", mediaType=media.OCI_INDEX),
        entry(A, "linux/amd64", mediaType="application/vnd.example"),
        {**entry(A), "platform": {}},
        {**entry(A), "platform": {"os": "linux", "architecture": "amd64", "os.features": ["win32k"]}},
    ],
)
def test_p49_what_is_no_image_is_never_chosen(other):
    with pytest.raises(InvalidError, match="no image for platform"):
        index(other).choose(AMD64)
    assert index(other, entry(B, "linux/amd64")).choose(AMD64).digest == B


def test_p49_an_entry_without_a_platform_is_taken_only_alone():
    assert index(entry(A)).choose(AMD64).digest == A
    assert index(entry(A), entry(B, "unknown/unknown")).choose(AMD64).digest == A
    with pytest.raises(InvalidError):
        index(entry(A), entry(B)).choose(AMD64)
    with pytest.raises(InvalidError):
        index(entry(A), entry(B, "linux/s390x")).choose(AMD64)


def test_p50_an_index_lists_what_there_is():
    with pytest.raises(InvalidError, match=r"for platform linux/amd64; available: linux/arm64, linux/s390x$"):
        index(entry(A, "linux/s390x"), entry(B, "linux/arm64"), entry(C, "unknown/unknown")).choose(AMD64)
    with pytest.raises(InvalidError, match="available: none"):
        index().choose(AMD64)


@pytest.mark.parametrize(
    ("host", "entries", "chosen"),
    [
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6", "linux/arm64"], "linux/arm/v6"),
        ("linux/arm/v7", ["linux/arm/v6", "linux/arm", "linux/arm/v8"], "linux/arm/v7"),
        ("linux/arm/v6", ["linux/arm/v7", "linux/arm/v6"], "linux/arm/v6"),
        ("linux/arm64", ["linux/arm/v7", "linux/arm64/v8"], "linux/arm64"),
        ("linux/arm64/v8", ["linux/arm64/v9", "linux/arm64"], "linux/arm64"),
        ("linux/amd64", ["linux/amd64/v3", "linux/amd64/v2", "linux/amd64"], "linux/amd64"),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], "linux/amd64/v2"),
        ("linux/amd64", ["linux/386", "linux/amd64"], "linux/amd64"),
        ("linux/amd64", ["linux/386", "linux/arm64"], "linux/386"),
    ],
)
def test_an_index_chooses_the_newest_variant_that_runs(host, entries, chosen):
    digests = [Digest.of(name.encode()) for name in entries]
    found = index(*map(entry, digests, entries)).choose(Platform.parse(host))
    assert found.platform == Platform.parse(chosen)


def test_the_first_of_equal_entries_is_chosen_whatever_windows_it_is_for():
    first, second = entry(A, "linux/amd64"), entry(B, "linux/amd64")
    second["platform"]["os.version"] = "10.0.14393.1066"
    assert index(first, second).choose(AMD64).digest == A
    assert index(second, first).choose(AMD64).digest == B


@pytest.mark.parametrize(
    "fields", [{"config": {**CONFIG.to_json(), "mediaType": "application/vnd.x"}}, {"artifactType": "application/x"}]
)
def test_p55_an_artifact_is_read_and_is_no_image(fields):
    found = manifest(**fields)
    assert isinstance(found, Manifest)
    assert not found.is_image


def test_p58_embedded_data_counts_when_it_is_what_the_digest_says():
    def embedded(data, of=b"hello", size=5):
        value = {"mediaType": "x", "digest": Digest.of(of), "size": size, "data": data}
        return Descriptor.from_json(value, "it").data

    right = base64.b64encode(b"hello").decode()
    assert embedded(right) == b"hello"
    assert embedded(right, of=b"other") is None
    assert embedded(right, size=6) is None
    assert embedded(right + "\n") is None
    assert embedded("=" * 8) is None
    assert embedded("") is None
    with pytest.raises(InvalidError):
        embedded(5)


@pytest.mark.parametrize(
    "fields",
    [
        {"schemaVersion": 3},
        {"schemaVersion": "2"},
        {"schemaVersion": 2.0},
        {"schemaVersion": True},
        {"mediaType": 5},
        {"mediaType": "text/plain"},
        {"config": None},
        {"config": []},
        {"layers": {}},
        {"layers": None},
        {"layers": [1]},
        {"annotations": [1]},
        {"annotations": {"a": 1}},
        {"subject": {}},
        {"artifactType": 1},
    ],
)
def test_malformed_manifests(fields):
    with pytest.raises(InvalidError):
        manifest(**fields)


@pytest.mark.parametrize("document", [[], "x", None, {}, {"layers": []}, {"config": CONFIG.to_json()}])
def test_documents_that_are_no_manifest(document):
    with pytest.raises(InvalidError):
        parse_manifest(json.dumps(document).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b" " * (MAX_MANIFEST_BYTES + 1),
        json.dumps(IMAGE).encode("utf-16"),
        b"\xef\xbb\xbf" + json.dumps(IMAGE).encode(),
        json.dumps({**IMAGE, "x": float("nan")}).encode(),
        json.dumps(IMAGE).replace("2", "1e999", 1).encode(),
        json.dumps({**IMAGE, "x": 1}).replace(": 1", ": " + "1" * 5000).encode(),
        json.dumps({**IMAGE, "annotations": {"a": "\ud800"}}).encode(),
        json.dumps({**IMAGE, "x": 0}).replace(" 0", "[" * MAX_DEPTH + "]" * MAX_DEPTH).encode(),
    ],
)
def test_bytes_that_readers_differ_on_are_no_manifest(data):
    with pytest.raises(InvalidError):
        parse_manifest(data)


def test_a_whole_surrogate_pair_is_a_character():
    found = manifest(annotations={"a": "\U0001f600"})
    assert isinstance(found, Manifest)
    assert found.annotations["a"] == "\U0001f600"
