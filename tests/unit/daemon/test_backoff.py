"""Backoff per resource (G22), on a clock that nobody can set (G25)."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from reconciler.clock import ManualClock
from reconciler.daemon.backoff import Backoff


def _backoff(clock: ManualClock, jitter: float = 0.0) -> Backoff[str]:
    return Backoff(clock, first=1, longest=10, jitter=lambda: jitter)


def test_g22_each_waits_by_itself_and_longer_each_time() -> None:
    clock = ManualClock()
    backoff = _backoff(clock)
    assert [backoff.failed("a") for _ in range(6)] == [1, 2, 4, 8, 10, 10]
    assert backoff.failed("b") == 1
    assert backoff.waiting() == {"a", "b"}
    assert backoff.next_try() == 1
    clock.advance(1)
    assert backoff.waiting() == {"a"}
    assert backoff.failing() == {"a", "b"}
    assert backoff.next_try() == 10
    assert (backoff.attempts("a"), backoff.attempts("b"), backoff.attempts("c")) == (6, 1, 0)


def test_success_begins_anew() -> None:
    backoff = _backoff(ManualClock())
    backoff.failed("a")
    backoff.failed("a")
    backoff.succeeded("a")
    assert backoff.next_try() is None
    assert backoff.failed("a") == 1


def test_g25_a_wall_clock_that_jumps_changes_nothing() -> None:
    clock = ManualClock()
    backoff = _backoff(clock)
    backoff.failed("a")
    clock._now = datetime(1970, 1, 1, tzinfo=UTC)
    assert backoff.waiting() == {"a"}
    clock.advance(1)
    assert not backoff.waiting()


@given(attempts=st.integers(1, 5000), jitter=st.floats(0, 1))
def test_a_delay_is_never_longer_than_the_longest_nor_less_than_four_fifths(attempts: int, jitter: float) -> None:
    backoff = _backoff(ManualClock(), jitter)
    delays = [backoff.failed("a") for _ in range(min(attempts, 60))]
    assert all(0.8 <= delay <= 10 for delay in delays)
