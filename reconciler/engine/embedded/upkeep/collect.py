"""Garbage collection over the whole root: what goes, and freeing it in short turns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.engine.embedded.containers.rows import ContainerRow
from reconciler.engine.embedded.machinery import Machinery
from reconciler.engine.embedded.upkeep.retention import forgettable
from reconciler.engine.embedded.upkeep.roots import Roots
from reconciler.errors import HostError, NotFoundError
from reconciler.linux.tree import disk_usage
from reconciler.oci.digest import Digest
from reconciler.store.collection.gc import Garbage, GarbageCollector, GcPlan
from reconciler.store.collection.marks import Root
from reconciler.store.quarantine import Quarantine
from reconciler.value import dataclass

if TYPE_CHECKING:
    from reconciler.engine.embedded.engine import EmbeddedEngine

Turn = Callable[[], AbstractContextManager[object]]
_STORE = ("image", "layer", "blob", "partial")


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that would go. ``size`` in bytes on disk.

    ``kind`` is container, image, layer, blob, partial, export, quarantine or generation.
    """

    kind: str
    id: str
    why: str
    size: int


def collect(engine: EmbeddedEngine, items: Iterable[Item], timeout: float | None) -> Iterator[Item]:
    """Frees what ``items`` lists and is not needed by then; gives each thing once it is gone.

    It takes turns of milliseconds and deletes the bytes outside them, so that others go on meanwhile. Raises as
    ``Collection.collect``, and ``LockedError`` when a turn does not come within ``timeout`` seconds.
    """
    with engine.turn(timeout):
        collection = Collection(engine.writer())
        engine.writer().state.leases.sweep()
    yield from collection.collect(items, partial(engine.turn, timeout))


class Collection:
    """Plans from any state; collecting writes."""

    def __init__(self, machinery: Machinery) -> None:
        self._machinery = machinery
        state = machinery.state
        self._state = state
        self._roots = Roots(state)
        self._collector = GarbageCollector(state.root, state.database, state.content, state.leases)

    def plan(self) -> list[Item]:
        """Everything that nothing needs, with why it goes and the bytes it frees. Writes nothing.

        Raises ``IntegrityError`` when something that is needed cannot be read: what that needs is then unknown.
        """
        return self._state.database.consistent(self._plan)

    def plan_images(self, images: Iterable[Digest]) -> list[Item]:
        """Of some images those that nothing needs, and what only they have. Does not look at the rest of the store."""
        wanted = tuple(images)
        return self._state.database.consistent(
            lambda: _items(self._collector.plan(self._store_roots(frozenset()), wanted))
        )

    def collect(self, items: Iterable[Item], turn: Turn = nullcontext) -> Iterator[Item]:
        """Frees what ``items`` lists and is not needed by now; gives each thing once it is gone.

        Everything is decided within ``turn``, by default in the one that the caller holds. Raises ``IntegrityError`` as
        ``plan`` does, and at the end ``HostError``, if something could not be removed: the next turn or plan does it.
        """
        listed = {(item.kind, item.id): item for item in items}
        failures: list[HostError] = []
        yield from self._remove_containers([i for i in listed.values() if i.kind == "container"], turn, failures)
        garbage = tuple(
            Garbage(item.kind, item.id, item.why, item.size)  # type: ignore[arg-type]
            for item in listed.values()
            if item.kind in _STORE
        )
        if garbage:
            try:
                yield from self._free(GcPlan(garbage), turn)
            except HostError as error:
                failures.append(error)
        yield from self._remove_exports(listed, turn)
        for aside in [item for item in listed.values() if item.kind == "quarantine"]:
            with turn():
                removed = Quarantine(self._state.root).remove(aside.id)
            if removed:
                yield aside
        if any(kind == "generation" for kind, _ in listed):
            with turn():
                for number in self._forgettable():
                    if (item := listed.get(("generation", str(number)))) is not None:
                        self._state.generations.forget(number)
                        yield item
        if failures:
            raise failures[0]

    def collect_images(self, images: Iterable[Digest]) -> list[Item]:
        """Frees at once what ``plan_images`` lists, in the turn that the caller holds."""
        # Within one turn nothing else comes to need anything: looking once, at every process's mounts too, is enough.
        roots = self._store_roots(frozenset())
        freed = self._collector.collect(self._collector.plan(roots, images), lambda: roots)
        return [Item(item.kind, item.id, item.why, item.size) for item in freed]

    def _plan(self) -> list[Item]:
        doomed = self._stale_containers()
        limit = f"{(self._roots.rules().containers_exited_for or 0) / 3600:g} h"
        items = [Item("container", row.id, f"it ended more than {limit} ago", self._usage(row)) for row in doomed]
        items += _items(self._collector.plan(self._store_roots(frozenset(row.id for row in doomed))))
        items += [Item("export", path.name, "no container uses it", disk_usage(path)) for path in self._exports()]
        aside = Quarantine(self._state.root).disposable()
        items += [Item("quarantine", name, "it was damaged, and put aside by a repair", size) for name, size in aside]
        return items + [
            Item("generation", str(number), "it is too old for retention and history", 0)
            for number in self._forgettable()
        ]

    def _free(self, plan: GcPlan, turn: Turn) -> Iterator[Item]:
        for item in self._collector.collect(plan, lambda: self._store_roots(frozenset()), turn):
            yield Item(item.kind, item.id, item.why, item.size)

    def _store_roots(self, without: frozenset[str]) -> tuple[Root, ...]:
        return tuple(dict.fromkeys(keeper.root() for keeper in self._roots.keepers(without)))

    def _stale_containers(self) -> list[ContainerRow]:
        """Ended containers that belong to no stack, and only if a rule says that such ones go."""
        limit = self._roots.rules().containers_exited_for
        if limit is None:
            return []
        ages = self._roots.ages()
        return [
            row
            for row in self._state.containers.all()
            if row.address is None and row.finished_at is not None and ages.of(row.finished_at) > limit
        ]

    def _remove_containers(self, items: list[Item], turn: Turn, failures: list[HostError]) -> Iterator[Item]:
        for item in items:
            with turn():
                row = next((row for row in self._stale_containers() if row.id == item.id), None)
                if row is None:
                    continue
                try:
                    self._machinery.containers.remove(row, force=False)
                except HostError as error:
                    failures.append(error)
                    continue
            yield item

    def _forgettable(self) -> list[int]:
        ages = self._roots.ages()
        dated = [dataclasses.replace(item, created_at=-ages.of(item.created_at)) for item in self._roots.history()]
        return forgettable(dated, self._roots.rules(), 0.0)

    def _usage(self, row: ContainerRow) -> int:
        try:
            return disk_usage(self._state.container_dir(row.id))
        except NotFoundError:  # somebody deleted its files; the container goes all the same
            return 0

    def _remove_exports(self, listed: dict[tuple[str, str], Item], turn: Turn) -> Iterator[Item]:
        if any(kind == "export" for kind, _ in listed):
            removed = []
            with turn():
                for path in self._exports():
                    item = listed.get(("export", path.name))
                    if item is not None and self._state.discards.put(path):
                        removed.append(item)
            yield from removed

    def _exports(self) -> Iterator[Path]:
        """Trees exported from git that no container mounts any more."""
        directory = self._state.root / "trees"
        if not directory.is_dir():
            return
        used = self._machinery.containers.mounted_sources()
        for path in sorted(directory.iterdir()):
            if not any(source == str(path) or source.startswith(f"{path}/") for source in used):
                yield path


def _items(plan: GcPlan) -> list[Item]:
    return [Item(item.kind, item.id, item.why, item.size) for item in plan.garbage]
