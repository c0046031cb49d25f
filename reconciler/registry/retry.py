"""How often, and after what pause, a server is asked again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from reconciler.registry.failure import LimitedError, TemporaryError
from reconciler.value import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """``attempts`` requests at most, with pauses that double from ``first`` to ``longest`` seconds, jittered.

    A server's ``Retry-After`` replaces the pause, up to ``cap`` seconds. ``sleep`` and ``jitter`` (a number in [0, 1))
    are here to be replaced in tests, and ``sleep`` by a caller that can be cancelled.
    """

    attempts: int = 4
    first: float = 0.5
    longest: float = 10.0
    cap: float = 60.0
    sleep: Callable[[float], None] = field(default=time.sleep, compare=False)
    jitter: Callable[[], float] = field(default=random.random, compare=False)

    def pause(self, failed: int, error: TemporaryError, note: Callable[[str], None]) -> None:
        """Waits after the ``failed``-th failure in a row (from 1), and tells ``note`` why."""
        wished = error.retry_after
        if wished is None:
            full = min(self.longest, self.first * 2 ** (failed - 1))
            wait = full / 2 + full / 2 * self.jitter()
            note(f"asking again in {wait:.1f} s: {error}")
            self.sleep(wait)
            return
        wait = min(wished, self.cap)
        why = f"rate limit of {error.server}" if isinstance(error, LimitedError) else str(error)
        note(f"waiting {wait:.0f} s{f' of the {wished:.0f} s asked for' if wait < wished else ''}: {why}")
        self.sleep(wait)


def retry_after(header: str | None, now: datetime) -> float | None:
    """``Retry-After`` (RFC 9110, 10.2.3) in seconds from ``now``: seconds or a date; None when absent or malformed."""
    if header is None:
        return None
    if header.isascii() and header.strip().isdigit():
        return float(header.strip()[:12])
    try:
        moment = parsedate_to_datetime(header)
    except (ValueError, OverflowError):
        return None
    return max(0.0, ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now).total_seconds())
