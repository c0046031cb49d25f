"""Images that track a repository, in the reference engine."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import field, replace

from reconciler.clock import Clock
from reconciler.engine.memory_registry import MemoryRegistry
from reconciler.engine.tag_pick import Sighting, tag_of
from reconciler.errors import NotFoundError, RegistryError
from reconciler.model.address import Address
from reconciler.model.desired import Pin, Resolution
from reconciler.model.observed import ObservedImage
from reconciler.model.resources import Pull
from reconciler.oci.digest import Digest
from reconciler.oci.reference import Reference
from reconciler.value import dataclass


@dataclass(slots=True)
class Sightings:
    """What tags were seen to be, and since when, and why each image has its tag: noted, and still to be noted."""

    clock: Clock
    noted: dict[tuple[str, str], tuple[Digest, float]] = field(default_factory=dict)
    fresh: dict[tuple[str, str], Digest] = field(default_factory=dict)
    picks: dict[Address, str] = field(default_factory=dict)
    fresh_picks: dict[Address, str] = field(default_factory=dict)

    def pick(self, picks: Mapping[Address, str]) -> None:
        self.fresh_picks |= picks

    def note(self) -> None:
        for key, digest in self.fresh.items():
            if key not in self.noted or self.noted[key][0] != digest:
                self.noted[key] = (digest, self.clock.now().timestamp())
        self.picks |= self.fresh_picks
        self.fresh.clear()
        self.fresh_picks.clear()


@dataclass(frozen=True, slots=True)
class MemoryRepository:
    """The repository of ``pull``. ``resolve`` is the engine's own, for a reference with a tag; ``pulled`` are the
    references it has pulled, and ``image`` is what it has for this pull."""

    pull: Pull
    registry: MemoryRegistry
    sightings: Sightings
    resolve: Callable[[Pull], Resolution]
    pulled: Collection[str]
    image: ObservedImage | None

    def tags(self) -> Collection[str]:
        if self.pull.reference.registry in self.registry.down:
            raise RegistryError(f"{self.pull.reference.registry} does not answer", hint="try again later")
        found = self.registry.repository(self.pull.reference.name)
        if not found:
            raise NotFoundError(f"no repository {self.pull.reference.name}")
        return found

    def digest(self, tag: str) -> Digest | None:
        return self.registry.repository(self.pull.reference.name).get(tag)

    def known(self) -> Mapping[str, Sighting]:
        now = self.sightings.clock.now().timestamp()
        mine = ((key, seen) for key, seen in self.sightings.noted.items() if key[0] == self.pull.reference.name)
        return {tag: Sighting(digest, now - since) for (_, tag), (digest, since) in mine}

    def see(self, seen: Mapping[str, Digest]) -> None:
        self.sightings.fresh |= {(self.pull.reference.name, tag): digest for tag, digest in seen.items()}

    def pin(self, tag: str, _digest: Digest | None) -> Pin:
        found = self.resolve(self._with(tag, "always"))
        assert isinstance(found, Pin)
        return found

    def current(self) -> Pin | None:
        tag = tag_of(self.image.form, self.pull) if self.image is not None and self.image.complete else ""
        return Pin(self.image.digest, answered_by="store", tag=tag) if self.image is not None and tag else None

    def stored(self) -> Collection[str]:
        held = [Reference.parse(text) for text in self.pulled]
        return [item.tag for item in held if item.tag and item.name == self.pull.reference.name]

    def stored_pin(self, tag: str) -> Pin | None:
        found = self.resolve(self._with(tag, "never"))
        return found if isinstance(found, Pin) else None

    def _with(self, tag: str, policy: str) -> Pull:
        return replace(self.pull, reference=self.pull.reference.with_tag(tag), track=None, policy=policy)  # type: ignore[arg-type]
