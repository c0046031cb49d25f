"""Which servers are worth asking at the moment.

A server that fails is left in peace for a while, longer each time it fails again, and is then tried like any other. A
resting server is not forgotten: it is asked when nobody else could answer.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from reconciler.clock import Clock
from reconciler.errors import IntegrityError, ReconcilerError
from reconciler.registry.failure import TemporaryError, UnreachableError
from reconciler.registry.hosts import Endpoint

_FIRST_REST = 30.0
_LONGEST_REST = 600.0


@dataclass(frozen=True, slots=True)
class EndpointHealth:
    """How a server did when it was last asked; fit to be shown.

    ``since`` is when this ``state`` began. ``last_error`` is empty and ``next_try`` None for one that is ``good``.
    """

    name: str
    state: Literal["good", "resting"]
    since: datetime
    last_error: str = ""
    next_try: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Record:
    """What is shown, and what is gone by: the monotonic time of the next try, and how often in a row it failed."""

    shown: EndpointHealth
    until: float = 0.0
    failures: int = 0
    unreachable: bool = False


class Health:
    """What is known of every server that was asked. Safe to share between threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._guard = threading.Lock()
        self._records: dict[str, _Record] = {}

    def is_resting(self, endpoint: Endpoint) -> bool:
        """Whether it failed a short while ago."""
        record = self._records.get(endpoint.base)
        return record is not None and self._clock.monotonic() < record.until

    def reached(self, endpoint: Endpoint) -> None:
        """It answered, whatever it said: it is not unreachable any more."""
        record = self._records.get(endpoint.base)
        if record is not None and record.unreachable:
            with self._guard:
                self._records[endpoint.base] = replace(record, until=0.0, unreachable=False)

    def served(self, endpoint: Endpoint) -> None:
        """It gave what it was asked for."""
        record = self._records.get(endpoint.base)
        if record is None or record.shown.state != "good":
            with self._guard:
                self._records[endpoint.base] = _Record(EndpointHealth(endpoint.name, "good", self._clock.now()))

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
            record = self._records.get(endpoint.base)
            if record is not None and self._clock.monotonic() < record.until and record.shown.last_error == str(error):
                return  # several threads asked it at once: that is one failure
            before = record.failures if record is not None else 0
            rest = max(min(_FIRST_REST * 2 ** min(before, 10), _LONGEST_REST), min(wish or 0.0, _LONGEST_REST))
            now = self._clock.now()
            since = record.shown.since if record is not None and record.shown.state == "resting" else now
            shown = EndpointHealth(endpoint.name, "resting", since, str(error), now + timedelta(seconds=rest))
            self._records[endpoint.base] = _Record(shown, self._clock.monotonic() + rest, before + 1, unreachable)

    def shown(self) -> tuple[EndpointHealth, ...]:
        """All servers that were asked so far, by name."""
        with self._guard:
            return tuple(sorted((record.shown for record in self._records.values()), key=lambda shown: shown.name))
