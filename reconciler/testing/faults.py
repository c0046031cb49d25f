"""Failing, or being killed, at one announced operation: see ``reconciler.linux.watch``."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reconciler.linux.watch import Operation, Phase


class FaultAt:
    """An observer that lets ``step`` - 1 operations begin and fails the next with ``number``, or kills the process.

    ``seen`` lists the operations that were announced, the failed one included. Step 0 never comes: it only listens.
    """

    def __init__(self, step: int, number: int | None = None) -> None:
        self.seen: list[str] = []
        self._step = step
        self._number = number

    def __call__(self, phase: Phase, operation: Operation) -> None:
        if phase != "before":
            return
        self.seen.append(operation.name)
        if len(self.seen) != self._step:
            return
        if self._number is None:
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            raise OSError(self._number, os.strerror(self._number), str(operation.path))
