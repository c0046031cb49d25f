"""``Link`` headers: where the next page of a list is (RFC 8288)."""

from __future__ import annotations

import re
from collections.abc import Iterable

_MAX_HEADER = 8 * 1024
_PARAMETER = r"[ \t]?;[ \t]?[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:=(?:\"[^\"]*\"|[^\s\";,]+))?"
_LINK = re.compile(rf"[\s,]*<(?P<target>[^<>]*)>(?P<parameters>(?:{_PARAMETER})*)", re.ASCII)
_RELATION = re.compile(r";[ \t]?rel=(?:\"([^\"]*)\"|([^\s\";,]+))", re.ASCII | re.IGNORECASE)


def next_page(headers: Iterable[str]) -> str | None:
    """The target of the first link whose relation is ``next``, as it stands; None when there is none."""
    for header in headers:
        position, text = 0, header[:_MAX_HEADER]
        while (match := _LINK.match(text, position)) is not None:
            position = match.end()
            relation = _RELATION.search(match["parameters"])
            if relation is not None and "next" in (relation[1] or relation[2] or "").lower().split():
                return match["target"]
    return None
