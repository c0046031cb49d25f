"""What must stay on this host, and why: desired state, containers, generations, retention, and what is mounted."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from reconciler.engine.embedded.containers.rows import ContainerRow
from reconciler.engine.embedded.images.lookup import shown_name
from reconciler.engine.embedded.upkeep.ages import Ages
from reconciler.engine.embedded.upkeep.retention import Rules, kept_generations, last_wanted, rules_of
from reconciler.errors import NotFoundError
from reconciler.oci.digest import Digest
from reconciler.store.collection.marks import Root
from reconciler.value import dataclass

if TYPE_CHECKING:
    from reconciler.engine.embedded.state import State
    from reconciler.engine.port import Generation

KeeperKind = Literal["entry", "tag", "container", "generation", "retention", "mount", "lease"]


@dataclass(frozen=True, slots=True)
class Keeper:
    """One reason for which an image, layer or blob stays. ``name`` is as shown to people, ``detail`` says more of it.

    ``target`` is the image's digest, the layer's chain ID where ``of_layer`` says so, and anything for a lease.
    ``stack`` is the one that declares it, empty for what was made by hand.
    """

    kind: KeeperKind
    name: str
    detail: str
    target: Digest
    stack: str = ""
    of_layer: bool = False

    def root(self) -> Root:
        return Root("layer" if self.of_layer else "image", self.target, f"{self.kind} {self.name}")


class Roots:
    """Reads them from the state; what it says holds for as long as nobody writes."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._history: tuple[list[int], list[Generation]] = ([], [])

    def rules(self) -> Rules:
        """What the retention sections of all stacks come to."""
        return rules_of(self._state.facts.all())

    def ages(self) -> Ages:
        """How old things are at this moment."""
        return self._state.clock.ages()

    def history(self) -> list[Generation]:
        """The generations on record, oldest first. One never changes, so they are read once."""
        numbers = self._state.generations.numbers()
        if numbers != self._history[0]:
            self._history = numbers, self._state.generations.all()
        return self._history[1]

    def keepers(self, without: frozenset[str] = frozenset()) -> Iterator[Keeper]:
        """All that keeps images and layers, but for names and leases, which the store knows itself.

        ``without`` are the ids of containers that do not count.
        """
        known = set(self._state.images.digests())
        for row in self._state.containers.all():
            if row.id not in without:
                yield from self._of_container(row, known)
        generations = self.history()
        rules = self.rules()
        for generation in kept_generations(generations, rules.keep_generations):
            source = generation.source or "made by hand"
            for address, entry in generation.entries.items():
                if entry.digest in known and entry.digest is not None:
                    yield Keeper("generation", str(generation.number), f"{address} of {source}", entry.digest)
        if rules.images_unused_for:
            yield from self._young(rules.images_unused_for, generations)
        for chain_id in mounted_layers(self._state.layers.directory):
            yield Keeper("mount", chain_id.short, "a mount shows it", chain_id, of_layer=True)

    def names(self) -> Iterator[Keeper]:
        """The names of images: entries of stacks, and tags."""
        for name in self._state.names.list():
            owner = f"declared by stack {name.stack}" if name.stack else "made by hand"
            yield Keeper(name.kind, shown_name(name), owner, name.digest, name.stack)

    def leases(self) -> Iterator[Keeper]:
        """What work in progress protects, be it an image, a layer or a blob."""
        for lease in self._state.leases.list():
            owner = f"process {lease.pid}" if lease.alive else f"process {lease.pid}, which has ended"
            for item in lease.items:
                yield Keeper("lease", lease.purpose, f"{owner}; held for {lease.age:.0f} s", Digest(item))

    def _of_container(self, row: ContainerRow, known: set[Digest]) -> Iterator[Keeper]:
        owner = f"declared by stack {row.address.stack}" if row.address else "made by hand"
        stack = row.address.stack if row.address else ""
        if row.image in known:
            yield Keeper("container", row.shown, owner, row.image, stack)
            return
        # The record of its image was lost; what it lies on stays all the same.
        with contextlib.suppress(NotFoundError):
            for chain_id in self._state.snapshots.chain_ids(row.id)[-1:]:
                yield Keeper("container", row.shown, owner, chain_id, stack, of_layer=True)

    def _young(self, limit: float, generations: list[Generation]) -> Iterator[Keeper]:
        ages = self.ages()
        wanted = last_wanted(generations)
        for image in self._state.images.list():
            fetched = ages.of(_seconds(image.fetched_at))
            if min(fetched, ages.of(wanted[image.digest]) if image.digest in wanted else fetched) < limit:
                yield Keeper("retention", "unused_for", "it was in use not long ago", image.digest)


def mounted_layers(directory: Path) -> list[Digest]:
    """The layers below ``directory`` that an overlay in any mount namespace shows as lower directories (case S26).

    Such a mount may outlive its container: a namespace that somebody took a copy of, a program that is still in it.
    """
    pattern = re.compile(re.escape(os.fsencode(directory.resolve())) + rb"/([0-9a-f]{64})\b")
    found: set[bytes] = set()
    for table in _mount_tables():
        if b" overlay " in table:
            found.update(pattern.findall(table))
    return [Digest(f"sha256:{name.decode()}") for name in sorted(found)]


def _mount_tables() -> Iterator[bytes]:
    """The mount table of each namespace that a process is in."""
    seen = set()
    for process in ("self", *filter(str.isdecimal, os.listdir("/proc"))):  # noqa: PTH208
        # Processes end meanwhile, and those of others may not be looked at.
        with contextlib.suppress(OSError):
            namespace = os.stat(f"/proc/{process}/ns/mnt").st_ino  # noqa: PTH116
            if namespace not in seen:
                seen.add(namespace)
                yield Path(f"/proc/{process}/mountinfo").read_bytes()


def _seconds(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0
