"""Descriptors (OCI image-spec, descriptor.md)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import field
from typing import Any

from reconciler.errors import InvalidError
from reconciler.oci.digest import Digest
from reconciler.oci.document import check_keys, labels_field, text_field, texts_field
from reconciler.oci.platform import Platform
from reconciler.value import dataclass

_MAX_SIZE = 2**63 - 1
_KEYS = frozenset({"mediaType", "digest", "size", "platform", "annotations", "artifactType", "data", "urls"})


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Points at content: its media type, digest and size in bytes.

    ``platform`` is None when the document gives none. ``data`` is the content itself where the descriptor carries it
    and it is what size and digest say, else None. ``annotations`` is read-only by convention; none of these takes part
    in equality or hashing: two descriptors are the same when they point at the same bytes as the same type.
    """

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = field(default=None, compare=False)
    annotations: Mapping[str, str] = field(default_factory=dict, compare=False, hash=False)
    artifact_type: str = field(default="", compare=False)
    data: bytes | None = field(default=None, compare=False, repr=False)

    @classmethod
    def from_json(cls, value: Any, where: str) -> Descriptor:
        """Reads one descriptor; ``where`` names it in errors. Raises ``InvalidError``."""
        if not isinstance(value, dict):
            raise InvalidError(f"{where} is not an object")
        check_keys(value, _KEYS, where)
        media_type, digest, size = value.get("mediaType"), value.get("digest"), value.get("size")
        if not isinstance(media_type, str) or not media_type:
            raise InvalidError(f"{where} has no mediaType")
        if not isinstance(digest, str):
            raise InvalidError(f"{where} has no digest")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _MAX_SIZE:
            raise InvalidError(f"{where} has no valid size")
        checked = Digest(digest)
        return cls(
            media_type=media_type,
            digest=checked,
            size=size,
            platform=_platform(value.get("platform"), where),
            annotations=labels_field(value, "annotations", where),
            artifact_type=text_field(value, "artifactType", where),
            data=_embedded(text_field(value, "data", where), checked, size),
        )

    def to_json(self) -> dict[str, Any]:
        """The fields every descriptor must have."""
        return {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}


def _embedded(text: str, digest: Digest, size: int) -> bytes | None:
    # An empty blob looks like no `data` at all; whoever needs it fetches it.
    if not text or len(text) != 4 * ((size + 2) // 3):
        return None
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if len(data) == size and Digest.of(data) == digest else None


def _platform(value: Any, where: str) -> Platform | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise InvalidError(f"{where} has a platform that is not an object")
    within = f"the platform of {where}"
    text_field(value, "os.version", within)
    os_, architecture, variant = (text_field(value, key, within) for key in ("os", "architecture", "variant"))
    features = texts_field(value, "os.features", within)
    try:
        return Platform.normal(os_, architecture, variant, features)
    except InvalidError as error:
        raise InvalidError(f"{where} has a {error.reason}") from None
