"""Failing, or being killed, at one step of durable I/O: see ``reconciler.linux.durable.observed``."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class FaultAt:
    """An observer that lets ``step`` - 1 steps pass and fails at the next with ``number``, or kills the process.

    ``seen`` lists the steps that were announced, the failed one included. Step 0 never comes: it only listens.
    """

    def __init__(self, step: int, number: int | None = None) -> None:
        self.seen: list[str] = []
        self._step = step
        self._number = number

    def __call__(self, step: str, path: Path) -> None:
        self.seen.append(step)
        if len(self.seen) != self._step:
            return
        if self._number is None:
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            raise OSError(self._number, os.strerror(self._number), str(path))
