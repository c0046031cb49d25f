"""Tags that are about another manifest by their name: how registries without a list of referrers, and cosign, keep
signatures, attestations and SBOMs beside an image."""

from __future__ import annotations

import re

from reconciler.oci.digest import Digest

MOST_DEEP = 4
"""So many steps from an image what is attached is followed: its SBOM, that SBOM's signature, and so on."""
_FORM = re.compile(r"sha256-([0-9a-f]{64})(?:\.[a-z0-9.]+)?", re.ASCII)


def companion_of(tag: str) -> Digest | None:
    """The digest that a tag is about: ``sha256-HEX``, the referrers tag schema of the distribution specification, and
    cosign's ``sha256-HEX.sig``, ``.att``, ``.sbom``; None for a tag like any other."""
    match = _FORM.fullmatch(tag)
    return Digest(f"sha256:{match[1]}") if match else None


def referrers_tag(digest: Digest) -> str:
    """The tag that lists what refers to ``digest``, where a registry keeps no such list itself."""
    return str(digest).replace(":", "-")


def is_referrers_tag(tag: str) -> bool:
    """Whether it is such a list: several clients write it, so it is added to and never replaced."""
    about = companion_of(tag)
    return about is not None and tag == referrers_tag(about)
