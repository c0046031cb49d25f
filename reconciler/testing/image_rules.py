"""The rules for manifests, indexes and image configs read a second time: slowly, one after the other, and with nothing
of the code that they are there to check. For comparison in tests.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."
IMAGES = (f"{OCI}manifest.v1+json", f"{DOCKER}distribution.manifest.v2+json")
INDEXES = (f"{OCI}index.v1+json", f"{DOCKER}distribution.manifest.list.v2+json")
SCHEMA_1 = (f"{DOCKER}distribution.manifest.v1+json", f"{DOCKER}distribution.manifest.v1+prettyjws")

_TOP = "schemaVersion mediaType config layers manifests annotations subject artifactType".split()
_DESCRIPTOR = "mediaType digest size platform annotations artifactType data urls".split()
_CONFIG = "created author architecture os variant config rootfs history".split()


class Refused(Exception):
    """The document breaks a rule."""


class Pairs(list[tuple[str, Any]]):
    """An object as it was written: names may be there twice."""

    def get(self, name: str) -> Any:
        """The value under a name, None when there is none."""
        return next((value for key, value in self if key == name), None)

    def names(self) -> list[str]:
        return [key for key, _ in self]


def manifest_facts(data: bytes, header: str = "") -> dict[str, Any]:
    """What a manifest or an index says: its kind and the descriptors in it. Raises ``Refused``."""
    document = _object(_read(data, 4 << 20))
    _no_lookalikes(document, _TOP)
    served = header.split(";")[0].strip().lower()
    is_specific = served.startswith(("application/vnd.", "image/", "audio/", "video/"))
    version = document.get("schemaVersion")
    _rule(served not in SCHEMA_1 and "fsLayers" not in document.names(), "schema 1")
    _rule(version is None or (type(version) is int and version == 2), "schemaVersion")
    _rule(not is_specific or served in IMAGES + INDEXES, "served as something else")
    own = _text(document, "mediaType")
    _rule(own == "" or own in IMAGES + INDEXES, "mediaType")
    _rule(own == "" or not is_specific or own == served, "mediaType and header differ")
    kind = own or (served if is_specific else "")
    if kind == "":
        kind = INDEXES[0] if "manifests" in document.names() else IMAGES[0]
    _texts_by_name(document, "annotations")
    _text(document, "artifactType")
    if document.get("subject") is not None:
        _descriptor(document.get("subject"))
    if kind in INDEXES:
        _rule("layers" not in document.names() and "config" not in document.names(), "an index with layers")
        entries = document.get("manifests")
        _rule(isinstance(entries, list) and not isinstance(entries, Pairs), "manifests")
        return {"kind": kind, "manifests": [_descriptor(entry) for entry in entries]}
    _rule("manifests" not in document.names(), "an image with manifests")
    layers = document.get("layers")
    _rule(isinstance(layers, list) and not isinstance(layers, Pairs), "layers")
    found = [_descriptor(layer) for layer in layers]
    return {"kind": kind, "config": _descriptor(document.get("config")), "layers": found}


def config_facts(data: bytes) -> dict[str, Any]:
    """What an image config says of platform and layers. Raises ``Refused``."""
    document = _object(_read(data, 8 << 20))
    _no_lookalikes(document, _CONFIG)
    for name in ("created", "author"):
        _text(document, name)
    platform = _platform(document, default_os="linux")
    rootfs = _object(document.get("rootfs"))
    _no_lookalikes(rootfs, ["type", "diff_ids"])
    _rule(rootfs.get("type") == "layers", "rootfs.type")
    diff_ids = _texts(rootfs, "diff_ids")
    _rule(all(_is_digest(text) for text in diff_ids), "diff_ids")
    inner = document.get("config")
    if inner is not None:
        for name in ("User", "WorkingDir", "StopSignal"):
            _text(_object(inner), name)
        for name in ("Entrypoint", "Cmd"):
            if not isinstance(inner.get(name), str):
                _texts(inner, name)
        _texts(inner, "Env")
        _texts_by_name(inner, "Labels")
        for name in ("Volumes", "ExposedPorts"):
            _rule(inner.get(name) is None or isinstance(inner.get(name), Pairs), name)
    history = document.get("history")
    _rule(history is None or (isinstance(history, list) and not isinstance(history, Pairs)), "history")
    for step in history or []:
        for name in ("created", "created_by", "author", "comment"):
            _text(_object(step), name)
    return {"platform": platform, "diff_ids": diff_ids}


def chosen(facts: dict[str, Any], host: str) -> int | None:
    """Which entry of an index an amd64 or arm/v7 host takes, by its place; None when there is none."""
    order = {
        "linux/amd64": ["linux/amd64", "linux/386"],
        "linux/arm": ["linux/arm", "linux/arm/v6", "linux/arm/v5"],
    }[host]
    candidates = [
        (place, entry)
        for place, entry in enumerate(facts["manifests"])
        if entry["type"] in IMAGES
        and not entry["artifact"]
        and "vnd.docker.reference.type" not in entry["annotations"]
        and "unknown" not in (entry["platform"] or "").split("/")
    ]
    for wanted in order:
        for place, entry in candidates:
            if entry["platform"] == wanted and not entry["features"]:
                return place
    if len(candidates) == 1 and candidates[0][1]["platform"] is None:
        return candidates[0][0]
    return None


def _descriptor(value: Any) -> dict[str, Any]:
    found = _object(value)
    _no_lookalikes(found, _DESCRIPTOR)
    size = found.get("size")
    _rule(isinstance(found.get("mediaType"), str) and found.get("mediaType") != "", "mediaType")
    _rule(isinstance(found.get("digest"), str) and _is_digest(found.get("digest")), "digest")
    _rule(type(size) is int and 0 <= size < 2**63, "size")
    platform = found.get("platform")
    features: list[str] = []
    if platform is not None:
        _text(_object(platform), "os.version")
        features = _texts(platform, "os.features")
    return {
        "type": found.get("mediaType"),
        "digest": found.get("digest"),
        "size": size,
        "platform": None if platform is None else _platform(platform),
        "features": features,
        "annotations": _texts_by_name(found, "annotations"),
        "artifact": _text(found, "artifactType"),
        "data": _embedded(_text(found, "data"), found.get("digest"), size),
    }


def _embedded(text: str, digest: str, size: int) -> bytes | None:
    if not re.fullmatch(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?", text) or text == "":
        return None
    data = base64.b64decode(text)
    return data if len(data) == size and f"sha256:{hashlib.sha256(data).hexdigest()}" == digest else None


def _platform(value: Pairs, default_os: str = "") -> str:
    system, machine, variant = (_text(value, name) for name in ("os", "architecture", "variant"))
    for part in (system, machine, variant):
        _rule(len(part) <= 64 and all(c.isascii() and (c.isalnum() or c in "_.-") for c in part), "platform")
    _texts(value, "os.features")
    system, machine, variant = (system or default_os or "unknown").lower(), machine.lower(), variant.lower()
    other = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386", "i686": "386"}
    own = {"armhf": "v7", "armv7l": "v7", "armel": "v6", "armv6l": "v6", "armv8l": "v8"}
    if machine in own:
        machine, variant = "arm", own[machine]
    machine = other.get(machine, machine) or "unknown"
    if machine in ("arm", "arm64", "amd64") and variant.isdigit():
        variant = "v" + variant
    if machine == "386" or (machine, variant) in (("amd64", "v1"), ("arm64", "v8"), ("arm", "v7")):
        variant = ""
    return "/".join(part for part in (system, machine, variant) if part)


def _read(data: bytes, limit: int) -> Any:
    _rule(len(data) <= limit, "size")
    try:
        text = data.decode("utf-8", "strict")
        value = json.loads(text, object_pairs_hook=Pairs)
    except (ValueError, RecursionError):
        raise Refused("not JSON in UTF-8") from None
    for depth, item in _walk(value):
        _rule(depth <= 64 or not isinstance(item, list), "depth")
        if isinstance(item, Pairs):
            _rule(len(item.names()) == len(set(item.names())), "a name twice")
        if isinstance(item, float):
            _rule(item - item == 0, "a number that is none")
        for text in [item] if isinstance(item, str) else item.names() if isinstance(item, Pairs) else []:
            _rule(not any(0xD800 <= ord(c) < 0xE000 for c in text), "half a character")
    return value


def _walk(value: Any) -> Iterator[tuple[int, Any]]:
    pending = [(1, value)]
    while pending:
        depth, item = pending.pop()
        yield depth, item
        if isinstance(item, Pairs):
            pending += [(depth + 1, child) for _, child in item]
        elif isinstance(item, list):
            pending += [(depth + 1, child) for child in item]


def _no_lookalikes(document: Pairs, known: list[str]) -> None:
    for name in document.names():
        for other in known:
            _rule(name == other or name.casefold() != other.casefold(), f"{name!a} looks like {other}")


def _is_digest(text: str) -> bool:
    return len(text) == 71 and text.startswith("sha256:") and all(c in "0123456789abcdef" for c in text[7:])


def _object(value: Any) -> Pairs:
    _rule(isinstance(value, Pairs), "not an object")
    found: Pairs = value
    return found


def _text(document: Pairs, name: str) -> str:
    value = document.get(name)
    _rule(value is None or isinstance(value, str), name)
    return value or ""


def _texts(document: Pairs, name: str) -> list[str]:
    value = document.get(name)
    _rule(value is None or (isinstance(value, list) and not isinstance(value, Pairs)), name)
    _rule(all(isinstance(item, str) for item in value or []), name)
    return list(value or [])


def _texts_by_name(document: Pairs, name: str) -> dict[str, str]:
    value = document.get(name)
    if value is None:
        return {}
    pairs = _object(value)
    _rule(all(item is None or isinstance(item, str) for _, item in pairs), name)
    return {key: item or "" for key, item in pairs}


def _rule(holds: bool, name: str) -> None:
    if not holds:
        raise Refused(name)
