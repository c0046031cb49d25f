"""Exponential backoff, for each of many things by itself: what fails does not hold up the rest."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from reconciler.clock import Clock
from reconciler.value import dataclass

K = TypeVar("K", bound=Hashable)

_JITTER_SHARE = 0.2
_MOST_DOUBLINGS = 30


@dataclass(frozen=True, slots=True)
class _Entry:
    """One key that fails."""

    attempts: int
    until: float


class Backoff(Generic[K]):
    """Waits ``first`` seconds after a failure, twice as long after each next one, at most ``longest``.

    Up to a fifth is taken off at random, so that many hosts do not come back at once; ``jitter`` gives numbers from
    0 to 1. Times are monotonic: a clock that is set plays no part.
    """

    def __init__(
        self, clock: Clock, *, first: float = 1.0, longest: float = 300.0, jitter: Callable[[], float] = random.random
    ) -> None:
        self._clock = clock
        self._first = first
        self._longest = longest
        self._jitter = jitter
        self._entries: dict[K, _Entry] = {}

    def failed(self, key: K) -> float:
        """Notes one more failure and returns the seconds to wait."""
        attempts = self.attempts(key) + 1
        delay = min(self._longest, self._first * 2.0 ** min(attempts - 1, _MOST_DOUBLINGS))
        delay *= 1.0 - _JITTER_SHARE * self._jitter()
        self._entries[key] = _Entry(attempts, self._clock.monotonic() + delay)
        return delay

    def succeeded(self, key: K) -> None:
        """Forgets the failures of ``key``."""
        self._entries.pop(key, None)

    def clear(self) -> None:
        self._entries.clear()

    def attempts(self, key: K) -> int:
        """How often ``key`` has failed in a row."""
        entry = self._entries.get(key)
        return entry.attempts if entry else 0

    def failing(self) -> frozenset[K]:
        """Everything whose last try failed, waiting or due."""
        return frozenset(self._entries)

    def waiting(self) -> frozenset[K]:
        """What is not to be tried yet."""
        now = self._clock.monotonic()
        return frozenset(key for key, entry in self._entries.items() if entry.until > now)

    def next_try(self) -> float | None:
        """The monotonic time at which the first of those that wait becomes due."""
        now = self._clock.monotonic()
        return min((entry.until for entry in self._entries.values() if entry.until > now), default=None)
