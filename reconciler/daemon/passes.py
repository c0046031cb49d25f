"""Passes over a real engine, as the loop asks for them."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Collection
from dataclasses import field

from reconciler.apply.runner import Listener
from reconciler.clock import Clock, SystemClock
from reconciler.daemon.port import PassReport
from reconciler.engine.port import Engine, Progress
from reconciler.model.address import Address
from reconciler.model.desired import Desired
from reconciler.model.policy import LONGEST_DELAY, PlanOptions
from reconciler.reconcile import Session, prepare
from reconciler.value import dataclass

_AFTER_WAITING = 5.0  # events wake the loop sooner: this bounds only a missed one


@dataclass(frozen=True, slots=True)
class EngineConverger:
    """See ``daemon.port.Converger``. When ``stop`` is set, steps that run are finished and none begins.

    ``settled`` is called after a pass that left nothing to do.
    """

    engine: Engine
    options: PlanOptions
    stop: threading.Event
    progress: Progress
    listener: Listener
    lock_timeout: float = 10.0
    clock: Clock = field(default_factory=SystemClock)
    settled: Callable[[], None] = lambda: None

    def converge_once(
        self, desired: Desired, *, asked: bool, exclude: Collection[Address], export: Callable[[], None]
    ) -> PassReport:
        with self.engine.turn(self.lock_timeout):
            export()
        options = dataclasses.replace(self.options, asked=asked)
        session = Session(
            prepare(desired, self.engine),
            self.engine,
            options,
            self.progress,
            self.listener,
            self.stop,
            self.lock_timeout,
        )
        last = session.one_pass(exclude)
        while last.performed and not self.stop.is_set():
            last = session.one_pass(exclude)
        if last.settled and not last.waiting and not self.stop.is_set():
            self.settled()
        next_try = _AFTER_WAITING if last.waiting else None
        if last.plan.retry_at is not None:
            due = max(0.0, last.plan.retry_at - self.clock.now().timestamp())
            # A clock that is set back must not put a restart off for longer than the longest backoff.
            next_try = min(due, LONGEST_DELAY, next_try if next_try is not None else LONGEST_DELAY)
        return PassReport(last.plan, tuple(session.results), last.settled, last.waiting, next_try)
