"""Which tags of a repository a spec means: by name, pattern, range of versions, age, and how many."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Any

from reconciler.errors import InvalidError
from reconciler.model.version import Range, Version, natural
from reconciler.value import dataclass

MAX_PATTERN = 256
_PATTERN_MEMORY = 1 << 20


@dataclass(frozen=True, slots=True)
class TagSelection:
    """What a tag must be to be chosen; what is empty or None asks for nothing.

    It is one of ``names`` or matches one of ``allow`` as a whole, and matches none of ``deny``. It is a version in
    ``semver``. This root has known it, with the digest it has now, for ``min_age`` seconds. Of all these the
    ``newest`` are chosen. Patterns are regular expressions in RE2's syntax (Go's): linear in time, whatever they are.
    """

    names: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    semver: str = ""
    newest: int | None = None
    min_age: float | None = None

    def __str__(self) -> str:
        """What is asked for but the age, in a few words: ``bookworm.* in >=12``."""
        words = [" or ".join((*self.names, *self.allow))] if self.names or self.allow else []
        words += [f"but {' or '.join(self.deny)}"] if self.deny else []
        words += [f"in {self.semver}"] if self.semver else []
        return " ".join(words) or "of all tags"


@dataclass(frozen=True, slots=True)
class Selected:
    """``chosen`` from the newest to the oldest; for each tag passed over, also newest first, ``why`` as a clause:
    "is not in >=1.4 <2". ``young`` are those that only lack age, with the seconds they have: next in turn.
    ``prereleases`` are those in the range that are left out as such. ``by_name`` when they are no versions."""

    chosen: tuple[str, ...] = ()
    why: Mapping[str, str] = field(default_factory=dict)
    young: Mapping[str, float] = field(default_factory=dict)
    prereleases: tuple[str, ...] = ()
    by_name: bool = False


def check_pattern(text: str) -> None:
    """Raises ``InvalidError`` when the text is no pattern."""
    _compiled(text)


def select(tags: Iterable[str], selection: TagSelection, first_seen: Mapping[str, float], now: float) -> Selected:
    """Chooses among ``tags``, whose order does not matter.

    ``first_seen`` tells when this root first saw a tag with the digest that it has now, in seconds since the epoch as
    ``now`` is; a tag that it does not hold is seen now. The newest is the highest version where ``semver`` is given or
    all tags that the patterns leave are versions, and of equal ones (1.4, v1.4.0) the one with more parts; else it is
    the last by name, numbers within names compared as numbers. Raises ``InvalidError`` for what is no pattern or range.
    """
    wanted = Range.parse(selection.semver) if selection.semver else None
    listed = set(tags)
    versions = {tag: Version.parse(tag) for tag in listed}
    why = {tag: reason for tag in listed if (reason := _unnamed(tag, selection))}
    by_version = wanted is not None or all(versions[tag] for tag in listed - why.keys())
    prereleases = set()
    if wanted is not None:
        named = [(tag, versions[tag]) for tag in listed - why.keys()]
        prereleases = {
            tag for tag, version in named if version and version not in wanted and wanted.spans_over(version)
        }
        why |= {tag: reason for tag, version in named if (reason := _outside(version, wanted, selection))}
        why |= dict.fromkeys(prereleases, f"is a prerelease, which {selection.semver} does not name")
    left = _ordered(listed - why.keys(), versions, by_version)
    ages = {tag: max(0.0, now - first_seen.get(tag, now)) for tag in left}
    young = {tag: ages[tag] for tag in left if selection.min_age is not None and ages[tag] < selection.min_age}
    for tag, age in young.items():
        why[tag] = f"is {'new' if age < 1 else span(age) + ' old'}, wants {span(selection.min_age or 0)}"
    old = [tag for tag in left if tag not in young]
    count = len(old) if selection.newest is None else selection.newest
    why |= dict.fromkeys(old[count:], f"is older than the newest {count}")
    passed_over = {tag: why[tag] for tag in _ordered(why.keys(), versions, by_version)}
    early = tuple(tag for tag in passed_over if tag in prereleases)
    return Selected(tuple(old[:count]), passed_over, young, early, by_name=not by_version)


def span(seconds: float) -> str:
    """A length of time in its two largest units, as specs write it: ``2d 3h``, ``40s``."""
    left = int(seconds)
    counts: list[tuple[int, str]] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or counts:
            counts.append((count, unit))
    return " ".join(f"{count}{unit}" for count, unit in counts[:2] if count) or "0s"


def _unnamed(tag: str, selection: TagSelection) -> str:
    asked = selection.names or selection.allow
    if asked and tag not in selection.names and not any(_compiled(text).fullmatch(tag) for text in selection.allow):
        return f"is not {' or '.join((*selection.names, *selection.allow))}"
    denied = next((text for text in selection.deny if _compiled(text).fullmatch(tag)), None)
    return "" if denied is None else f"is denied by {denied}"


def _outside(version: Version | None, wanted: Range, selection: TagSelection) -> str:
    if version is None:
        return "is no version"
    return "" if version in wanted else f"is not in {selection.semver}"


def _ordered(tags: Iterable[str], versions: Mapping[str, Version | None], by_version: bool) -> list[str]:
    """Newest first. What is no version comes after all versions, by name."""

    def rank(tag: str) -> tuple[Any, ...]:
        version = versions[tag] if by_version else None
        return (*((1, version.key, version.parts) if version else (0, (), 0)), natural(tag), tag)

    return sorted(tags, key=rank, reverse=True)


@functools.lru_cache(maxsize=256)
def _compiled(text: str) -> Any:
    # Only who has patterns pays for its import.
    import re2

    if len(text) > MAX_PATTERN:
        raise InvalidError("the pattern is too long", hint=f"at most {MAX_PATTERN} characters")
    options = re2.Options()
    options.log_errors, options.max_mem, options.never_capture = False, _PATTERN_MEMORY, True
    try:
        return re2.compile(text, options)
    except re2.error as error:
        what = error.args[0].decode("utf-8", "replace") if isinstance(error.args[0], bytes) else str(error)
        raise InvalidError(
            f"malformed pattern {text[:80]!a}: {what[:120]}", hint="write a regular expression such as 1\\.4\\..*"
        ) from None
