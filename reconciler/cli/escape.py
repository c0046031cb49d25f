"""Text from outside (registries, git, images, specs) made safe for a terminal and a log line."""

from __future__ import annotations

import unicodedata

# Marks that reorder what is shown (Unicode TR 9): a name must not be able to look like another one.
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str, *, keep: str = "") -> str:
    """``text`` with control characters and bidirectional marks written as escapes, but for those in ``keep``."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if character in keep or _is_safe(character) else _escape(character) for character in text)


def _is_safe(character: str) -> bool:
    return character not in _BIDI and unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp", "Co")


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
