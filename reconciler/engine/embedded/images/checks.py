"""What is asked of an image before any layer of it is downloaded: that its parts fit together, and that it can be run.

An image that could never be mounted costs no download.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.errors import InvalidError
from reconciler.linux.mounts import MAX_LOWERS
from reconciler.oci import media
from reconciler.oci.digest import Digest
from reconciler.oci.manifest import Index, Manifest, parse_manifest

if TYPE_CHECKING:
    from reconciler.oci.config import ImageConfig
    from reconciler.oci.reference import Reference


def image_manifest(data: bytes, reference: Reference | None) -> Manifest:
    """The manifest of one image. Raises ``InvalidError`` for anything else, and for one of too many layers."""
    manifest = parse_manifest(data)
    what = reference.familiar if reference else str(Digest.of(data))
    if isinstance(manifest, Index) or not manifest.is_image:
        raise InvalidError(f"{what} is no image that can be run", hint="only images for one platform can be pulled")
    check_depth(len(manifest.layers), f"image {what}")
    return manifest


def check_entry(index: bytes | None, digest: Digest, config: ImageConfig) -> None:
    """Raises ``InvalidError`` when the image is for another machine than its ``index`` says."""
    parsed = parse_manifest(index) if index is not None else None
    said = parsed.platform_of(digest) if isinstance(parsed, Index) else None
    found = config.platform
    if said is not None and (said.os, said.architecture) != (found.os, found.architecture):
        raise InvalidError(
            f"the image is for {found}, not for {said} as its index says",
            hint=f"to have it all the same, pull it as @{digest}",
        )


def check_layers(manifest: Manifest, config: ImageConfig) -> None:
    """Raises ``InvalidError`` for layers that the config does not count, or that nobody here can unpack."""
    if len(manifest.layers) != len(config.diff_ids):
        raise InvalidError(
            f"the manifest has {len(manifest.layers)} layers, but the config {len(config.diff_ids)} diff IDs",
            hint="the image is broken where it was built: ask its publisher, or use another tag",
        )
    for layer in manifest.layers:
        if layer.media_type not in media.LAYERS:
            raise InvalidError(
                f"layer {layer.digest} has the unsupported type {layer.media_type[:100]!a}",
                hint="encrypted and non-tar layers cannot be unpacked",
            )


def check_depth(layers: int, what: str) -> None:
    """Raises ``InvalidError`` when ``what`` has more layers than can be mounted."""
    if layers > MAX_LOWERS:
        raise InvalidError(
            f"{what} has {layers} layers, and Linux can mount {MAX_LOWERS} on each other",
            hint="build it with fewer layers: with fewer instructions, or squashed",
        )
