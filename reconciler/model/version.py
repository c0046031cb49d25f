"""Tags as versions, and ranges of versions: Semantic Versioning, read as registries use it.

A tag may begin with ``v``, leave out parts (``1.4`` counts as 1.4.0), have leading zeros (``24.04``) and write build
metadata with ``_``, since ``+`` is no character of a tag. Ranges are npm's: ``>=1.4 <2``, ``^1.2``, ``~1.2.3``,
``1.x``, ``1.2 - 1.4``, ``||``; also ``!=``, and commas between comparators. Three rules are for registries, where what
reads as a prerelease is often a variant or a rebuild (``1.4.2-alpine``, ``1.4.2-r10``): a range that names a prerelease
takes all within its bounds (``>=1.4-0``), ``<2`` leaves out those of 2, and numbers within words count as numbers
(``-r9`` comes before ``-r10``).
"""

from __future__ import annotations

import re
from typing import Any

from reconciler.errors import InvalidError
from reconciler.value import dataclass

MAX_RANGE = 256

# Compares as a tuple: numbers, then 0 and the identifiers of a prerelease, or 1 for a release.
Key = tuple[Any, ...]
_LEAST = (-1, 0, ())
_FIRST: Key = (0, 0, 0, 0)
_LAST: Key = (float("inf"),)

_RUN = re.compile(r"[0-9]+", re.ASCII)
_NUMBER = r"[0-9]{1,18}"
_SUFFIX = r"(?:-(?P<pre>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:[+_][0-9A-Za-z._+-]+)?"
_VERSION = re.compile(rf"[vV]?({_NUMBER})(?:\.({_NUMBER}))?(?:\.({_NUMBER}))?{_SUFFIX}", re.ASCII)
_PART = rf"(?:{_NUMBER}|[xX*])"
_PARTIAL = rf"[vV]?{_PART}(?:\.{_PART}){{0,2}}{_SUFFIX.replace('?P<pre>', '?:')}"
_HYPHEN = re.compile(rf"\s*({_PARTIAL})\s+-\s+({_PARTIAL})\s*", re.ASCII)
_COMPARATOR = re.compile(rf"\s*(>=|<=|!=|>|<|=|\^|~)?\s*({_PARTIAL})(?:\s*,\s*(?=\S)|\s+|(?=[<>=!^~])|$)", re.ASCII)


def natural(text: str) -> tuple[tuple[str, int], ...]:
    """The text in pieces, each with the number that follows it, so that ``b9`` comes before ``b10``."""
    texts, numbers = _RUN.split(text), _RUN.findall(text)
    return tuple((piece, int(number)) for piece, number in zip(texts, [*numbers, "-1"], strict=True))


@dataclass(frozen=True, slots=True)
class Version:
    """What a tag says. ``key`` orders versions; build metadata has no part in it. ``parts`` is how many were given."""

    key: Key
    parts: int
    prerelease: bool

    @classmethod
    def parse(cls, tag: str) -> Version | None:
        """The version that the whole tag is, or None for a tag that is none."""
        match = _VERSION.fullmatch(tag)
        if match is None:
            return None
        numbers = [int(part) for part in match.group(1, 2, 3) if part is not None]
        return cls(_key(numbers, match["pre"]), len(numbers), match["pre"] is not None)


@dataclass(frozen=True, slots=True)
class _Span:
    """Every key from ``low`` up to and without ``high``."""

    low: Key = _FIRST
    high: Key = _LAST

    def __contains__(self, key: Key) -> bool:
        return self.low <= key < self.high


@dataclass(frozen=True, slots=True)
class _Alternative:
    """One side of ``||``: all of ``spans``, none of ``holes``."""

    spans: tuple[_Span, ...]
    holes: tuple[_Span, ...]
    prereleases: bool

    def spans_over(self, version: Version) -> bool:
        return all(version.key in span for span in self.spans) and all(version.key not in hole for hole in self.holes)

    def takes(self, version: Version) -> bool:
        return self.spans_over(version) and (self.prereleases or not version.prerelease)


