"""Platforms (OCI image-spec, image-index.md, "platform"; names are Go's GOOS and GOARCH).

What runs where follows containerd (``platforms.Only``): an older variant of the same architecture runs, and last of all
the 32-bit images of a 64-bit machine.
"""

from __future__ import annotations

import os
import re
from dataclasses import field

from reconciler.errors import InvalidError
from reconciler.value import dataclass

UNKNOWN = "unknown"
_PART = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_ALIASES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv8l": ("arm", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i386": ("386", ""),
    "i686": ("386", ""),
}
# The variant that each architecture means when none is written.
_DEFAULT_VARIANT = {"arm64": "v8", "amd64": "v1", "arm": "v7"}
_VERSION = re.compile(r"v([0-9]{1,2})(?:\.([0-9]{1,2}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system, an architecture and a variant (``""`` when none is given), in normal form.

    ``features`` are what an image demands of the system (``os.features``): Linux has none, so such an image runs on
    no host of ours. They take no part in equality, nor does ``os.version``, which means something on Windows alone.
    """

    os: str
    architecture: str
    variant: str = ""
    features: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Reads ``os/arch[/variant]``. Raises ``InvalidError``."""
        parts = text.split("/")
        if not 2 <= len(parts) <= 3 or not all(parts):
            raise InvalidError(f"malformed platform {ascii(text[:100])}", hint="write os/arch, such as linux/amd64")
        return cls.normal(parts[0], parts[1], "".join(parts[2:]))

    @classmethod
    def normal(cls, os_: str, architecture: str, variant: str = "", features: tuple[str, ...] = ()) -> Platform:
        """Folds aliases (``x86_64``) and default variants (``arm64/v8``) away; a part that is missing is ``unknown``.

        Raises ``InvalidError`` for a part that is not of letters, digits and ``_.-``.
        """
        for part in (os_, architecture, variant):
            if part and _PART.fullmatch(part) is None:
                raise InvalidError(f"malformed platform part {part[:100]!a}", hint="a platform is os/arch[/variant]")
        architecture, implied = _ALIASES.get(architecture.lower(), (architecture.lower(), ""))
        variant = implied or variant.lower()
        if architecture in ("arm", "arm64", "amd64") and variant.isdecimal():
            variant = f"v{variant}"
        if variant == _DEFAULT_VARIANT.get(architecture) or architecture == "386":
            variant = ""
        return cls(os_.lower() or UNKNOWN, architecture or UNKNOWN, variant, features)

    @classmethod
    def host(cls) -> Platform:
        """The platform this process runs on."""
        return cls.normal("linux", os.uname().machine)

    @property
    def is_known(self) -> bool:
        """Whether it names a machine: attestations are filed under ``unknown/unknown``."""
        return UNKNOWN not in (self.os, self.architecture)

    def compatible(self) -> tuple[Platform, ...]:
        """The platforms whose images run here, best first: this one, older variants, 32 bits."""
        variants = [self.variant]
        version = _VERSION.fullmatch(self.variant or _DEFAULT_VARIANT.get(self.architecture, ""))
        if version is not None:
            major, minor = int(version[1]), int(version[2] or 0)
            if self.architecture == "amd64":
                variants = [f"v{number}" for number in range(major, 0, -1)]
            elif self.architecture == "arm":
                variants = [f"v{number}" for number in range(major, min(major, 5) - 1, -1)]
            elif self.architecture == "arm64":
                variants = _arm64_variants(major, minor)
        same = [Platform.normal(self.os, self.architecture, variant) for variant in variants]
        if self.architecture == "amd64":
            same.append(Platform(self.os, "386"))
        if self.architecture == "arm64":
            same += Platform.normal(self.os, "arm", "v8").compatible()
        return tuple(same)

    def runs(self, image: Platform) -> bool:
        """Whether an image for ``image`` runs here."""
        return not image.features and image in self.compatible()

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def _arm64_variants(major: int, minor: int) -> list[str]:
    """Newest first. Armv9.N is a superset of Armv8.(N+5)."""
    found = []
    if major == 9:
        found = [f"v9.{number}" if number else "v9" for number in range(minor, -1, -1)]
        major, minor = 8, minor + 5
    return found + [f"v{major}.{number}" if number else f"v{major}" for number in range(minor, -1, -1)]
