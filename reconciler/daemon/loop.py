"""The loop: one thread that reads the specs, runs passes, and decides when to look again.

Passes never overlap, and whatever happens during one leads to one more pass after it. A revision that cannot be read,
does not parse or is held back by a guard changes nothing: the last good one stays in force, and drift from it goes on
being repaired. A resource that fails waits by itself, longer each time, while the others go on.
"""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Callable, Collection
from datetime import timedelta

from reconciler.apply.report import StepResult
from reconciler.clock import Clock, rfc3339
from reconciler.daemon.backoff import Backoff
from reconciler.daemon.conditions import BadRevision, Conditions, Failure, Result
from reconciler.daemon.notify import Notifier
from reconciler.daemon.port import Converger, PassReport
from reconciler.daemon.wakeups import Cause, Wakeups
from reconciler.errors import InvalidError, LockedError, ReconcilerError, RefusedError
from reconciler.log import Logger
from reconciler.model.address import Address
from reconciler.model.desired import Desired
from reconciler.source.port import Revision, Source
from reconciler.value import dataclass

_log = Logger("daemon")

_POLL: frozenset[Cause] = frozenset({"start", "files", "asked"})
_LOCKED_RETRY = 2.0


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A revision and what it came to."""

    revision: Revision
    desired: Desired


class Loop:
    """``load`` turns a revision into what is desired; ``show`` publishes the conditions after every step.

    ``interval`` is the seconds between two looks at the source and at the host when nothing else wakes the loop;
    ``rearm`` is called before the source is read.
    """

    def __init__(
        self,
        source: Source,
        load: Callable[[Revision], Desired],
        converger: Converger,
        *,
        wakeups: Wakeups,
        clock: Clock,
        show: Callable[[Conditions], None],
        notifier: Notifier,
        interval: float = 60.0,
        rearm: Callable[[], None] = lambda: None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._source = source
        self._load = load
        self._converger = converger
        self._wakeups = wakeups
        self._clock = clock
        self._show = show
        self._notifier = notifier
        self._interval = interval
        self._rearm = rearm
        self._resources: Backoff[Address] = Backoff(clock, jitter=jitter)
        self._passes: Backoff[str] = Backoff(clock, longest=60.0, jitter=jitter)
        self._good: _Loaded | None = None
        self._newest: _Loaded | None = None  # read, and not yet known to be acceptable
        self._next_poll = clock.monotonic()
        self._look_again: float | None = None
        self._due = clock.monotonic()
        self._settled = False
        self._failures: dict[Address, Failure] = {}
        self._conditions = Conditions(source.identity, since=self._now())

    def run(self, stop: threading.Event) -> None:
        """Works until ``stop`` is set; whoever sets it also posts ``stop``. Containers are left as they are."""
        self._publish()
        self._notifier.ready()
        _log.info("daemon-started", source=self._source.identity)
        causes: frozenset[Cause] = frozenset({"start"})
        while not stop.is_set():
            self.step(causes)
            causes = self._wakeups.wait(self.delay())
        self._notifier.stopping()
        _log.info("daemon-stopped")

    def step(self, causes: Collection[Cause]) -> None:
        """One turn of the loop: looks at the source if that is due, and runs one pass. Nothing when nothing is due."""
        self._notifier.beat()
        if not causes and self._clock.monotonic() < self._due:
            return
        asked = "asked" in causes
        if asked:
            self._resources.clear()
            self._passes.clear()
        if not _POLL.isdisjoint(causes) or self._clock.monotonic() >= self._next_poll:
            self._next_poll = self._clock.monotonic() + self._interval
            self._poll()
        self._look_again = None
        if not self._passes.waiting():
            self._converge(asked)
        times = (self._next_poll, self._look_again, self._resources.next_try(), self._passes.next_try())
        self._due = min(time for time in times if time is not None)
        self._publish()

    def delay(self) -> float:
        """Seconds until ``step`` has to be called although nothing happened."""
        due = self._due - self._clock.monotonic()
        return max(0.0, min(due, self._notifier.period or due))

    def _poll(self) -> None:
        """Reads the newest revision. What is wrong with it becomes a condition, and what was good stays."""
        self._rearm()
        revision = ""
        try:
            newest = self._source.read()
            revision = newest.id
            self._newest = self._loaded(newest)
        except ReconcilerError as error:
            self._reject(revision, error)
            self._newest = None
            if self._good is None:
                self._restore()
            return
        if not self._is_good(self._newest):
            self._passes.clear()
            _log.info("source-changed", revision=revision, before=self._good.revision.id if self._good else "")

    def _restore(self) -> None:
        """After a restart with a source that gives nothing usable: goes on from the revision last accepted (G26)."""
        try:
            last = self._source.last_good()
            if last is not None:
                self._good = self._loaded(last)
        except ReconcilerError as error:
            _log.warning("last-good-unusable", error=str(error), hint=error.hint)

    def _loaded(self, revision: Revision) -> _Loaded:
        desired = self._load(revision)
        return _Loaded(revision, dataclasses.replace(desired, source=self._source.identity, revision=revision.id))

    def _converge(self, asked: bool) -> None:
        loaded = self._newest or self._good
        if loaded is None:
            self._set(result="failed")
            return
        if not self._is_good(loaded):
            # A pass may take minutes: who asks meanwhile must not be told that the last revision's result still holds.
            self._set(result="progressing")
            self._publish()
        started = self._clock.monotonic()
        try:
            report = self._converger.converge_once(
                loaded.desired,
                asked=asked,
                exclude=self._resources.waiting(),
                export=loaded.revision.tree.write_exports,
            )
        except LockedError as error:
            _log.debug("locked", error=str(error))
            self._look_again = self._clock.monotonic() + _LOCKED_RETRY
        except (RefusedError, InvalidError) as error:
            if loaded is not self._newest or self._is_good(loaded):
                self._pass_failed(error)
                return
            self._reject(loaded.revision.id, error)
            self._newest = None
            if self._good is None:
                self._restore()
            self._converge(asked)
        except ReconcilerError as error:
            self._pass_failed(error)
        else:
            if loaded is self._newest:
                self._accept(loaded)
            self._passes.clear()
            self._set(revision=loaded.revision.id)
            self._finish(report, self._clock.monotonic() - started)

    def _is_good(self, loaded: _Loaded) -> bool:
        return self._good is not None and self._good.revision.id == loaded.revision.id

    def _accept(self, loaded: _Loaded) -> None:
        if not self._is_good(loaded):
            # What failed may have been mended: it is not made to wait for its old mistakes.
            self._resources.clear()
            self._settled = False
        try:
            self._source.accept(loaded.revision)
        except ReconcilerError as error:
            _log.warning("revision-not-remembered", error=str(error), hint=error.hint)
        self._good, self._newest = loaded, None
        self._set(bad=None)

    def _finish(self, report: PassReport, seconds: float) -> None:
        failed = {result.address: result for result in report.performed if result.status == "failed"}
        done = [result for result in report.performed if result.status == "done"]
        for address in self._resources.failing() - self._resources.waiting() - failed.keys():
            self._resources.succeeded(address)
        for result in failed.values():
            self._step_failed(result)
        for result in done:
            event = "drift-repaired" if self._settled else "step-done"
            _log.info(event, address=str(result.address), verb=result.verb)
        log = _log.info if report.performed else _log.debug
        log("pass-finished", done=len(done), failed=len(failed), settled=report.settled, seconds=round(seconds, 3))
        now = self._clock.monotonic()
        if done and not report.settled:
            self._look_again = now
        elif report.next_try is not None:
            self._look_again = now + report.next_try
        self._settled = report.settled and not failed
        failing = self._resources.failing()
        failures = {address: failure for address, failure in self._failures.items() if address in failing}
        self._failures = dict(failures)
        for item in report.plan.blocked:
            if item.error and item.address not in failures:
                failures[item.address] = Failure(str(item.address), "", item.reason.message, item.hint)
        at_rest = report.settled and report.next_try is None
        outcome: Result = "failed" if failures else "converged" if at_rest else "progressing"
        self._set(result=outcome, error="", failures=tuple(failures[address] for address in sorted(failures)))

    def _step_failed(self, result: StepResult) -> None:
        delay = self._resources.failed(result.address)
        message, hint = (str(result.error), result.error.hint) if result.error else ("it failed", "")
        attempts = self._resources.attempts(result.address)
        next_try = rfc3339((self._clock.now() + timedelta(seconds=delay)).replace(microsecond=0))
        address = str(result.address)
        self._failures[result.address] = Failure(address, result.verb, message, hint, attempts, next_try)
        _log.warning("step-failed", address=address, verb=result.verb, error=message, hint=hint, next_try=next_try)

    def _pass_failed(self, error: ReconcilerError) -> None:
        delay = self._passes.failed("pass")
        _log.error("pass-failed", error=str(error), hint=error.hint, again_in=round(delay, 1))
        self._settled = False
        self._set(result="failed", error=f"{error}; {error.hint}" if error.hint else str(error))

    def _reject(self, revision: str, error: ReconcilerError) -> None:
        known = self._conditions.bad
        bad = BadRevision(revision, str(error), error.hint, isinstance(error, RefusedError), self._now())
        if known is not None and dataclasses.replace(bad, since=known.since) == known:
            return
        _log.error("source-bad", revision=revision, error=bad.message, hint=bad.hint, refused=bad.refused)
        self._set(bad=bad)

    def _publish(self) -> None:
        try:
            self._show(self._conditions)
        except ReconcilerError as error:
            _log.warning("conditions-not-written", error=str(error), hint=error.hint)

    def _set(self, **changes: object) -> None:
        """Changes conditions; ``since`` moves only with ``result``."""
        before = self._conditions
        after = dataclasses.replace(before, **changes)  # type: ignore[arg-type]
        if after.result != before.result:
            after = dataclasses.replace(after, since=self._now())
        self._conditions = after

    def _now(self) -> str:
        return rfc3339(self._clock.now().replace(microsecond=0))
