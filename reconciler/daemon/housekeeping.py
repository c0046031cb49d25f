"""What the daemon does now and then when all is as it should be: collecting garbage."""

from __future__ import annotations

from collections.abc import Callable

from reconciler.clock import Clock
from reconciler.errors import ReconcilerError
from reconciler.log import Logger

_log = Logger("daemon")

EVERY = 3600.0


class Housekeeping:
    """Calls ``collect`` once and then every ``EVERY`` seconds at most. It gives things and bytes freed, and may raise
    ``ReconcilerError``: that is logged, and nothing else suffers from it."""

    def __init__(self, collect: Callable[[], tuple[int, int]], clock: Clock) -> None:
        self._collect = collect
        self._clock = clock
        self._next = clock.monotonic()

    def look(self) -> None:
        """To be called when a pass has settled."""
        if self._clock.monotonic() < self._next:
            return
        self._next = self._clock.monotonic() + EVERY
        try:
            count, size = self._collect()
        except ReconcilerError as error:
            _log.warning("not-collected", error=str(error), hint=error.hint)
            return
        if count:
            _log.info("collected", things=count, bytes=size)
