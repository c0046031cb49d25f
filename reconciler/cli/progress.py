"""What is seen while an apply runs: live on a terminal, plain lines elsewhere, JSON lines on request."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from reconciler.cli.context import Context
from reconciler.cli.table import size
from reconciler.printable import printable

if TYPE_CHECKING:
    from reconciler.apply.report import StepResult
    from reconciler.engine.port import ProgressEvent
    from reconciler.plan.plan import Step

_SYMBOLS = {"done": "done", "unchanged": "unchanged", "failed": "FAILED", "blocked": "blocked", "stopped": "not begun"}
# A line per blob and state is enough for a log; a line per chunk would be a flood.
_QUIET_STATES = frozenset({"downloading", "uploading", "extracting"})


class Display(Protocol):
    """Hears of steps and of progress within them, from several threads."""

    def step(self, step: Step, result: StepResult | None) -> None:
        """A step began (None) or ended."""

    def progress(self, event: ProgressEvent) -> None:
        """How far an action is."""


@contextmanager
def display(context: Context) -> Iterator[Display]:
    """The display that fits ``--progress`` and the terminal."""
    mode = context.progress
    if mode == "auto":
        mode = "tty" if context.stderr.isatty() else "plain"
    if mode == "tty":
        with _live(context) as live:
            yield live
    elif mode == "json":
        yield _Json(context)
    elif mode == "quiet":
        yield _Quiet()
    else:
        yield _Plain(context)


class _Quiet:
    def step(self, step: Step, result: StepResult | None) -> None:
        pass

    def progress(self, event: ProgressEvent) -> None:
        pass


class _Plain:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()

    def step(self, step: Step, result: StepResult | None) -> None:
        if result is not None:
            self._line(f"{step.id}: {_ending(result)}")

    def progress(self, event: ProgressEvent) -> None:
        if event.state not in _QUIET_STATES:
            self._line(f"{event.address}: {event.item} {event.state}")

    def _line(self, text: str) -> None:
        with self._lock:
            self._context.note(printable(text))


class _Json:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()

    def step(self, step: Step, result: StepResult | None) -> None:
        line: dict[str, Any] = {"event": "step", "id": step.id, "address": str(step.action.address)}
        line["status"] = result.status if result else "started"
        if result is not None:
            line["seconds"] = round(result.seconds, 3)
            if result.error is not None:
                line["error"] = str(result.error)
            if result.blocked_by:
                line["blocked_by"] = result.blocked_by
        self._line(line)

    def progress(self, event: ProgressEvent) -> None:
        self._line(
            {
                "event": "progress",
                "address": str(event.address),
                "item": event.item,
                "state": event.state,
                "done": event.done,
                "total": event.total,
            }
        )

    def _line(self, document: dict[str, Any]) -> None:
        with self._lock:
            self._context.note(json.dumps(document))


@contextmanager
def _live(context: Context) -> Iterator[Display]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(file=context.stderr, no_color=bool(context.environment.get("NO_COLOR")), highlight=False)
    bars = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[amount]}", markup=False),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    with bars:
        yield _Live(bars)


class _Live:
    """One line for each step that runs, with a bar once bytes are known; what ended scrolls above."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._tasks: dict[str, Any] = {}
        self._items: dict[str, dict[str, tuple[int, int | None]]] = {}
        self._lock = threading.Lock()

    def step(self, step: Step, result: StepResult | None) -> None:
        with self._lock:
            key = str(step.action.address)
            if result is None:
                self._tasks[key] = self._bars.add_task(printable(step.id), total=None, amount="")
                return
            if key in self._tasks:
                self._bars.remove_task(self._tasks.pop(key))
                self._items.pop(key, None)
            style = "red" if result.status == "failed" else "yellow" if result.status == "blocked" else "green"
            self._bars.console.print(printable(f"{step.id}: {_ending(result)}"), style=style, markup=False)

    def progress(self, event: ProgressEvent) -> None:
        with self._lock:
            task = self._tasks.get(str(event.address))
            if task is None:
                return
            items = self._items.setdefault(str(event.address), {})
            items[event.item] = (event.done, event.total)
            done = sum(done for done, _ in items.values())
            total = sum(total or done for done, total in items.values())
            self._bars.update(task, completed=done, total=total or None, amount=f"{size(done)} of {size(total)}")


def _ending(result: StepResult) -> str:
    text = _SYMBOLS[result.status]
    if result.status == "done" and result.outcome is not None:
        moved = [f"{size(count)} {what}" for count, what in _moved(result) if count]
        text += f" in {result.seconds:.1f} s" + (f" ({', '.join(moved)})" if moved else "")
    if result.error is not None:
        hint = f" ({result.error.hint})" if result.error.hint else ""
        text += f": {result.error}{hint}"
    if result.blocked_by:
        text += f": it needs {result.blocked_by}"
    return text


def _moved(result: StepResult) -> list[tuple[int, str]]:
    assert result.outcome is not None
    return [(result.outcome.bytes_pulled, "pulled"), (result.outcome.bytes_pushed, "pushed")]
