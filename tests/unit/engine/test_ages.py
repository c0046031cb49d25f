"""Ages, whatever the wall clock did meanwhile. No root needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.engine.embedded.state import SCHEMAS
from reconciler.engine.embedded.upkeep.ages import Ages, ClockTable, Moment, Stretch
from reconciler.store.database import WritableDatabase

YEAR = 365 * 86400.0
START = 1.8e9


@pytest.fixture
def clock(tmp_path: Path) -> Iterator[ClockTable]:
    tmp_path.chmod(0o700)
    database = WritableDatabase(tmp_path, SCHEMAS)
    yield ClockTable(database)
    database.close()


def test_a_clock_that_goes_on_gives_plain_ages(clock: ClockTable) -> None:
    clock.note(Moment(START, 100, "a"))
    ages = clock.ages(Moment(START + 5000, 5100, "a"))
    assert ages.of(START + 1000) == 4000
    assert ages.of(START - 1000) == 6000
    assert ages.of(START + 9000) == 0


def test_without_a_record_the_wall_clock_is_believed(clock: ClockTable) -> None:
    assert clock.ages(Moment(START, 100, "a")).of(START - YEAR) == YEAR


@pytest.mark.parametrize("jump", [10 * YEAR, -YEAR])
@pytest.mark.parametrize("noticed", [True, False])
def test_s23_a_clock_that_jumps_makes_nothing_older(clock: ClockTable, jump: float, noticed: bool) -> None:
    clock.note(Moment(START, 100, "a"))
    ended = START + 50
    if noticed:
        clock.note(Moment(START + 60 + jump, 160, "a"))
    ages = clock.ages(Moment(START + 400 + jump, 500, "a"))
    assert ages.of(ended) == 350
    assert ages.of(START + 300 + jump) == 100


def test_s23_a_reboot_with_another_date_makes_nothing_older(clock: ClockTable) -> None:
    clock.note(Moment(START, 100, "a"))
    clock.note(Moment(START + 7200, 7300, "a"))
    clock.note(Moment(0, 10, "b"))  # the battery was empty
    clock.note(Moment(START + 8000, 40, "b"))  # the date came from the network
    ages = clock.ages(Moment(START + 8060, 100, "b"))
    assert ages.of(START + 7200) == 100
    assert ages.of(START) == 7300
    assert ages.of(0) == 90


def test_seeing_that_time_passed_is_not_written_down_all_the_time(clock: ClockTable) -> None:
    for minute in range(200):
        clock.note(Moment(START + 60 * minute, 60.0 * minute, "a"))
    rows = clock._database.query("SELECT * FROM clock")
    assert [(row["elapsed"], row["seen"]) for row in rows] == [(0, 3 * 3660)]


@given(
    st.lists(
        st.tuples(
            st.floats(1, 1e5),  # seconds that pass
            st.sampled_from([0.0, 0.0, 0.0, 10 * YEAR, -YEAR, 7e4, -7e4]),  # by how much the clock is moved then
            st.booleans(),  # whether the host reboots then
        ),
        max_size=12,
    )
)
def test_s23_nothing_is_ever_taken_for_older_than_it_is(steps: list[tuple[float, float, bool]]) -> None:
    """Every turn notes the time and dates something; whatever happens to the clock, no age is above the true one."""
    true, offset, booted = 0.0, START, 0.0
    boot = 0
    stretches: list[Stretch] = []
    dated: list[tuple[float, float]] = []

    def note() -> None:
        now = Moment(true + offset, true - booted, str(boot))
        last = stretches[-1] if stretches else None
        passed = last.passed(now) if last is not None else 0.0
        if last is not None and last.is_continued(now):
            stretches[-1] = Stretch(last.start, last.elapsed, passed)
        else:
            stretches.append(Stretch(now, passed, passed))
        dated.append((true, now.wall))

    note()
    for seconds, moved, reboots in steps:
        true += seconds
        if reboots:
            boot, booted = boot + 1, true
        offset += moved
        note()
    now = Moment(true + offset, true - booted, str(boot))
    ages = Ages(stretches, now)
    assert all(ages.of(wall) <= (true - at) + 61 for at, wall in dated)
    if not any(moved or reboots for _, moved, reboots in steps):
        assert all(abs(ages.of(wall) - (true - at)) < 1e-3 for at, wall in dated)
