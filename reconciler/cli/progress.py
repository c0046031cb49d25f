"""What is seen while an apply or a transfer runs, on stderr: live on a terminal, plain lines elsewhere, JSON lines on
request, and nothing but failures when it is to be quiet.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from reconciler.cli.context import Context
from reconciler.cli.layers import MOVING, Layer
from reconciler.cli.step_words import ending, failure
from reconciler.engine.port import ItemProgress, progress_of
from reconciler.printable import printable

if TYPE_CHECKING:
    from reconciler.apply.report import StepResult
    from reconciler.engine.port import ItemState, ProgressEvent
    from reconciler.model.address import Address
    from reconciler.plan.plan import Step

# Seconds between two lines about the bytes of one layer.
_PLAIN_EVERY = 5.0
_JSON_EVERY = 0.2
# Over in a moment, or not begun: no news in a log.
_NO_NEWS: frozenset[ItemState] = frozenset({"waiting", "verifying"})
_LEAST_COLUMNS, _LEAST_LINES = 40, 6


class Display(Protocol):
    """Hears of steps and of progress within them, from several threads."""

    def begin(self, key: str, title: str) -> None:
        """Something began that no plan has; ``key`` is the address in its events."""

    def step(self, step: Step, result: StepResult | None) -> None:
        """A step began (None) or ended."""

    def progress(self, event: ProgressEvent) -> None:
        """How far an action is."""

    def note(self, text: str) -> None:
        """A sentence for the person who watches."""

    def signalled(self, text: str) -> None:
        """The same, from a signal handler."""


@contextmanager
def display(context: Context, *, prefix: bool = True, stays: bool = False) -> Iterator[Display]:
    """The display that fits ``--progress`` and the terminal; meanwhile what ``context`` notes goes through it.

    Without ``prefix`` plain lines do not say whose layers they are about. With ``stays`` the last state of what is
    drawn on a terminal remains.
    """
    with _chosen(context, prefix=prefix, stays=stays) as shown:
        context.voice.through = shown.note
        try:
            yield shown
        finally:
            context.voice.through = None


@contextmanager
def transfer(context: Context, address: Address, title: str) -> Iterator[ItemProgress]:
    """What hears of the layers of one image that comes or goes by hand."""
    with display(context, prefix=False, stays=True) as shown:
        shown.begin(str(address), title)
        yield progress_of(shown.progress, address)


@contextmanager
def _chosen(context: Context, *, prefix: bool, stays: bool) -> Iterator[Display]:
    if context.progress in ("auto", "tty") and _can_be_drawn_on(context):
        from reconciler.cli.live import live

        with live(context, stays=stays) as shown:
            yield shown
    elif context.progress == "json":
        yield JsonDisplay(context)
    elif context.progress == "quiet":
        yield _Quiet(context)
    else:
        yield PlainDisplay(context, prefix=prefix)


def _can_be_drawn_on(context: Context) -> bool:
    """Whether stderr is a terminal that can move its cursor, and has room."""
    if not context.stderr.isatty() or context.environment.get("TERM", "dumb") in ("", "dumb", "unknown"):
        return False
    try:
        size = os.get_terminal_size(context.stderr.fileno())
    except OSError:
        return False
    return size.columns >= _LEAST_COLUMNS and size.lines >= _LEAST_LINES


class _Lines:
    """Lines on stderr, whole ones, from several threads."""

    def __init__(self, context: Context) -> None:
        self._stderr = context.stderr
        self._guard = threading.Lock()

    def write(self, text: str) -> None:
        with self._guard:
            self._stderr.write(text + "\n")
            self._stderr.flush()


class _Quiet:
    """Says why a step failed, and nothing else."""

    def __init__(self, context: Context) -> None:
        self._lines = _Lines(context)

    def begin(self, key: str, title: str) -> None:
        pass

    def step(self, step: Step, result: StepResult | None) -> None:
        if result is not None and result.status == "failed":
            self._lines.write(printable(f"error: {step.id}: {failure(result)}"))

    def progress(self, event: ProgressEvent) -> None:
        pass

    def note(self, text: str) -> None:
        self._lines.write(printable(text))

    def signalled(self, text: str) -> None:
        pass


class PlainDisplay:
    """A line for each state that a layer comes into, once; of a long transfer one every few seconds."""

    def __init__(
        self, context: Context, *, prefix: bool = True, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._lines = _Lines(context)
        self._prefix = prefix
        self._monotonic = monotonic
        self._layers: dict[tuple[str, str], _Told] = {}
        self._guard = threading.Lock()

    def begin(self, key: str, title: str) -> None:
        pass

    def step(self, step: Step, result: StepResult | None) -> None:
        if result is not None:
            self.note(f"{step.id}: {ending(result)}")

    def progress(self, event: ProgressEvent) -> None:
        key, now = (str(event.address), event.item), self._monotonic()
        with self._guard:
            told = self._layers.get(key)
            if told is None:
                told = self._layers[key] = _Told(event, now)
            text = told.news(event, now)
        if text:
            self.note(f"{event.address}: {event.item}: {text}" if self._prefix else f"{event.item}: {text}")

    def note(self, text: str) -> None:
        self._lines.write(printable(text))

    def signalled(self, text: str) -> None:
        # The thread that writes may be the one interrupted, and its lock taken.
        os.write(2, f"{text}\n".encode())


class _Told:
    """What was told of a layer."""

    def __init__(self, event: ProgressEvent, now: float) -> None:
        self._layer = Layer(event, now)
        self._states: set[ItemState] = set()
        self._latest = now

    def news(self, event: ProgressEvent, now: float) -> str:
        """What is worth a line now, or nothing."""
        self._layer.hear(event, now)
        if event.state in MOVING:
            if now - self._latest < _PLAIN_EVERY:
                return ""
        elif event.state in self._states or event.state in _NO_NEWS:
            return ""
        self._states.add(event.state)
        self._latest = now
        return self._layer.words()


class JsonDisplay:
    """One object a line: ``{"event": "step" | "progress" | "note", ...}``; the README has their fields."""

    def __init__(self, context: Context, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._lines = _Lines(context)
        self._monotonic = monotonic
        self._latest: dict[tuple[str, str], tuple[ItemState, float]] = {}

    def begin(self, key: str, title: str) -> None:
        pass

    def step(self, step: Step, result: StepResult | None) -> None:
        line: dict[str, Any] = {"event": "step", "id": step.id, "address": str(step.action.address)}
        line["status"] = result.status if result else "started"
        if result is not None:
            line["seconds"] = round(result.seconds, 3)
            if result.error is not None:
                line["error"] = str(result.error)
            if result.blocked_by:
                line["blocked_by"] = result.blocked_by
            if result.outcome is not None:
                line["pulled_bytes"] = result.outcome.bytes_pulled
                line["pushed_bytes"] = result.outcome.bytes_pushed
        self._write(line)

    def progress(self, event: ProgressEvent) -> None:
        key, now = (str(event.address), event.item), self._monotonic()
        state, latest = self._latest.get(key, ("waiting", 0.0))
        if event.state in MOVING and event.state == state and now - latest < _JSON_EVERY:
            return
        self._latest[key] = event.state, now
        line: dict[str, Any] = {"event": "progress", "address": key[0], "item": event.item, "state": event.state}
        line |= {"done": event.done, "total": event.total}
        if event.origin:
            line["origin"] = event.origin
        self._write(line)

    def note(self, text: str) -> None:
        self._write({"event": "note", "message": text})

    def signalled(self, text: str) -> None:
        os.write(2, f"{json.dumps({'event': 'note', 'message': text})}\n".encode())

    def _write(self, document: dict[str, Any]) -> None:
        self._lines.write(json.dumps(document))
