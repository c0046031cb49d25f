"""Descriptors (OCI image-spec, descriptor.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reconciler.errors import InvalidError
from reconciler.oci.digest import Digest
from reconciler.oci.platform import Platform

_MAX_SIZE = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Points at content: its media type, digest and size in bytes.

    ``platform`` is None when the document gives none. ``annotations`` is read-only by convention and takes no part
    in equality or hashing: two descriptors are the same when they point at the same bytes as the same type.
    """

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = field(default=None, compare=False)
    annotations: Mapping[str, str] = field(default_factory=dict, compare=False, hash=False)
    artifact_type: str = field(default="", compare=False)

    @classmethod
    def from_json(cls, value: Any, where: str) -> Descriptor:
        """Reads one descriptor; ``where`` names it in errors. Raises ``InvalidError``."""
        if not isinstance(value, dict):
            raise InvalidError(f"{where} is not an object")
        media_type, digest, size = value.get("mediaType"), value.get("digest"), value.get("size")
        if not isinstance(media_type, str) or not media_type:
            raise InvalidError(f"{where} has no mediaType")
        if not isinstance(digest, str):
            raise InvalidError(f"{where} has no digest")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _MAX_SIZE:
            raise InvalidError(f"{where} has no valid size")
        annotations = value.get("annotations") or {}
        if not isinstance(annotations, dict):
            raise InvalidError(f"{where} has annotations that are not an object")
        return cls(
            media_type=media_type,
            digest=Digest(digest),
            size=size,
            platform=_platform(value.get("platform"), where),
            annotations={str(key): str(text) for key, text in annotations.items()},
            artifact_type=str(value.get("artifactType") or ""),
        )

    def to_json(self) -> dict[str, Any]:
        """The fields every descriptor must have."""
        return {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}


def _platform(value: Any, where: str) -> Platform | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise InvalidError(f"{where} has a platform that is not an object")
    parts = (value.get("os") or "", value.get("architecture") or "", value.get("variant") or "")
    if not all(isinstance(part, str) for part in parts):
        raise InvalidError(f"{where} has a platform with a part that is not text")
    return Platform.normal(*parts)
