"""Text from outside (registries, git, images, specs) made safe for a terminal and a log line."""

from __future__ import annotations


def printable(text: str, *, keep: str = "") -> str:
    """``text`` with whatever a terminal would obey, or a reader not see, written as an escape, but for ``keep``.

    That includes the marks that reorder what is shown (Unicode TR 9): a name must not be able to look like another.
    """
    if text.isprintable():
        return text
    return "".join(char if char in keep or char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
