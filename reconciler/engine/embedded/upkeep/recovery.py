"""Putting a root in order at the start of a turn: what ended is recorded, what a killed process left is cleared away.

Every row is written before what it stands for is made, and dropped after that is gone, so what nobody owns can be
told from the rows alone. The exceptions are directories, which are made before their row: those without one go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.engine.embedded.containers.lifecycle import Containers
from reconciler.engine.embedded.containers.mounts import ContainerMounts
from reconciler.engine.embedded.containers.rows import ContainerRow
from reconciler.engine.embedded.state import State
from reconciler.errors import ReconcilerError
from reconciler.linux import durable
from reconciler.log import Logger

if TYPE_CHECKING:
    from reconciler.engine.embedded.wiring import Wiring

_log = Logger("engine")


class Recovery:
    def __init__(
        self, state: State, containers: Containers, mounts: ContainerMounts, wiring: Callable[[], Wiring]
    ) -> None:
        self._state = state
        self._containers = containers
        self._mounts = mounts
        self._wiring = wiring

    def run(self, *, cut_off: bool) -> None:
        """Needs the turn. ``cut_off``: the last turn did not come to its end, so the kernel's side is looked at too.

        What cannot be cleared away is logged and left for another turn: it must not stand in everybody's way.
        """
        self._try(self._containers.resume_left)
        rows = {row.id: row for row in self._state.containers.all()}
        ended = {row.id for row in rows.values() if row.finished_at is not None}
        ended |= {row.id for row in self._containers.reap(rows.values())}
        for container_id in self._left_over(rows, ended):
            self._try(partial(self._clear, container_id, rows.get(container_id)))
        owned = {name for row in rows.values() for name, _ in row.settings.anonymous}
        orphans = [row.name for row in self._state.volumes.all().values() if row.anonymous and row.name not in owned]
        if orphans:
            self._try(partial(self._mounts.drop_orphans, orphans))
        if cut_off:
            self._try(self._state.content.sweep)
            for container_id in rows:
                place = self._state.container_dir(container_id)
                self._try(partial(durable.sweep_temporaries, place, point="container.sweep"))
            self._try(partial(self._wiring().sweep, rows))

    def _try(self, clear: Callable[[], object]) -> None:
        try:
            clear()
        except ReconcilerError as error:
            _log.warning("not-cleared", error=str(error), hint=error.hint)

    def _left_over(self, rows: Mapping[str, ContainerRow], ended: Set[str]) -> list[str]:
        """Containers without a row that have anything, and ended ones that still have what only running ones need."""
        state = self._state
        directories = _names(state.root / "containers")
        live = {*self._containers.tasks(), *_names(state.run / "rootfs"), *_names(state.run / "netns")}
        return sorted((directories | live) - rows.keys() | (live & ended))

    def _clear(self, container_id: str, row: ContainerRow | None) -> None:
        if row is not None:
            self._containers.take_down(row)
        else:
            self._containers.discard(container_id)


def _names(directory: Path) -> set[str]:
    try:
        return {path.name for path in directory.iterdir()}
    except FileNotFoundError:
        return set()
