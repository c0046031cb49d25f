"""Tags as versions, and ranges of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.errors import InvalidError
from reconciler.model.version import MAX_RANGE, Range, Version


def _version(text: str) -> Version:
    found = Version.parse(text)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("range_", "inside", "outside"),
    [
        (">=1.4 <2", "1.4 1.4.0 v1.4.2 1.99.99", "1 2 2.0.0 1.3.9 1.5.0-rc.1 2.0.0-rc.1"),
        (">=1.4, <2", "1.4 1.9", "2 1.3"),
        (">=1.4<2", "1.4 1.9", "2 1.3"),
        (">= 1.4   < 2", "1.4 1.9", "2 1.3"),
        ("^1.2", "1.2 1.2.3 1.9", "1.1.9 2.0 2.0.0-rc.1"),
        ("^1.2.3", "1.2.3 1.9", "1.2.2 2"),
        ("^0.2.3", "0.2.3 0.2.9", "0.3 0.2.2 1"),
        ("^0.0.3", "0.0.3", "0.0.4 0.0.2"),
        ("^0.0", "0.0.0 0.0.9", "0.1"),
        ("^0", "0 0.9.9", "1"),
        ("~1.2.3", "1.2.3 1.2.9", "1.3 1.2.2"),
        ("~1.2", "1.2.0 1.2.9", "1.3"),
        ("~1", "1.0 1.9", "2"),
        ("1.x", "1.0 1.9.9", "2 0.9"),
        ("1.2.*", "1.2.0 1.2.9", "1.3"),
        ("1.2", "1.2 1.2.9", "1.3 1.1"),
        ("=1.2.3", "1.2.3 v1.2.3 1.2.3_build.7", "1.2.4 1.2.3-rc.1"),
        ("*", "0 1 99.9", "1.0.0-rc.1"),
        (">1.4", "1.5 2", "1.4.9 1.4"),
        (">1.4.2", "1.4.3", "1.4.2"),
        ("<=1.4", "1.4.9 0", "1.5"),
        ("<1.4", "1.3.9", "1.4"),
        ("1.2 - 1.4", "1.2 1.4.9", "1.1.9 1.5"),
        ("1.2.0 - 1.4.5", "1.4.5", "1.4.6"),
        (">=1.4 !=1.5.2 <2", "1.5.1 1.5.3", "1.5.2"),
        (">=1 !=1.5", "1.4 1.6", "1.5.0 1.5.9"),
        ("^1.2 || ^3", "1.9 3.1", "2.0 4"),
        (">=1.4.0-rc.1 <2", "1.4.0-rc.1 1.4.0-rc.2 1.4.0 1.5.0-alpine", "1.4.0-beta 2.0.0-rc.1"),
        (">=1.4-0", "1.4.0-alpha 1.4 2.0.0-rc.1", "1.3"),
        ("^1 || 2.0.0-rc.1", "1.5 2.0.0-rc.1", "1.5.0-rc.1 2.0.0 2.0.0-rc.2"),
        (">=22.04", "22.04 24.04 24.04.1", "20.04"),
        ("<*", "", "0 1"),
        ("v1.2", "1.2.3 v1.2.0", "1.3"),
    ],
)
def test_a_range_holds_what_it_says(range_: str, inside: str, outside: str) -> None:
    parsed = Range.parse(range_)
    assert [tag for tag in inside.split() if _version(tag) not in parsed] == []
    assert [tag for tag in outside.split() if _version(tag) in parsed] == []


@pytest.mark.parametrize("tag", ["latest", "1.2.3.4", "1.", "1.2-", "x", "", "v", "1.2.3-a..b", "bookworm-1", "1" * 30])
def test_what_is_no_version(tag: str) -> None:
    assert Version.parse(tag) is None


@pytest.mark.parametrize(
    "text", ["", " ", "||", "1 ||", "latest", ">=", ">=a", "1.2.3.4", "1,", "=>1", "1 -", "1 - 2 - 3", "^^1", "[1,2)"]
)
def test_what_is_no_range_is_an_error_that_says_what_one_is(text: str) -> None:
    with pytest.raises(InvalidError) as caught:
        Range.parse(text)
    assert "no range" in str(caught.value)
    assert ">=1.4 <2" in caught.value.hint


def test_a_range_has_a_limit() -> None:
    with pytest.raises(InvalidError, match="too long"):
        Range.parse("1 " * MAX_RANGE)


def test_prereleases_are_ordered_as_semver_says() -> None:
    ordered = (
        "1.0.0-alpha 1.0.0-alpha.1 1.0.0-alpha.beta 1.0.0-beta 1.0.0-beta.2 1.0.0-beta.11 1.0.0-rc.1 1.0.0".split()
    )
    keys = [_version(tag).key for tag in ordered]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    "ordered",
    [
        "15.4.0-debian-11-r9 15.4.0-debian-11-r10 15.4.0-debian-12-r0 15.4.0",
        "4.0.15-ls9 4.0.15-ls10",
        "1.4-rc9 1.4-rc10 1.4",
        "2024-9-5 2024-11-20",
        "3.1-alpine3.9 3.1-alpine3.18",
    ],
)
def test_rebuilds_and_dates_are_ordered_by_their_numbers(ordered: str) -> None:
    keys = [_version(tag).key for tag in ordered.split()]
    assert keys == sorted(set(keys))


_numbers = st.integers(0, 12)
_triples = st.tuples(_numbers, _numbers, _numbers)
_suffix = st.sampled_from(["", "-rc.1", "-0", "-alpine", "-rc.10", "_7"])


def _written(triple: tuple[int, int, int], suffix: str = "") -> str:
    return ".".join(map(str, triple)) + suffix


@given(_triples, _suffix, _triples, _suffix)
def test_law_comparators_partition_what_they_may_take(
    one: tuple[int, int, int], first: str, two: tuple[int, int, int], second: str
) -> None:
    """Of <, = and > exactly one holds for a release."""
    version, bound = _version(_written(one)), _written(two, second)
    assert [version in Range.parse(f"{sign}{bound}") for sign in ("<", "=", ">")].count(True) == 1
    assert (version in Range.parse(f">={bound}")) != (version in Range.parse(f"<{bound}"))
    assert (version in Range.parse(f"<={bound}")) != (version in Range.parse(f">{bound}"))
    assert (version in Range.parse(f"!={bound}")) != (version in Range.parse(f"={bound}"))


@given(_triples, _suffix, _triples)
def test_law_caret_and_tilde_are_comparators(one: tuple[int, int, int], suffix: str, two: tuple[int, int, int]) -> None:
    version = _version(_written(one, suffix))
    major, minor, patch = two
    base = _written(two)
    upper = f"{major + 1}" if major else f"0.{minor + 1}" if minor else f"0.0.{patch + 1}"
    assert (version in Range.parse(f"^{base}")) == (version in Range.parse(f">={base} <{upper}"))
    assert (version in Range.parse(f"~{base}")) == (version in Range.parse(f">={base} <{major}.{minor + 1}"))


@given(st.text("0123456789.xX*v<>=!^~|-, rc_", max_size=24))
def test_law_any_text_is_a_range_or_our_error(text: str) -> None:
    try:
        parsed = Range.parse(text)
    except InvalidError:
        return
    for tag in ("0", "1.2.3", "1.0.0-rc.1", "99"):
        assert (_version(tag) in parsed) in (True, False)
