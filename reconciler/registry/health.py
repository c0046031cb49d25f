"""Which servers are worth asking at the moment.

A server that fails is left in peace for a while, longer each time it fails again, and is then tried like any other. A
resting server is not forgotten: it is asked when nobody else could answer.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Literal

from reconciler.clock import Clock
from reconciler.errors import IntegrityError, ReconcilerError
from reconciler.registry.failure import TemporaryError, UnreachableError
from reconciler.registry.hosts import Endpoint
from reconciler.value import dataclass

_FIRST_REST = 30.0
_LONGEST_REST = 600.0


@dataclass(frozen=True, slots=True)
class EndpointHealth:
    """How a server did when it was last asked; fit to be shown, and to be kept for the next process.

    ``since`` is when this ``state`` began. One that is ``good`` has no ``failures``; of one that rests they are how
    often in a row it failed, last at ``failed_at``. ``is_mirror`` is false for a registry itself.
    """

    name: str
    state: Literal["good", "resting"]
    since: datetime
    failures: int = 0
    failed_at: datetime | None = None
    next_try: datetime | None = None
    last_error: str = ""
    is_mirror: bool = True

    def rest(self, now: datetime) -> float:
        """The seconds until it is tried again, 0 for one that may be asked.

        By the wall clock, for other processes than the one that saw it fail: a clock that was set back to before the
        failure ends the rest, and none is longer than the longest there is.
        """
        if self.failed_at is None or self.next_try is None or not self.failed_at <= now < self.next_try:
            return 0.0
        return min((self.next_try - now).total_seconds(), _LONGEST_REST)


@dataclass(frozen=True, slots=True)
class _Record:
    """What is shown, and what is gone by: the monotonic time of the next try, and how often in a row it failed."""

    shown: EndpointHealth
    until: float = 0.0
    failures: int = 0
    unreachable: bool = False


class Health:
    """What is known of every server that was asked. Safe to share between threads, and between clients.

    ``known`` is what another process saw of mirrors.
    """

    def __init__(self, clock: Clock, known: Iterable[EndpointHealth] = ()) -> None:
        self._clock = clock
        self._guard = threading.Lock()
        now, monotonic = clock.now(), clock.monotonic()
        self._records = {
            shown.name: _Record(shown, monotonic + shown.rest(now), shown.failures, bool(shown.failures))
            for shown in known
        }
        self._changed: set[str] = set()

    def is_resting(self, endpoint: Endpoint) -> bool:
        """Whether it failed a short while ago."""
        record = self._records.get(_key(endpoint))
        return record is not None and self._clock.monotonic() < record.until

    def reached(self, endpoint: Endpoint) -> None:
        """It answered, whatever it said: it is not unreachable any more."""
        with self._guard:
            record = self._records.get(_key(endpoint))
            if record is None or record.unreachable:
                self._put(endpoint, _Record(self._good(endpoint), failures=record.failures if record else 0))

    def served(self, endpoint: Endpoint) -> None:
        """It gave what it was asked for."""
        with self._guard:
            record = self._records.get(_key(endpoint))
            if record is None or record.shown.state != "good":
                self._put(endpoint, _Record(self._good(endpoint)))
            elif record.failures:
                self._records[_key(endpoint)] = _Record(record.shown)

    def failed(self, endpoint: Endpoint, error: ReconcilerError) -> None:
        """It did not. Only what would happen to the next question too counts: no answer, wrong bytes, "not now".

        That it lacks something, or keeps something from us, says nothing about other things. The origin, whose word
        is needed, rests only when it cannot be reached.
        """
        unreachable = isinstance(error, UnreachableError)
        if not unreachable and (endpoint.upstream is None or not isinstance(error, (TemporaryError, IntegrityError))):
            return
        wish = error.retry_after if isinstance(error, TemporaryError) else None
        with self._guard:
            record = self._records.get(_key(endpoint))
            left = record.until - self._clock.monotonic() if record is not None else 0.0
            if left > 0 and left >= min(wish or 0.0, _LONGEST_REST):
                return  # several threads asked it at once, or it was the last resort: that is one failure
            before = record.failures if record is not None else 0
            rest = max(min(_FIRST_REST * 2 ** min(before, 10), _LONGEST_REST), min(wish or 0.0, _LONGEST_REST))
            now = self._clock.now()
            shown = EndpointHealth(
                endpoint.name,
                "resting",
                since=record.shown.since if record is not None and record.shown.state == "resting" else now,
                failures=before + 1,
                failed_at=now,
                next_try=now + timedelta(seconds=rest),
                last_error=str(error),
                is_mirror=endpoint.upstream is not None,
            )
            until = self._clock.monotonic() + rest
            self._put(endpoint, _Record(shown, until, before + 1, unreachable))

    def shown(self) -> tuple[EndpointHealth, ...]:
        """All servers that were asked so far, by name."""
        with self._guard:
            return tuple(sorted((record.shown for record in self._records.values()), key=lambda shown: shown.name))

    @property
    def has_news(self) -> bool:
        """Whether ``news`` would give anything."""
        return bool(self._changed)

    def news(self) -> tuple[EndpointHealth, ...]:
        """The mirrors whose state changed since this was last asked: what other processes have to know."""
        with self._guard:
            changed = tuple(self._records[key].shown for key in sorted(self._changed))
            self._changed.clear()
        return changed

    def _good(self, endpoint: Endpoint) -> EndpointHealth:
        return EndpointHealth(endpoint.name, "good", self._clock.now(), is_mirror=endpoint.upstream is not None)

    def _put(self, endpoint: Endpoint, record: _Record) -> None:
        self._records[_key(endpoint)] = record
        if endpoint.upstream is not None:
            self._changed.add(_key(endpoint))


def _key(endpoint: Endpoint) -> str:
    """A mirror is the same whatever it stands for, and in every process; a registry, at one address."""
    return endpoint.base if endpoint.upstream is None else endpoint.name
