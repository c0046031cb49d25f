"""Garbage collection over the whole root: what must stay, and why."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from reconciler.engine.embedded.container_rows import ContainerRow
from reconciler.engine.embedded.machinery import Machinery
from reconciler.engine.port import Generation
from reconciler.errors import NotFoundError
from reconciler.linux.tree import disk_usage, remove_tree
from reconciler.model.address import Address
from reconciler.model.observed import ObservedFact
from reconciler.oci.digest import Digest
from reconciler.store.gc import GarbageCollector, GcPlan, Root

KEEP_GENERATIONS = 3
HISTORY = 100
"""Of each source this many generations stay on record, whether or not their images do."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The retention rules in force on the host: of several stacks' rules, the one that keeps most."""

    keep_generations: int = KEEP_GENERATIONS
    images_unused_for: float = 0.0
    containers_exited_for: float | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that would go. ``size`` in bytes.

    ``kind`` is container, image, layer, blob, partial, export or generation.
    """

    kind: str
    id: str
    why: str
    size: int


class Collection:
    """Plans from any state; collecting needs the turn."""

    def __init__(self, machinery: Machinery) -> None:
        self._machinery = machinery
        state = machinery.state
        self._state = state
        self._collector = GarbageCollector(
            state.root, state.database, state.content, state.images, state.names, state.leases
        )

    def plan(self) -> list[Item]:
        """Everything that nothing needs, with why it goes and the bytes it frees. Writes nothing."""
        doomed = self._stale_containers()
        items = [
            Item("container", row.id, f"it ended more than {self._limit()} ago", self._usage(row)) for row in doomed
        ]
        items += _items(self._collector.plan(self._roots({row.id for row in doomed})))
        items += [Item("export", path.name, "no container uses it", disk_usage(path)) for path in self._exports()]
        return items + [
            Item("generation", str(number), "it is too old for retention and history", 0)
            for number in self._forgettable()
        ]

    def collect(self, items: list[Item]) -> list[Item]:
        """Frees what ``items`` lists and is still not needed; what was freed."""
        listed = {(item.kind, item.id): item for item in items}
        freed = []
        for row in self._stale_containers():
            if (item := listed.get(("container", row.id))) is not None:
                self._machinery.containers.remove(row, force=False)
                freed.append(item)
        roots = self._roots(set())
        plan = GcPlan(tuple(g for g in self._collector.plan(roots).garbage if (g.kind, g.id) in listed))
        freed += _items(self._collector.collect(plan, roots))
        for path in self._exports():
            if (item := listed.get(("export", path.name))) is not None:
                remove_tree(path, point="export.remove")
                freed.append(item)
        for number in self._forgettable():
            if (item := listed.get(("generation", str(number)))) is not None:
                self._state.generations.forget(number)
                freed.append(item)
        return freed

    def rules(self) -> Rules:
        """What the retention sections of all stacks come to."""
        return rules_of(self._state.facts.all())

    def _roots(self, without: set[str]) -> list[Root]:
        state, rules = self._state, self.rules()
        roots = [
            Root("image", row.image, f"container {row.shown}")
            for row in state.containers.all()
            if row.id not in without and state.images.get(row.image) is not None
        ]
        known = {image.digest for image in state.images.list()}
        generations = state.generations.all()
        for generation in kept_generations(generations, rules.keep_generations):
            wanted = {entry.digest for entry in generation.entries.values() if entry.digest is not None}
            roots += [Root("image", digest, f"generation {generation.number}") for digest in wanted & known]
        if rules.images_unused_for:
            now = time.time()
            for image in state.images.list():
                since = unused_since(image.digest, _seconds(image.fetched_at), generations)
                if now - since < rules.images_unused_for:
                    roots.append(Root("image", image.digest, "it was in use not long ago"))
        return roots

    def _stale_containers(self) -> list[ContainerRow]:
        """Ended containers that belong to no stack, and only if a rule says that such ones go."""
        limit = self.rules().containers_exited_for
        if limit is None:
            return []
        now = time.time()
        return [
            row
            for row in self._state.containers.all()
            if row.address is None and row.finished_at is not None and now - row.finished_at > limit
        ]

    def _forgettable(self) -> list[int]:
        return forgettable(self._state.generations.all(), self.rules(), time.time())

    def _usage(self, row: ContainerRow) -> int:
        try:
            return self._state.snapshots.usage(row.id)
        except NotFoundError:  # somebody deleted its files; the container goes all the same
            return 0

    def _limit(self) -> str:
        return f"{(self.rules().containers_exited_for or 0) / 3600:g} h"

    def _exports(self) -> Iterator[Path]:
        """Trees exported from git that no container mounts any more."""
        directory = self._state.root / "trees"
        if not directory.is_dir():
            return
        used = self._machinery.containers.mounted_sources()
        for path in sorted(directory.iterdir()):
            if not any(source == str(path) or source.startswith(f"{path}/") for source in used):
                yield path


def rules_of(facts: Mapping[Address, ObservedFact]) -> Rules:
    """The retention rules of all stacks as one: whatever keeps most wins."""
    forms = [fact.form for address, fact in facts.items() if address.kind == "retention"]
    keep = [form["keep_generations"] for form in forms if "keep_generations" in form]
    unused = [form["images_unused_for"] for form in forms if "images_unused_for" in form]
    exited = [form.get("containers_exited_for") for form in forms]
    return Rules(
        max(keep) if keep else KEEP_GENERATIONS,
        max(unused, default=0.0),
        # A stack without the rule keeps its ended containers for ever; ad-hoc ones go by those that have one.
        max((limit for limit in exited if limit is not None), default=None),
    )


def kept_generations(generations: list[Generation], keep: int) -> list[Generation]:
    """The last ``keep`` generations of each source: a busy source does not push out the others' rollbacks."""
    return [item for found in by_source(generations).values() for item in (found[-keep:] if keep else [])]


def by_source(generations: list[Generation]) -> dict[str, list[Generation]]:
    found: dict[str, list[Generation]] = {}
    for generation in generations:
        found.setdefault(generation.source, []).append(generation)
    return found


def forgettable(generations: list[Generation], rules: Rules, now: float, *, least: int = HISTORY) -> list[int]:
    """The numbers of the generations that no rule needs any more: neither their absence nor their presence tells.

    Of each source stay the last ``keep_generations``, and no fewer than ``least``; and those that are younger than
    ``unused_for``, with the one before them: it tells which images they replaced.
    """
    found = []
    for history in by_source(generations).values():
        young = next((at for at, item in enumerate(history) if now - item.created_at < rules.images_unused_for), None)
        kept = max(least, rules.keep_generations)
        last = len(history) - kept if young is None else min(len(history) - kept, young - 1)
        found += [item.number for item in history[: max(last, 0)]]
    return sorted(found)


def unused_since(digest: Digest, fetched_at: float, generations: list[Generation]) -> float:
    """When an image was last wanted: fetched, or replaced in what its source declares. Seconds since the epoch."""
    latest = fetched_at
    held: dict[str, bool] = {}
    for generation in generations:
        holds = any(entry.digest == digest for entry in generation.entries.values())
        if holds or held.get(generation.source):
            latest = max(latest, generation.created_at)
        held[generation.source] = holds
    return latest


def _items(plan: GcPlan) -> list[Item]:
    return [Item(item.kind, item.id, item.why, item.size) for item in plan.garbage]


def _seconds(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0
