"""Progress on a terminal: what runs is redrawn in place, what has ended scrolls above it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from reconciler.cli.board import Board
from reconciler.cli.context import Context
from reconciler.cli.step_words import ending
from reconciler.printable import printable

if TYPE_CHECKING:
    from reconciler.apply.report import StepResult
    from reconciler.engine.port import ProgressEvent
    from reconciler.plan.plan import Step

_FRAMES = 8  # a second
_STYLES = {"failed": "red", "blocked": "yellow"}


class LiveDisplay:
    """See ``progress.Display``. It draws while its ``with`` block runs; however that ends, the cursor is back then.

    With ``stays`` the last frame remains. A thread draws, so that to hear of an event costs none of it; without
    ``auto`` only ``draw`` does.
    """

    def __init__(
        self, console: Console, *, stays: bool, auto: bool = True, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._monotonic = monotonic
        self._board = Board()
        self._live = Live(
            get_renderable=self.frame,
            console=console,
            auto_refresh=auto,
            refresh_per_second=_FRAMES,
            transient=not stays,
            redirect_stdout=False,
            vertical_overflow="crop",
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def draw(self) -> None:
        """Draws what is to be seen now."""
        self._live.refresh()

    def begin(self, key: str, title: str) -> None:
        self._board.begin(key, title, self._monotonic())

    def step(self, step: Step, result: StepResult | None) -> None:
        key = str(step.action.address)
        if result is None:
            self.begin(key, step.id)
            return
        self._board.end(key)
        self._print(f"{step.id}: {ending(result)}", _STYLES.get(result.status, "green"))

    def progress(self, event: ProgressEvent) -> None:
        self._board.hear(event, self._monotonic())

    def note(self, text: str) -> None:
        self._print(text, "yellow")

    def signalled(self, text: str) -> None:
        # A signal may arrive while this very thread draws: the next frame shows it.
        self._board.notice = text

    def frame(self) -> Text:
        """What is to be seen now."""
        width, height = self._console.size
        # The last row stays free: a terminal that was full to its end would scroll.
        lines = self._board.lines(width, max(height - 1, 1), self._monotonic())
        return Text("\n".join(lines), no_wrap=True, overflow="crop")

    def _print(self, text: str, style: str) -> None:
        self._console.print(Text(printable(text), style=style), soft_wrap=True)


def live(context: Context, *, stays: bool) -> LiveDisplay:
    """A display on the terminal that stderr is."""
    console = Console(file=context.stderr, no_color=bool(context.environment.get("NO_COLOR")), highlight=False)
    return LiveDisplay(console, stays=stays)