@dataclass(frozen=True, slots=True)
class Range:
    """A set of versions."""

    alternatives: tuple[_Alternative, ...]

    @classmethod
    def parse(cls, text: str) -> Range:
        """Raises ``InvalidError`` that shows the part which is no range."""
        if len(text) > MAX_RANGE:
            raise InvalidError("the range of versions is too long", hint=f"at most {MAX_RANGE} characters")
        return cls(tuple(_alternative(part) for part in text.split("||")))

    def spans_over(self, version: Version) -> bool:
        """Whether the version is within its bounds, also a prerelease that it does not take."""
        return any(alternative.spans_over(version) for alternative in self.alternatives)

    def __contains__(self, version: Version) -> bool:
        return any(alternative.takes(version) for alternative in self.alternatives)


def _alternative(text: str) -> _Alternative:
    if match := _HYPHEN.fullmatch(text):
        comparators = [(">=", match[1]), ("<=", match[2])]
    else:
        comparators, at = [], 0
        while at < len(text) and (found := _COMPARATOR.match(text, at)):
            comparators.append((found[1] or "=", found[2]))
            at = found.end()
        if at < len(text) or not comparators:
            raise InvalidError(
                f"{text.strip()[:60]!a} is no range of versions",
                hint="write such as '>=1.4 <2', '^1.2', '~1.2.3', '1.x', or several with ||",
            )
    spans = [(operator == "!=", _span(operator, partial)) for operator, partial in comparators]
    return _Alternative(
        tuple(span for hole, span in spans if not hole),
        tuple(span for hole, span in spans if hole),
        any(_prerelease(partial) is not None for _, partial in comparators),
    )


def _span(operator: str, partial: str) -> _Span:
    numbers, pre = _numbers(partial), _prerelease(partial)
    if pre is not None:
        numbers += [0] * (3 - len(numbers))
    low = _key(numbers, pre)
    # The first version past all that a partial one stands for: that of 1.4 is 1.5.0, before its own prereleases.
    past = (*low, _LEAST) if len(numbers) == 3 else _before(_next(numbers, len(numbers)))
    if not numbers:
        return _Span() if operator not in ("<", ">") else _Span(_LAST, _FIRST)
    match operator:
        case ">=":
            return _Span(low)
        case ">":
            return _Span(past)
        case "<=":
            return _Span(high=past)
        case "<":
            return _Span(high=low if pre is not None else _before(numbers))
        case "^":
            nonzero = next((place for place, number in enumerate(numbers) if number), len(numbers) - 1)
            return _Span(low, _before(_next(numbers, nonzero + 1)))
        case "~":
            return _Span(low, _before(_next(numbers, min(2, len(numbers)))))
    return _Span(low, past)


def _numbers(partial: str) -> list[int]:
    """The numbers before the first that is left open."""
    core = re.split(r"[-+_]", partial.lstrip("vV"), maxsplit=1)[0]
    numbers: list[int] = []
    for part in core.split("."):
        if part in ("x", "X", "*"):
            break
        numbers.append(int(part))
    return numbers


def _prerelease(partial: str) -> str | None:
    before_build = re.split(r"[+_]", partial, maxsplit=1)[0]
    return before_build.partition("-")[2] or None


def _next(numbers: list[int], count: int) -> list[int]:
    """The first ``count`` numbers, the last of them one higher."""
    return [*numbers[: count - 1], numbers[count - 1] + 1] if count else []


def _before(numbers: list[int]) -> Key:
    """Below every prerelease of a version."""
    return (*_padded(numbers), 0) if numbers else _LAST


def _key(numbers: list[int], pre: str | None) -> Key:
    if pre is None:
        return (*_padded(numbers), 1)
    return (*_padded(numbers), 0, *(_identifier(part) for part in pre.split(".")))


def _identifier(text: str) -> tuple[int, int, tuple[tuple[str, int], ...]]:
    """Numbers come before words, and compare as numbers; so do those within words."""
    return (0, int(text), ()) if text.isdigit() else (1, 0, natural(text))


def _padded(numbers: list[int]) -> tuple[int, ...]:
    return (*numbers, 0, 0, 0)[:3]
