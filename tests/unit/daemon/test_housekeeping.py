"""Collecting now and then."""

from __future__ import annotations

from reconciler.clock import ManualClock
from reconciler.daemon.housekeeping import EVERY, Housekeeping
from reconciler.errors import HostError


def test_it_is_done_at_once_and_then_no_more_often_than_it_should() -> None:
    clock, done = ManualClock(), []
    house = Housekeeping(lambda: (done.append(clock.monotonic()), (0, 0))[1], clock)
    for _ in range(3):
        house.look()
        clock.advance(EVERY - 1)
        house.look()
        clock.advance(1)
    assert done == [0, EVERY, 2 * EVERY]


def test_a_failure_is_no_reason_to_stop() -> None:
    clock, tries = ManualClock(), []

    def fail() -> tuple[int, int]:
        tries.append(clock.monotonic())
        raise HostError("the disk is gone")

    house = Housekeeping(fail, clock)
    house.look()
    clock.advance(EVERY)
    house.look()
    assert len(tries) == 2
