"""Keeping a container still for a while, and letting those run on that a killed process left so."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from reconciler.errors import HostError, NotFoundError
from reconciler.linux import durable
from reconciler.linux.cgroups import Cgroups
from reconciler.runtime.task import Task

_POINT = "task.pause"
_STILL = 5.0  # seconds for processes to be paused; one that waits for a dead disk never is


class Pauses:
    """The pauses of one root's containers. Of each there is a note in ``directory``, from before its first moment.

    The directory need not survive a reboot: no pause does.
    """

    def __init__(self, directory: Path, cgroups: Cgroups) -> None:
        self._directory = directory
        self._cgroups = cgroups

    @contextmanager
    def of(self, task: Task) -> Iterator[bool]:
        """Keeps a running container still for the block. False in it when it runs on, for this host cannot pause it."""
        note = self._directory / task.id
        durable.make_directory(self._directory, point=_POINT, sync=False)
        os.close(durable.create(note, point=_POINT))
        try:
            yield self._cgroups.freeze(task.cgroup, _STILL)
        finally:
            self._end(note, task.cgroup)

    def end_left(self, find: Callable[[str], Task]) -> list[str]:
        """Lets those run on whose pause was cut off, and says which. ``find`` gives a task, or ``NotFoundError``.

        Nobody may be in a pause now.
        """
        try:
            notes = sorted(self._directory.iterdir())
        except FileNotFoundError:
            return []
        for note in notes:
            cgroup = ""
            with suppress(NotFoundError):
                cgroup = find(note.name).cgroup
            self._end(note, cgroup)
        return [note.name for note in notes]

    def _end(self, note: Path, cgroup: str) -> None:
        if cgroup:
            with durable.guarded("let run on", note):
                self._cgroups.thaw(cgroup)
        durable.unlink(note, point=_POINT, sync=False)
        with suppress(HostError):  # there are others
            durable.remove_directory(self._directory, point=_POINT)
