"""Manifests and indexes (OCI image-spec, manifest.md and image-index.md; Docker manifest v2 schema 2).

The bytes are what counts: a manifest is stored and pushed exactly as it came, and these values only read it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import field
from typing import Any

from reconciler.errors import InvalidError
from reconciler.oci import media
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.document import check_keys, labels_field, read_object, text_field
from reconciler.oci.platform import Platform
from reconciler.oci.sizes import MAX_MANIFEST_BYTES as MAX_MANIFEST_BYTES
from reconciler.value import dataclass

_KEYS = frozenset(
    {"schemaVersion", "mediaType", "config", "layers", "manifests", "annotations", "subject", "artifactType"}
)
# buildkit files the provenance of an image beside it in the index.
_REFERENCE_TYPE = "vnd.docker.reference.type"


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image for one platform: its config and its layers, lowest first."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict, compare=False, hash=False)
    artifact_type: str = ""

    @property
    def is_image(self) -> bool:
        """Whether it can be run: an artifact (a chart, a signature) has another config type, or says what it is."""
        return self.config.media_type in media.CONFIGS and not self.artifact_type

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

        Attestations, artifacts and nested indexes are never chosen. An entry without a platform is taken only when it
        is the sole candidate; the config must then be checked by the caller, who reads it.
        """
        candidates = [entry for entry in self.manifests if _is_runnable(entry)]
        for wanted in platform.compatible():
            for entry in candidates:  # the first listed among equals, as the specification asks
                if entry.platform == wanted and entry.platform is not None and not entry.platform.features:
                    return entry
        if len(candidates) == 1 and candidates[0].platform is None:
            return candidates[0]
        available = ", ".join(sorted({str(entry.platform) for entry in candidates if entry.platform})) or "none"
        raise InvalidError(
            f"no image for platform {platform}; available: {available}",
            hint="ask for one that is available: `platform:` in a spec, --platform by hand",
        )

    def platform_of(self, digest: Digest) -> Platform | None:
        """What the index says of the image with this manifest; None when it says nothing."""
        return next((entry.platform for entry in self.manifests if entry.digest == digest), None)


def parse_manifest(data: bytes, content_type: str = "") -> Manifest | Index:
    """Reads a manifest or an index; the body's own ``mediaType`` must agree with a specific ``content_type``.

    Raises ``InvalidError`` for anything else: too large, not JSON, schema 1, both ``layers`` and ``manifests``
    (CVE-2021-41190), a missing field, a document that readers differ on (``oci.document``).
    """
    document = read_object(data, "manifest", MAX_MANIFEST_BYTES)
    check_keys(document, _KEYS, "manifest")
    header = media.bare(content_type)
    _check_schema(document, header)
    media_type = _media_type(document, header)
    annotations = labels_field(document, "annotations", "manifest")
    if document.get("subject") is not None:
        Descriptor.from_json(document["subject"], "subject")
    artifact_type = text_field(document, "artifactType", "manifest")
    if media_type in media.INDEXES:
        return Index(media_type, _descriptors(document, "manifests"))
    config = Descriptor.from_json(document.get("config"), "config")
    return Manifest(media_type, config, _descriptors(document, "layers"), annotations, artifact_type)


def _check_schema(document: dict[str, Any], header: str) -> None:
    version = document.get("schemaVersion")
    if header in media.SCHEMA1 or "fsLayers" in document or (version == 1 and version is not True):
        raise InvalidError("Docker schema 1 manifests are unsupported", hint="rebuild the image, or push it anew")
    if version is not None and (version != 2 or not isinstance(version, int)):
        raise InvalidError("manifest has an unknown schemaVersion")
    if "manifests" in document and ("layers" in document or "config" in document):
        raise InvalidError("manifest has what belongs to an image and what belongs to an index")


def _media_type(document: dict[str, Any], header: str) -> str:
    """What the document is: its own word, else that of the header, else what its fields look like."""
    body = text_field(document, "mediaType", "manifest")
    known = media.MANIFESTS | media.INDEXES
    if body and body not in known:
        raise InvalidError(f"unsupported manifest media type {body[:100]!a}")
    if header not in known and not media.is_generic(header):
        raise InvalidError(f"a manifest was served as {header[:100]!a}")
    if body and header in known and body != header:
        raise InvalidError(f"manifest says {body} but was served as {header}")
    media_type = body or (header if header in known else "")
    media_type = media_type or (media.OCI_INDEX if "manifests" in document else media.OCI_MANIFEST)
    wanted = "manifests" if media_type in media.INDEXES else "config"
    if wanted not in document:
        raise InvalidError(f"{media_type} has no {wanted!r}")
    return media_type


def _descriptors(document: dict[str, Any], key: str) -> tuple[Descriptor, ...]:
    value = document.get(key)
    if not isinstance(value, list):
        raise InvalidError(f"manifest field {key!r} is not a list")
    return tuple(Descriptor.from_json(entry, f"{key}[{at}]") for at, entry in enumerate(value))


def is_attestation(entry: Descriptor) -> bool:
    """Whether an entry of an index tells of another one: such have no platform that exists."""
    return _REFERENCE_TYPE in entry.annotations or (entry.platform is not None and not entry.platform.is_known)


def _is_runnable(entry: Descriptor) -> bool:
    return not entry.artifact_type and not is_attestation(entry) and entry.media_type in media.MANIFESTS
