"""Digests, platforms, descriptors, manifests, configs and chain IDs."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.errors import InvalidError
from reconciler.oci import media
from reconciler.oci.config import History, ImageConfig, encode_config
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.layers import chain_ids
from reconciler.oci.manifest import MAX_MANIFEST_BYTES, Index, Manifest, parse_manifest
from reconciler.oci.platform import Platform

A, B, C = (Digest.of(text) for text in (b"a", b"b", b"c"))
BLOB = Descriptor(media.OCI_LAYER_GZIP, A, 5)
CONFIG = Descriptor(media.OCI_CONFIG, B, 7)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256",
        "sha256:",
        "sha256:" + "0" * 63,
        "sha256:" + "0" * 65,
        "sha256:" + "A" * 64,
        "md5:" + "0" * 32,
        "sha256:../../../etc/x",
        "sha256:" + "0" * 64 + "\n",
        "sha512:" + "0" * 128,
        "sha256:" + "٠" * 64,
    ],
)
def test_r77_malformed_digests_enter_nowhere(text):
    with pytest.raises(InvalidError):
        Digest(text)
    with pytest.raises(InvalidError):
        Descriptor.from_json({"mediaType": "x", "digest": text, "size": 1}, "it")


@given(st.binary())
def test_a_digest_is_the_sha256_of_the_bytes(data):
    digest = Digest.of(data)
    assert (digest.algorithm, digest.hex) == ("sha256", hashlib.sha256(data).hexdigest())
    assert Digest(str(digest)) == digest
    assert digest.hex.startswith(digest.short)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm", "linux/arm"),
        ("linux/arm/v7", "linux/arm"),
        ("linux/armhf", "linux/arm"),
        ("Linux/ARM/V6", "linux/arm/v6"),
    ],
)
def test_platforms_have_one_form(text, normal):
    assert str(Platform.parse(text)) == normal
    assert Platform.parse(normal) == Platform.parse(text)


@pytest.mark.parametrize("text", ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/am d64", "linux/é"])
def test_malformed_platforms(text):
    with pytest.raises(InvalidError):
        Platform.parse(text)


@pytest.mark.parametrize(
    ("host", "image", "runs"),
    [
        ("linux/amd64", "linux/amd64", True),
        ("linux/amd64", "linux/arm64", False),
        ("linux/amd64", "windows/amd64", False),
        ("linux/arm/v7", "linux/arm/v6", True),
        ("linux/arm/v6", "linux/arm/v7", False),
        ("linux/amd64", "linux/amd64/v3", False),
        ("linux/amd64/v3", "linux/amd64", True),
    ],
)
def test_what_runs_where(host, image, runs):
    assert Platform.parse(host).runs(Platform.parse(image)) is runs


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {"digest": A, "size": 1},
        {"mediaType": "x", "size": 1},
        {"mediaType": "x", "digest": A},
        {"mediaType": "x", "digest": A, "size": -1},
        {"mediaType": "x", "digest": A, "size": True},
        {"mediaType": "x", "digest": A, "size": 2**63},
        {"mediaType": "x", "digest": A, "size": "1"},
        {"mediaType": "x", "digest": A, "size": 1, "annotations": [1]},
        {"mediaType": "x", "digest": A, "size": 1, "platform": "linux"},
    ],
)
def test_malformed_descriptors_are_named(value):
    with pytest.raises(InvalidError, match=r"layers\[0\]"):
        Descriptor.from_json(value, "layers[0]")


def test_descriptors_round_trip():
    assert Descriptor.from_json(BLOB.to_json(), "it") == BLOB


def test_a_built_manifest_reads_back():
    data = Manifest.build(CONFIG, (BLOB,), {"b": "2", "a": "1"})
    manifest = parse_manifest(data, media.OCI_MANIFEST + "; charset=utf-8")
    assert isinstance(manifest, Manifest)
    assert (manifest.blobs, manifest.is_image, dict(manifest.annotations)) == (
        (CONFIG, BLOB),
        True,
        {"a": "1", "b": "2"},
    )
    assert data == Manifest.build(CONFIG, (BLOB,), {"a": "1", "b": "2"})


@pytest.mark.parametrize(
    ("document", "content_type"),
    [
        ({"schemaVersion": 1}, ""),
        ({"schemaVersion": 2, "config": CONFIG.to_json(), "layers": [], "manifests": []}, ""),
        ({"schemaVersion": 2, "mediaType": "text/plain", "config": CONFIG.to_json(), "layers": []}, ""),
        ({"mediaType": media.OCI_INDEX, "manifests": []}, media.OCI_MANIFEST),
        ({"layers": []}, ""),
        ({"config": CONFIG.to_json()}, ""),
        ({"config": CONFIG.to_json(), "layers": {}}, ""),
        ({"config": CONFIG.to_json(), "layers": [], "annotations": [1]}, ""),
        ({"config": CONFIG.to_json(), "layers": []}, media.OCI_INDEX),
        ([], ""),
    ],
)
def test_malformed_manifests(document, content_type):
    with pytest.raises(InvalidError):
        parse_manifest(json.dumps(document).encode(), content_type)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000, b" " * (MAX_MANIFEST_BYTES + 1)])
def test_bytes_that_are_no_manifest(data):
    with pytest.raises(InvalidError):
        parse_manifest(data)


def _entry(digest, platform, **fields):
    os_, architecture, *variant = platform.split("/")
    described = {"os": os_, "architecture": architecture, **({"variant": variant[0]} if variant else {})}
    return {"mediaType": media.OCI_MANIFEST, "digest": digest, "size": 1, "platform": described, **fields}


def _index(*entries):
    index = parse_manifest(json.dumps({"schemaVersion": 2, "manifests": entries}).encode())
    assert isinstance(index, Index)
    return index


def test_an_index_chooses_the_newest_variant_that_runs():
    index = _index(_entry(A, "linux/arm/v6"), _entry(B, "linux/arm/v7"), _entry(C, "linux/arm64"))
    assert index.choose(Platform.parse("linux/arm/v7")).digest == B
    assert index.choose(Platform.parse("linux/arm/v6")).digest == A


def test_an_index_never_chooses_an_attestation():
    index = _index(_entry(A, "unknown/unknown"), _entry(B, "linux/amd64", artifactType="application/x"))
    with pytest.raises(InvalidError, match="no image for platform"):
        index.choose(Platform.parse("linux/amd64"))


def test_an_index_lists_what_there_is():
    with pytest.raises(InvalidError, match=r"linux/arm64, linux/s390x"):
        _index(_entry(A, "linux/s390x"), _entry(B, "linux/arm64")).choose(Platform.parse("linux/amd64"))


def test_an_entry_without_a_platform_is_taken_only_alone():
    bare = {"mediaType": media.OCI_MANIFEST, "digest": A, "size": 1}
    assert _index(bare).choose(Platform.parse("linux/amd64")).digest == A
    with pytest.raises(InvalidError):
        _index(bare, {**bare, "digest": B}).choose(Platform.parse("linux/amd64"))


def _config(**fields):
    return {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [A]}, **fields}


def test_a_config_is_read():
    inner = {"Env": ["A=b"], "Cmd": ["sh"], "Labels": {"a": "b"}, "Volumes": {"/v": {}}, "ExposedPorts": {"80/tcp": {}}}
    history = [{"created_by": "x", "author": "me"}, {"empty_layer": True, "comment": "c"}]
    config = ImageConfig.parse(encode_config(_config(config=inner, history=history, author="me")))
    assert (config.env, config.cmd, config.labels) == (("A=b",), ("sh",), {"a": "b"})
    assert (config.volumes, config.exposed_ports, config.diff_ids) == (("/v",), ("80/tcp",), (A,))
    assert config.history == (History(created_by="x", author="me"), History(empty_layer=True, comment="c"))
    assert [step.to_json() for step in config.history] == history


@pytest.mark.parametrize(
    "document",
    [
        [],
        _config(config=[1]),
        _config(config={"Env": [1]}),
        _config(config={"User": 5}),
        _config(config={"Labels": []}),
        _config(rootfs={"type": "x"}),
        _config(rootfs={"type": "layers", "diff_ids": ["sha256:../x"]}),
        _config(history={"a": 1}),
        _config(history=[1]),
    ],
)
def test_malformed_configs(document):
    with pytest.raises(InvalidError):
        ImageConfig.parse(json.dumps(document).encode())


def test_chain_ids_follow_the_specification():
    # image-spec, config.md: ChainID(L0) = DiffID(L0), ChainID(L0|...|Ln) =
    # Digest(ChainID(L0|...|Ln-1) + " " + DiffID(Ln))
    second = Digest("sha256:" + hashlib.sha256(f"{A} {B}".encode()).hexdigest())
    third = Digest("sha256:" + hashlib.sha256(f"{second} {C}".encode()).hexdigest())
    assert chain_ids([A, B, C]) == (A, second, third)
    assert chain_ids([]) == ()


def test_media_types_without_parameters():
    assert media.bare("Application/JSON; charset=utf-8") == "application/json"
