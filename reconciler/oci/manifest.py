"""Manifests and indexes (OCI image-spec, manifest.md and image-index.md; Docker manifest v2 schema 2).

The bytes are what counts: a manifest is stored and pushed exactly as it came, and these values only read it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reconciler.errors import InvalidError
from reconciler.oci import media
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.platform import Platform

MAX_MANIFEST_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image for one platform: its config and its layers, lowest first."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict, compare=False, hash=False)

    @property
    def is_image(self) -> bool:
        """Whether it can be run: an artifact (a chart, a signature) has another config type."""
        return self.config.media_type in media.CONFIGS

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        return (self.config, *self.layers)

    @classmethod
    def build(cls, config: Descriptor, layers: tuple[Descriptor, ...], annotations: Mapping[str, str]) -> bytes:
        """The canonical bytes of a new OCI manifest: compact, keys in the specification's order, annotations sorted."""
        document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": media.OCI_MANIFEST,
            "config": config.to_json(),
            "layers": [layer.to_json() for layer in layers],
        }
        if annotations:
            document["annotations"] = dict(sorted(annotations.items()))
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


@dataclass(frozen=True, slots=True)
class Index:
    """Several manifests behind one name."""

    media_type: str
    manifests: tuple[Descriptor, ...]

    def choose(self, platform: Platform) -> Descriptor:
        """The entry that fits ``platform`` best. Raises ``InvalidError`` listing what there is.

        Attestations and artifacts are never chosen. An entry without a platform is taken only when it is the sole
        candidate; the config must then be checked by the caller, who reads it.
        """
        candidates = [entry for entry in self.manifests if _is_runnable(entry)]
        fitting = [entry for entry in candidates if entry.platform is not None and platform.runs(entry.platform)]
        if fitting:
            # The newest variant that still runs; the first listed among equals, as the specification asks.
            return max(fitting, key=lambda entry: entry.platform.full_variant if entry.platform else "")
        if len(candidates) == 1 and candidates[0].platform is None:
            return candidates[0]
        available = ", ".join(sorted({str(entry.platform) for entry in candidates if entry.platform})) or "none"
        raise InvalidError(
            f"no image for platform {platform}; available: {available}",
            hint="set `platform:` to one that is available",
        )


def parse_manifest(data: bytes, content_type: str = "") -> Manifest | Index:
    """Reads a manifest or an index; the body's own ``mediaType`` must agree with a specific ``content_type``.

    Raises ``InvalidError`` for anything else: too large, not JSON, schema 1, both ``layers`` and ``manifests``
    (CVE-2021-41190), a missing field.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise InvalidError(f"manifest has {len(data)} bytes, more than the {MAX_MANIFEST_BYTES} allowed")
    document = _document(data)
    header = media.bare(content_type)
    if header in media.SCHEMA1 or document.get("schemaVersion") == 1:
        raise InvalidError("Docker schema 1 manifests are unsupported", hint="rebuild or re-push the image")
    if "layers" in document and "manifests" in document:
        raise InvalidError("manifest has both layers and manifests")
    media_type = _media_type(document, header)
    if media_type in media.INDEXES:
        entries = _objects(document, "manifests")
        return Index(media_type, tuple(Descriptor.from_json(e, f"manifests[{i}]") for i, e in enumerate(entries)))
    layers = tuple(Descriptor.from_json(e, f"layers[{i}]") for i, e in enumerate(_objects(document, "layers")))
    annotations = document.get("annotations") or {}
    if not isinstance(annotations, dict):
        raise InvalidError("manifest annotations are not an object")
    return Manifest(
        media_type,
        Descriptor.from_json(document.get("config"), "config"),
        layers,
        {str(key): str(value) for key, value in annotations.items()},
    )


def _document(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidError(f"manifest is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidError("manifest is not a JSON object")
    return document


def _media_type(document: dict[str, Any], header: str) -> str:
    body = document.get("mediaType") or ""
    known = media.MANIFESTS | media.INDEXES
    if body and body not in known:
        raise InvalidError(f"unsupported manifest media type {ascii(str(body)[:100])}")
    if header in known:
        if body and body != header:
            raise InvalidError(f"manifest says {body} but was served as {header}")
        body = body or header
    media_type = str(body) or (media.OCI_INDEX if "manifests" in document else media.OCI_MANIFEST)
    wanted = "manifests" if media_type in media.INDEXES else "config"
    if wanted not in document:
        raise InvalidError(f"{media_type} has no {wanted!r}")
    return media_type


def _objects(document: dict[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    if not isinstance(value, list):
        raise InvalidError(f"manifest field {key!r} is not a list")
    return value


def _is_runnable(entry: Descriptor) -> bool:
    if entry.artifact_type or entry.media_type not in media.MANIFESTS:
        return False
    return entry.platform is None or entry.platform.os != "unknown"
