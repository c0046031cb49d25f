"""How a layer that comes or goes fares, and how that reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from reconciler.amount import size

if TYPE_CHECKING:
    from reconciler.engine.port import ItemState, ProgressEvent

# Docker's words, as far as it has them.
WORDS: Mapping[ItemState, str] = {
    "waiting": "Waiting",
    "pulling": "Pulling fs layer",
    "resuming": "Resuming",
    "downloading": "Downloading",
    "verifying": "Verifying",
    "loading": "Loading",
    "extracting": "Extracting",
    "complete": "Pull complete",
    "loaded": "Loaded",
    "exists": "Already exists",
    "uploading": "Pushing",
    "pushed": "Pushed",
    "mounted": "Mounted",
    "present": "Layer already exists",
}
MOVING = frozenset({"downloading", "loading", "uploading"})
_ENDED = frozenset({"complete", "loaded", "exists", "pushed", "mounted", "present"})
_FREE = frozenset({"exists", "mounted", "present"})
# Seconds between looks at how fast it goes, and how much a new look counts.
_LOOK = 0.5
_WEIGHT = 0.4


class Layer:
    """What was heard of one layer. ``rate`` is in bytes a second, 0 while nothing moves; ``resumed`` is where it went
    on from."""

    __slots__ = ("_marked", "_marked_at", "event", "rate", "resumed")

    def __init__(self, event: ProgressEvent, now: float) -> None:
        self.event = event
        self.rate = 0.0
        self.resumed = event.done if event.state == "resuming" else 0
        self._marked, self._marked_at = event.done, now

    def hear(self, event: ProgressEvent, now: float) -> None:
        """Takes in the next event; ``now`` is monotonic."""
        before, self.event = self.event.state, event
        if event.state == "resuming":
            self.resumed = event.done
        if event.state not in MOVING:
            self.rate = 0.0
        # What an earlier run left did not come now, time in a queue is no time on the way, and bytes that are thrown
        # away are no speed.
        if event.state not in MOVING or before == "waiting" or event.done < self._marked:
            self._marked, self._marked_at = event.done, now
        elif now - self._marked_at >= _LOOK:
            latest = (event.done - self._marked) / (now - self._marked_at)
            self.rate = latest if not self.rate else (1 - _WEIGHT) * self.rate + _WEIGHT * latest
            self._marked, self._marked_at = event.done, now

    @property
    def ended(self) -> bool:
        return self.event.state in _ENDED

    @property
    def active(self) -> bool:
        return not self.ended and self.event.state != "waiting"

    @property
    def to_move(self) -> int | None:
        """The bytes there are to move in all; none of what is there or is mounted. None is unknown."""
        return 0 if self.event.state in _FREE else self.event.total

    @property
    def moved(self) -> int:
        return 0 if self.event.state in _FREE else self.event.done

    def words(self) -> str:
        """``Downloading  12.3 MB/60.0 MB  45.0 MB/s``, without the layer's name."""
        event = self.event
        text = WORDS[event.state]
        if event.state == "resuming":
            return f"{text} at {amount(event.done, event.total)}"
        if event.state in MOVING:
            parts = [text, amount(event.done, event.total)]
            parts += [f"{size(round(self.rate))}/s"] if self.rate else []
            return "  ".join(parts) + (f"  (from {size(self.resumed)})" if self.resumed else "")
        if event.state == "mounted" and event.origin:
            text += f" from {event.origin}"
        told = (self.ended or event.state == "pulling") and event.total is not None
        return f"{text} ({size(event.total or 0)})" if told else text

    def share(self) -> float | None:
        """How much of it is there, from 0 to 1, while it moves."""
        event = self.event
        return min(event.done / event.total, 1.0) if event.state in MOVING and event.total else None


def amount(done: int, total: int | None) -> str:
    """``12.3 MB/60.0 MB``, or what is done where nobody knows the end."""
    return f"{size(done)}/{size(total)}" if total is not None else size(done)
