"""Tags that are about another manifest by their name: how registries without a list of referrers, and cosign, keep
signatures, attestations and SBOMs beside an image."""

from __future__ import annotations

import re

from reconciler.oci.digest import Digest

_FORM = re.compile(r"sha256-([0-9a-f]{64})(?:\.[a-z0-9.]+)?", re.ASCII)


def companion_of(tag: str) -> Digest | None:
    """The digest that a tag is about: ``sha256-HEX``, the referrers tag schema of the distribution specification, and
    cosign's ``sha256-HEX.sig``, ``.att``, ``.sbom``; None for a tag like any other."""
    match = _FORM.fullmatch(tag)
    return Digest(f"sha256:{match[1]}") if match else None


def referrers_tag(digest: Digest) -> str:
    """The tag that lists what refers to ``digest``, where a registry keeps no such list itself."""
    return str(digest).replace(":", "-")
