"""Which tags a selection means."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.errors import InvalidError
from reconciler.model.selection import MAX_PATTERN, TagSelection, check_pattern, select, span

NOW = 1_000_000_000.0
DAY = 86400.0
TAGS = "latest 1 1.4 1.4.0 v1.4.0 1.5.2 1.6.0 1.6.0-alpine 2.0.0-rc.1 2.0.0".split()


def test_versions_in_a_range_come_newest_first_and_the_rest_says_why_not() -> None:
    found = select(TAGS, TagSelection(semver=">=1.4 <2"), {}, NOW)
    assert found.chosen == ("1.6.0", "1.5.2", "v1.4.0", "1.4.0", "1.4")
    assert found.why == {
        "2.0.0": "is not in >=1.4 <2",
        "2.0.0-rc.1": "is not in >=1.4 <2",
        "1.6.0-alpine": "is a prerelease, which >=1.4 <2 does not name",
        "1": "is not in >=1.4 <2",
        "latest": "is no version",
    }
    assert found.prereleases == ("1.6.0-alpine",)
    assert not found.by_name


def test_patterns_match_whole_names_and_a_denial_wins() -> None:
    tags = ["bookworm", "bookworm-9", "bookworm-10", "bookworm-10-backports", "x-bookworm"]
    found = select(tags, TagSelection(allow=("bookworm.*",), deny=(".*-backports",)), {}, NOW)
    assert found.chosen == ("bookworm-10", "bookworm-9", "bookworm")
    assert found.why["x-bookworm"] == "is not bookworm.*"
    assert found.why["bookworm-10-backports"] == "is denied by .*-backports"


def test_names_are_taken_as_they_are() -> None:
    assert select(["1x4", "1.4", "edge"], TagSelection(names=("1.4", "edge")), {}, NOW).chosen == ("edge", "1.4")


def test_without_a_range_versions_are_still_ordered_as_versions() -> None:
    assert select(["1.9.0", "1.10.0", "1.10.0-rc.1"], TagSelection(), {}, NOW).chosen[0] == "1.10.0"
    assert select(["build-9", "build-10"], TagSelection(newest=1), {}, NOW).chosen == ("build-10",)


def test_age_counts_from_when_a_tag_was_first_seen_and_one_never_seen_is_new() -> None:
    seen = {"1.4.0": NOW - 9 * DAY, "1.5.2": NOW - 4 * DAY, "1.6.0": NOW - 2 * DAY - 3600}
    wanted = TagSelection(semver=">=1.4 <2", newest=1, min_age=3 * DAY)
    found = select([*seen, "1.7.0"], wanted, seen, NOW)
    assert found.chosen == ("1.5.2",)
    assert found.why["1.6.0"] == "is 2d 1h old, wants 3d"
    assert found.why["1.7.0"] == "is new, wants 3d"
    assert found.why["1.4.0"] == "is older than the newest 1"
    assert list(found.young) == ["1.7.0", "1.6.0"]


def test_a_clock_that_went_back_makes_nothing_old() -> None:
    found = select(["1.0.0"], TagSelection(min_age=60), {"1.0.0": NOW + DAY}, NOW)
    assert found.chosen == ()
    assert found.young == {"1.0.0": 0.0}


@pytest.mark.parametrize("text", ["(", "(a)\\1", "(?=a)", "a{1000}{1000}", "[", "a" * (MAX_PATTERN + 1), "*"])
def test_what_is_no_pattern_is_an_error(text: str) -> None:
    with pytest.raises(InvalidError):
        check_pattern(text)


def test_no_pattern_takes_long() -> None:
    before = time.process_time()
    for pattern in ("(a*)*b", "(a|aa)+$", "(.*.*.*.*.*.*.*.*)=", "(x+x+)+y"):
        select(["a" * 128, "x" * 128], TagSelection(allow=(pattern,)), {}, NOW)
    assert time.process_time() - before < 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.5, "0s"), (40, "40s"), (3600, "1h"), (3700, "1h 1m"), (3 * DAY, "3d"), (2 * DAY + 59, "2d")],
)
def test_spans_are_written_as_specs_write_them(seconds: float, text: str) -> None:
    assert span(seconds) == text


_tags = st.lists(st.from_regex(r"[a-z0-9][a-z0-9.-]{0,8}", fullmatch=True), max_size=12)
_selections = st.builds(
    TagSelection,
    allow=st.sampled_from([(), ("[0-9.]+",), (".*a.*", "1.*")]),
    deny=st.sampled_from([(), ("1.*",)]),
    semver=st.sampled_from(["", ">=1 <5", "*", ">=0-0"]),
    newest=st.none() | st.integers(1, 3),
    min_age=st.none() | st.just(10.0),
)


@given(_tags, _selections, st.randoms(), st.floats(0, 20))
def test_law_every_tag_is_chosen_or_told_why_not_and_no_order_shows(
    tags: list[str], selection: TagSelection, random: object, age: float
) -> None:
    seen = dict.fromkeys(tags[::2], NOW - age)
    found = select(tags, selection, seen, NOW)
    assert set(found.chosen) | found.why.keys() == set(tags)
    assert not set(found.chosen) & found.why.keys()
    assert found.young.keys() <= found.why.keys()
    random.shuffle(tags)  # type: ignore[attr-defined]
    assert select(tags, selection, seen, NOW) == found
    assert select(found.chosen, selection, seen, NOW).chosen == found.chosen or selection.semver == ""
