"""What a terminal shows of an apply, line by line: the steps that run, and the layers of each that come or go.

It knows no terminal: it hears of events, and gives lines for a width and a height. Hearing is cheap, since those who
speak are the threads that fetch.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from reconciler.amount import size
from reconciler.cli.layers import Layer, amount
from reconciler.printable import printable

if TYPE_CHECKING:
    from reconciler.engine.port import ProgressEvent

_BAR = 24
_WIDE = 80  # columns from which a bar has room


class Board:
    """Safe to share between threads. Times are monotonic seconds.

    ``notice`` is a line to show below all; it may be set by a signal handler.
    """

    def __init__(self) -> None:
        self._steps: dict[str, _Step] = {}
        self._guard = threading.Lock()
        self.notice = ""

    def begin(self, key: str, title: str, now: float) -> None:
        """Shows a step from now on; ``key`` is the address in its events."""
        with self._guard:
            self._steps[key] = _Step(title, now)

    def end(self, key: str) -> None:
        """Shows the step no more."""
        with self._guard:
            self._steps.pop(key, None)

    def hear(self, event: ProgressEvent, now: float) -> None:
        """Takes in an event of a step that is shown; others are none of ours."""
        with self._guard:
            step = self._steps.get(str(event.address))
            if step is None:
                return
            layer = step.layers.get(event.item)
            if layer is None:
                step.layers[event.item] = Layer(event, now)
            else:
                layer.hear(event, now)

    def lines(self, width: int, height: int, now: float) -> list[str]:
        """At most ``height`` lines of at most ``width`` characters.

        Where not all layers have room, those that are under way come first, and the line of the step has the sum.
        """
        with self._guard:
            room = height - bool(self.notice)
            lines = [line[:width] for line in self._fitting(width, room, now)]
        return [*lines, self.notice[:width]] if self.notice else lines

    def _fitting(self, width: int, room: int, now: float) -> Iterator[str]:
        steps = list(self._steps.values())
        if len(steps) > room:
            shown = steps[: max(room - 1, 0)]
            yield from (step.head(now) for step in shown)
            yield f"and {len(steps) - len(shown)} more"
            return
        room -= len(steps)
        all_fit = sum(len(step.layers) for step in steps) <= room
        for step in steps:
            yield step.head(now)
            layers = [(name, layer) for name, layer in step.layers.items() if all_fit or layer.active][:room]
            room -= len(layers)
            yield from (_line(name, layer, width) for name, layer in layers)


class _Step:
    """A step that runs."""

    __slots__ = ("_begun", "_title", "layers")

    def __init__(self, title: str, now: float) -> None:
        self._title = printable(title)
        self._begun = now
        self.layers: dict[str, Layer] = {}

    def head(self, now: float) -> str:
        """``pull image/shop/app  12.3 MB/60.0 MB  45.0 MB/s  2 of 5 layers  1.4 s``."""
        parts = [self._title]
        layers = self.layers.values()
        if layers:
            totals = [layer.to_move for layer in layers]
            total = None if None in totals else sum(filter(None, totals))
            if moved := sum(layer.moved for layer in layers):
                parts.append(amount(moved, total))
            if rate := sum(layer.rate for layer in layers):
                parts.append(f"{size(round(rate))}/s")
            if len(layers) > 1:
                parts.append(f"{_ended(layers)} of {len(layers)} layers")
        return "  ".join([*parts, f"{now - self._begun:.1f} s"])


def _ended(layers: Collection[Layer]) -> int:
    return Counter(layer.ended for layer in layers)[True]


def _line(name: str, layer: Layer, width: int) -> str:
    share = layer.share()
    if share is None or width < _WIDE:
        return f"  {printable(name)}: {layer.words()}"
    filled = round(share * _BAR)
    bar = ("=" * filled + ">")[:_BAR].ljust(_BAR)
    return f"  {printable(name)}: [{bar}] {layer.words()}"
