"""Digests, platforms, descriptors, manifests, configs and chain IDs."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.errors import InvalidError
from reconciler.oci import media
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.layers import chain_ids
from reconciler.oci.platform import Platform

A, B, C = (Digest.of(text) for text in (b"a", b"b", b"c"))
BLOB = Descriptor(media.OCI_LAYER_GZIP, A, 5)


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
        ("linux/arm/6", "linux/arm/v6"),
        ("linux/arm64/8", "linux/arm64"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/i386", "linux/386"),
        ("linux/armel", "linux/arm/v6"),
    ],
)
def test_platforms_have_one_form(text, normal):
    assert str(Platform.parse(text)) == normal
    assert Platform.parse(normal) == Platform.parse(text)


@pytest.mark.parametrize(
    "text",
    ["", "linux", "linux/", "/amd64", "a/b/c/d", "a/b/", "linux/am d64", "linux/é", "linux/\x1b[31m", "l/" + "a" * 65],
)
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
        ("linux/amd64/v3", "linux/amd64/v2", True),
        ("linux/amd64", "linux/386", True),
        ("linux/386", "linux/amd64", False),
        ("linux/arm/v7", "linux/arm", True),
        ("linux/arm/v6", "linux/arm/v5", True),
        ("linux/arm/v10", "linux/arm/v9", True),
        ("linux/arm64", "linux/arm64/v8", True),
        ("linux/arm64", "linux/arm64/v9", False),
        ("linux/arm64/v9", "linux/arm64", True),
        ("linux/arm64/v9", "linux/arm64/v8.5", True),
        ("linux/arm64/v9", "linux/arm64/v8.6", False),
        ("linux/arm64", "linux/arm/v7", True),
        ("linux/riscv64", "linux/riscv64", True),
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
        {"mediaType": "x", "digest": A, "size": 1, "annotations": {"a": 1}},
        {"mediaType": "x", "digest": A, "size": 1, "platform": "linux"},
        {"mediaType": "x", "digest": A, "size": 1, "platform": {"os": 1, "architecture": "amd64"}},
        {"mediaType": "x", "digest": A, "size": 1, "platform": {"os": "li/nux", "architecture": "amd64"}},
        {"mediaType": "x", "digest": A, "size": 1, "platform": {"os": "linux", "os.features": "x"}},
        {"mediaType": "x", "digest": A, "size": 1, "platform": {"os": "linux", "os.version": 10}},
        {"mediaType": "x", "digest": A, "size": 1, "artifactType": 1},
        {"mediaType": "x", "digest": A, "Digest": B, "size": 1},
    ],
)
def test_malformed_descriptors_are_named(value):
    with pytest.raises(InvalidError, match=r"layers\[0\]"):
        Descriptor.from_json(value, "layers[0]")


def test_descriptors_round_trip():
    assert Descriptor.from_json(BLOB.to_json(), "it") == BLOB


def test_chain_ids_follow_the_specification():
    # image-spec, config.md: ChainID(L0) = DiffID(L0), ChainID(L0|...|Ln) =
    # Digest(ChainID(L0|...|Ln-1) + " " + DiffID(Ln))
    second = Digest("sha256:" + hashlib.sha256(f"{A} {B}".encode()).hexdigest())
    third = Digest("sha256:" + hashlib.sha256(f"{second} {C}".encode()).hexdigest())
    assert chain_ids([A, B, C]) == (A, second, third)
    assert chain_ids([]) == ()


def test_media_types_without_parameters():
    assert media.bare("Application/JSON; charset=utf-8") == "application/json"
