"""Many changes, one wake-up (G17)."""

from __future__ import annotations

import threading
import time

from reconciler.clock import ManualClock, SystemClock
from reconciler.daemon.wakeups import Wakeups


def test_g17_whatever_happened_meanwhile_is_one_wakeup() -> None:
    wakeups = Wakeups(ManualClock())
    for _ in range(1000):
        wakeups.post("containers")
    wakeups.post("asked")
    assert wakeups.wait(0) == {"containers", "asked"}
    assert wakeups.wait(0) == set()


def test_files_are_held_back_until_they_rest() -> None:
    clock = ManualClock()
    wakeups = Wakeups(clock, quiet=1, longest=10)
    wakeups.post("files")
    clock.advance(0.9)
    wakeups.post("files")
    clock.advance(0.9)
    assert wakeups.wait(0) == set()
    clock.advance(0.1)
    assert wakeups.wait(0) == {"files"}


def test_files_that_never_rest_are_not_held_back_for_ever() -> None:
    clock = ManualClock()
    wakeups = Wakeups(clock, quiet=1, longest=3)
    seen = 0
    for _ in range(12):
        wakeups.post("files")
        clock.advance(0.5)
        seen += len(wakeups.wait(0))
    assert seen == 2


def test_other_causes_do_not_wait_for_files() -> None:
    clock = ManualClock()
    wakeups = Wakeups(clock, quiet=1)
    wakeups.post("files")
    wakeups.post("containers")
    assert wakeups.wait(0) == {"containers"}
    clock.advance(1)
    assert wakeups.wait(0) == {"files"}


def test_a_post_from_another_thread_ends_the_wait() -> None:
    wakeups = Wakeups(SystemClock(), quiet=0.01)
    started = time.monotonic()
    poster = threading.Timer(0.05, wakeups.post, ["files"])
    poster.start()
    assert wakeups.wait(30) == {"files"}
    poster.join()
    assert time.monotonic() - started < 10
