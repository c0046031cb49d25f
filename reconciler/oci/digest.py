"""Digests (OCI image-spec, descriptor.md, "Digests")."""

from __future__ import annotations

import hashlib
import re

from reconciler.errors import InvalidError

_FORM = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


class Digest(str):
    """A digest whose form has been checked, such as ``sha256:<64 lower-case hex>``.

    It is a string, so it prints, compares and serialises as one; making one from any other text raises
    ``InvalidError``. Digests become paths: nothing but this class may turn outside text into one.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Digest:
        if _FORM.fullmatch(text) is None:
            raise InvalidError(_complaint(text), hint="a digest is sha256: and 64 lower-case hexadecimal digits")
        return super().__new__(cls, text)

    @classmethod
    def of(cls, data: bytes) -> Digest:
        """The sha256 digest of ``data``."""
        return cls("sha256:" + hashlib.sha256(data).hexdigest())

    @property
    def algorithm(self) -> str:
        return self.partition(":")[0]

    @property
    def hex(self) -> str:
        return self.partition(":")[2]

    @property
    def short(self) -> str:
        """The twelve hex digits that people know from listings."""
        return self.hex[:12]


def _complaint(text: str) -> str:
    algorithm, _, encoded = text.partition(":")
    shown = ascii(text if len(text) <= 100 else text[:100] + "...")
    if algorithm != "sha256":
        return f"unsupported digest algorithm in {shown}"
    if len(encoded) != 64:
        return f"digest has {len(encoded)} characters instead of 64: {shown}"
    return f"malformed digest {shown}"
