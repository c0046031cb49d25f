"""Manifests, indexes and configs with anything done to them: a valid value or a typed error, as a second reading of the
rules says too. ``--hypothesis-profile=long`` tries six times as many.
"""

from __future__ import annotations

import base64
import copy
import json
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.errors import InvalidError
from reconciler.oci import media
from reconciler.oci.config import ImageConfig, encode_config
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.manifest import Index, Manifest, parse_manifest
from reconciler.oci.platform import Platform
from reconciler.testing import image_rules
from reconciler.testing.image_rules import Refused

HELLO, WORLD = (base64.b64encode(text).decode() for text in (b"hello", b"world"))
DIGESTS = [Digest.of(text) for text in (b"hello", b"a", b"")]
SLOW = 2.0
"""Seconds that one document may take on the slowest machine."""


def _descriptor(media_type: str, **fields: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": DIGESTS[0], "size": 5, **fields}


def _platform(os_: str, architecture: str, **fields: Any) -> dict[str, Any]:
    return {"os": os_, "architecture": architecture, **fields}


IMAGE = {
    "schemaVersion": 2,
    "mediaType": media.OCI_MANIFEST,
    "config": _descriptor(media.OCI_CONFIG, data=HELLO),
    "layers": [_descriptor(media.OCI_LAYER_GZIP, data=WORLD), _descriptor("x", annotations={"a": "b"}, data=HELLO)],
    "annotations": {"x": "y"},
}
DOCKER = {**IMAGE, "mediaType": media.DOCKER_MANIFEST, "config": _descriptor(media.DOCKER_CONFIG)}
BARE = {"config": _descriptor(media.OCI_CONFIG), "layers": []}
INDEX = {
    "schemaVersion": 2,
    "mediaType": media.OCI_INDEX,
    "manifests": [
        _descriptor(media.OCI_MANIFEST, platform=_platform("linux", "amd64")),
        _descriptor(media.OCI_MANIFEST, digest=DIGESTS[1], platform=_platform("linux", "arm", variant="v6")),
        _descriptor(media.OCI_MANIFEST, digest=DIGESTS[2], platform=_platform("unknown", "unknown")),
    ],
}
FEATURES = {
    "manifests": [
        _descriptor(media.OCI_MANIFEST, platform={**_platform("linux", "arm"), "os.features": ["win32k"]}),
        _descriptor(media.OCI_MANIFEST, platform=_platform("linux", "arm", variant="v6")),
    ],
}
ALONE = {"schemaVersion": 2, "manifests": [_descriptor(media.DOCKER_MANIFEST)]}
CONFIG = {
    "created": "2026-01-01T00:00:00Z",
    "os": "linux",
    "architecture": "amd64",
    "config": {"Env": ["A=b"], "Cmd": ["sh"], "Labels": {"a": "b"}, "Volumes": {"/v": {}}, "User": "root"},
    "rootfs": {"type": "layers", "diff_ids": [DIGESTS[0], DIGESTS[1]]},
    "history": [{"created_by": "x", "empty_layer": True}, {"comment": "y"}],
}

NAMES = sorted(
    {
        *image_rules._TOP,
        *image_rules._DESCRIPTOR,
        *image_rules._CONFIG,
        *"fsLayers type diff_ids Env Cmd Labels".split(),
    }
    | {"os.version", "os.features", "Layers", "MANIFESTS", "layerſ", "Config", "x", "", "vnd.docker.reference.type"}
)
TYPES = sorted({*media.MANIFESTS, *media.INDEXES, *media.SCHEMA1, *media.CONFIGS, "text/plain", "application/json", ""})
HEADERS = [*TYPES, media.OCI_MANIFEST + "; charset=utf-8", "image/png", "Application/JSON"]
VALUES = st.one_of(
    st.sampled_from(
        [None, True, False, 0, 1, 2, 5, -1, 2**63, 2.0, 1e308, float("inf"), float("nan"), 10**400, [], {}, [None], [1]]
    ),
    st.sampled_from(
        [{"a": None}, {"a": 1}, ["win32k"], [DIGESTS[2]], _platform("linux", "386"), _platform("", "x86_64")]
    ),
    st.sampled_from("v8 v6 8 linux LINUX arm amd64 386 unknown armhf armv8l li/nux layers sha512:x".split()),
    st.sampled_from(["\ud800", "\U0001f600", HELLO, HELLO + "=", "a" * 65, DIGESTS[1], "sha256:../../etc/x"]),
    st.sampled_from(TYPES),
    st.text(max_size=5),
    st.integers(),
)


@st.composite
def mutated(draw: st.DrawFn, *bases: dict[str, Any]) -> bytes:
    """A document with a few things done to its values, or to its bytes."""
    document: Any = copy.deepcopy(draw(st.sampled_from(bases)))
    for _ in range(draw(st.integers(0, 4))):
        places = [item for item in _containers(document) if item or isinstance(item, dict)]
        if not places:
            break
        _change(draw, draw(st.sampled_from(places)))
    text = json.dumps(document, ensure_ascii=draw(st.booleans()))
    data = text.encode("utf-8", "surrogatepass")
    match draw(st.integers(0, 9)):
        case 0:
            at = draw(st.integers(0, len(data)))
            data = data[:at] + draw(st.binary(max_size=3)) + data[at + draw(st.integers(0, 3)) :]
        case 1:
            name, value = draw(st.sampled_from(NAMES)), draw(VALUES)
            more = f"{json.dumps(name)}: {json.dumps(value)}, ".encode()
            data = data[:1] + more + data[1:] if len(data) > 2 else data
        case 2:
            data = data.replace(b'"x"', b"[" * 70 + b"]" * 70)
        case 3:
            data = draw(st.sampled_from([data.decode("utf-8", "replace").encode("utf-16"), b"\xef\xbb\xbf" + data]))
    return data


def _containers(value: Any) -> list[Any]:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    here = [value] if isinstance(value, (dict, list)) else []
    return here + [found for child in children for found in _containers(child)]


def _change(draw: st.DrawFn, place: Any) -> None:
    if isinstance(place, dict):
        known = sorted(place)
        name = draw(st.sampled_from(known + NAMES) if known else st.sampled_from(NAMES))
        match draw(st.sampled_from(["set", "drop", "rename", "copy"])):
            case "set":
                place[name] = copy.deepcopy(draw(VALUES))
            case "drop":
                place.pop(name, None)
            case "rename" if name in place:
                place[draw(st.sampled_from([name.upper(), name.capitalize(), *NAMES]))] = place.pop(name)
            case "copy" if known:
                place[name] = copy.deepcopy(place[draw(st.sampled_from(known))])
    else:
        at = draw(st.integers(0, len(place) - 1))
        match draw(st.sampled_from(["set", "drop", "copy"])):
            case "set":
                place[at] = copy.deepcopy(draw(VALUES))
            case "drop":
                del place[at]
            case "copy":
                place.append(copy.deepcopy(place[at]))


relaxed = settings(
    deadline=None,
    max_examples=20 * settings().max_examples,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def _facts(descriptor: Descriptor) -> dict[str, Any]:
    return {
        "type": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
        "platform": str(descriptor.platform) if descriptor.platform else None,
        "features": list(descriptor.platform.features) if descriptor.platform else [],
        "annotations": dict(descriptor.annotations),
        "artifact": descriptor.artifact_type,
        "data": descriptor.data,
    }


@relaxed
@given(mutated(IMAGE, DOCKER, BARE, INDEX, FEATURES, ALONE), st.sampled_from(HEADERS))
def test_a_manifest_is_read_as_the_rules_say(data: bytes, header: str) -> None:
    began = time.monotonic()
    read: Manifest | Index | None
    try:
        read = parse_manifest(data, header)
    except InvalidError:
        read = None
    assert time.monotonic() - began < SLOW
    try:
        facts = image_rules.manifest_facts(data, header)
    except Refused as refused:
        assert read is None, f"read, though the rules refuse it: {refused}"
        return
    if isinstance(read, Index):
        assert facts == {"kind": read.media_type, "manifests": [_facts(entry) for entry in read.manifests]}
        for host in ("linux/amd64", "linux/arm"):
            _compare_choice(read, facts, host)
    else:
        assert read is not None, f"refused, though the rules allow it: {facts}"
        layers = [_facts(layer) for layer in read.layers]
        assert facts == {"kind": read.media_type, "config": _facts(read.config), "layers": layers}


def _compare_choice(index: Index, facts: dict[str, Any], host: str) -> None:
    place = image_rules.chosen(facts, host)
    try:
        entry = index.choose(Platform.parse(host))
    except InvalidError:
        assert place is None
    else:
        assert place is not None
        assert entry is index.manifests[place]


@settings(relaxed, max_examples=8 * settings().max_examples)
@given(mutated(CONFIG))
def test_a_config_is_read_as_the_rules_say_and_written_again(data: bytes) -> None:
    began = time.monotonic()
    try:
        read = ImageConfig.parse(data)
    except InvalidError:
        read = None
    assert time.monotonic() - began < SLOW
    try:
        facts = image_rules.config_facts(data)
    except Refused as refused:
        assert read is None, f"read, though the rules refuse it: {refused}"
        return
    assert read is not None, f"refused, though the rules allow it: {facts}"
    assert facts == {"platform": str(read.platform), "diff_ids": list(read.diff_ids)}
    assert Platform.parse(str(read.platform)) == read.platform
    again = ImageConfig.parse(encode_config(read.raw))
    assert again == read


@pytest.mark.parametrize("depth", [63, 64, 65, 900, 1_000_000])
def test_depth_is_bounded_whatever_it_is(depth: int) -> None:
    data = json.dumps({**BARE, "x": 0}).replace('"x": 0', '"x": ' + "[" * depth + "]" * depth).encode()
    try:
        image_rules.manifest_facts(data)
    except Refused:
        with pytest.raises(InvalidError):
            parse_manifest(data)
    else:
        parse_manifest(data)
