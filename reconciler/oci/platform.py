"""Platforms (OCI image-spec, image-index.md, "platform"; names are Go's GOOS and GOARCH)."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from reconciler.errors import InvalidError

_PART = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
_ALIASES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i386": ("386", ""),
    "i686": ("386", ""),
}
# The variant that each architecture means when none is written.
_DEFAULT_VARIANT = {"arm64": "v8", "amd64": "v1", "arm": "v7"}


@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system, an architecture and a variant (``""`` when none is given), in normal form."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Reads ``os/arch[/variant]``. Raises ``InvalidError``."""
        parts = text.split("/")
        if not 2 <= len(parts) <= 3 or any(_PART.fullmatch(part) is None for part in parts):
            raise InvalidError(f"malformed platform {ascii(text[:100])}", hint="write os/arch, such as linux/amd64")
        return cls.normal(*parts)

    @classmethod
    def normal(cls, os_: str, architecture: str, variant: str = "") -> Platform:
        """Folds aliases (``x86_64``) and default variants (``arm64/v8``) away."""
        architecture, implied = _ALIASES.get(architecture.lower(), (architecture.lower(), ""))
        variant = variant.lower() or implied
        if variant == _DEFAULT_VARIANT.get(architecture):
            variant = ""
        return cls(os_.lower(), architecture, variant)

    @classmethod
    def host(cls) -> Platform:
        """The platform this process runs on."""
        return cls.normal("linux", os.uname().machine)

    def runs(self, image: Platform) -> bool:
        """Whether an image for ``image`` runs here: same system and architecture, variant equal, or older."""
        if (self.os, self.architecture) != (image.os, image.architecture):
            return False
        if self.architecture in ("arm", "amd64"):
            return image.full_variant <= self.full_variant
        return self.variant == image.variant

    @property
    def full_variant(self) -> str:
        """The variant, or the one that the architecture means when none is written: ``v7`` for arm."""
        return self.variant or _DEFAULT_VARIANT.get(self.architecture, "")

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)
