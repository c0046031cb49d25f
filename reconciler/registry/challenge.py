"""``WWW-Authenticate``: what a server wants before it answers (RFC 9110, 11.6.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from reconciler.value import dataclass

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PART = re.compile(
    rf"[\s,]*(?:(?P<name>{_TOKEN})\s*=\s*(?:\"(?P<quoted>(?:[^\"\\]|\\.)*)\"|(?P<bare>{_TOKEN}))"
    rf"|(?P<scheme>{_TOKEN})(?:[ ]+(?P<token68>[A-Za-z0-9._~+/-]+=*)(?=\s*(?:,|$)))?)",
    re.ASCII,
)
_MAX_HEADER = 16 * 1024


@dataclass(frozen=True, slots=True)
class Challenge:
    """One scheme, in lower case, with its parameters, whose names are in lower case."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """All challenges of a response, in order: several headers, or several challenges in one.

    A comma separates parameters as well as challenges, and scopes hold commas too, so this walks the grammar. What
    follows a syntax error is dropped: a challenge that cannot be read cannot be met.
    """
    found: list[Challenge] = []
    for header in headers:
        found.extend(_walk(header[:_MAX_HEADER]))
    return tuple(found)


def _walk(header: str) -> Iterator[Challenge]:
    scheme: str | None = None
    parameters: dict[str, str] = {}
    position = 0
    while (match := _PART.match(header, position)) is not None:
        position = match.end()
        if match["scheme"] is not None:
            if scheme is not None:
                yield Challenge(scheme, parameters)
            scheme, parameters = match["scheme"].lower(), {}
            continue
        quoted = match["quoted"]
        value = match["bare"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        parameters.setdefault(match["name"].lower(), value)
    if scheme is not None:
        yield Challenge(scheme, parameters)
