"""What wakes the loop, gathered: however often something happens during a pass, the loop wakes once for it."""

from __future__ import annotations

import threading
from typing import Literal

from reconciler.clock import Clock

Cause = Literal["start", "files", "containers", "asked", "stop"]
"""Spec files changed; a container changed by itself; a person asked (a signal, a command)."""


class Wakeups:
    """A set of causes that other threads add to and one thread waits for. Not for use in signal handlers.

    ``files`` is held back until nothing changed for ``quiet`` seconds, but never longer than ``longest``: an editor or
    a copy makes many changes, and what lies between them is no spec.
    """

    def __init__(self, clock: Clock, *, quiet: float = 0.2, longest: float = 2.0) -> None:
        self._clock = clock
        self._quiet = quiet
        self._longest = longest
        self._condition = threading.Condition()
        self._pending: set[Cause] = set()
        self._files_first = 0.0
        self._files_due = 0.0

    def post(self, cause: Cause) -> None:
        """Wakes the loop for ``cause``. Never blocks for long."""
        with self._condition:
            if cause == "files":
                now = self._clock.monotonic()
                if cause not in self._pending:
                    self._files_first = now
                self._files_due = min(now + self._quiet, self._files_first + self._longest)
            self._pending.add(cause)
            self._condition.notify()

    def wait(self, timeout: float) -> frozenset[Cause]:
        """The causes since the last call, as soon as there are any, or none after ``timeout`` seconds."""
        deadline = self._clock.monotonic() + timeout
        with self._condition:
            while True:
                now = self._clock.monotonic()
                ready = frozenset(cause for cause in self._pending if cause != "files" or now >= self._files_due)
                if ready or now >= deadline:
                    self._pending -= ready
                    return ready
                until = min(deadline, self._files_due) if "files" in self._pending else deadline
                self._condition.wait(until - now)
