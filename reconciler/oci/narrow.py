"""An index narrowed to some platforms: another document with another digest, and the same one for the same input."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from reconciler.errors import InvalidError
from reconciler.oci.manifest import Index, is_attestation, parse_manifest
from reconciler.oci.platform import Platform

# Under which key an attestation beside an image names the image, as buildkit writes it.
_REFERENCE_DIGEST = "vnd.docker.reference.digest"


def narrow(data: bytes, platforms: Collection[Platform], *, attestations: bool = True) -> bytes:
    """The index ``data`` with the entries for ``platforms`` alone, in their order, all else as it was.

    What is no index, and an index that has no other entries, comes back as it is. With ``attestations`` those of the
    images that stay, stay too. Raises ``InvalidError`` for an index that has none of the platforms.
    """
    index = parse_manifest(data)
    if not isinstance(index, Index):
        return data
    images = {entry.digest for entry in index.manifests if entry.platform in platforms and not is_attestation(entry)}
    if not images:
        there = ", ".join(sorted({str(e.platform) for e in index.manifests if e.platform and e.platform.is_known}))
        wanted = ", ".join(sorted(map(str, platforms)))
        raise InvalidError(f"it is for {there or 'no platform'}, not for {wanted}", hint="change `platforms`")
    kept = [
        entry.digest in images or (attestations and entry.annotations.get(_REFERENCE_DIGEST) in images)
        for entry in index.manifests
    ]
    if all(kept):
        return data
    document: dict[str, Any] = json.loads(data)
    document["manifests"] = [entry for entry, stays in zip(document["manifests"], kept, strict=True) if stays]
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
