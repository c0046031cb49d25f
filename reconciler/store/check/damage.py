"""What a check of a root finds: damage, which breaks a promise, and leftovers, which only take space."""

from __future__ import annotations

from dataclasses import field

from reconciler.oci.digest import Digest
from reconciler.value import dataclass

MAX_DETAILS = 1000
"""Of one layer at most this many differences are listed."""
NO_LIST = "no-list"
"""What is said of a layer that an earlier version unpacked: it cannot be compared with anything."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A claim of the root that does not hold.

    ``kind`` is root, database, blob, image, name, layer, lease, container or volume; ``id`` a digest, a chain ID, a
    name or a path; ``code`` a kebab-case word for machines; ``message`` a sentence that says the rest. ``needed_by``
    lists who cannot do without it. ``details`` are the single differences of a layer, ``path: what``.
    """

    kind: str
    id: str
    code: str
    message: str
    needed_by: tuple[str, ...] = ()
    details: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str, str]:
        """The same for the same damage found twice."""
        return self.kind, self.id, self.code


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something on disk, or in the kernel, that nothing claims. No damage: gc or the next apply takes it away.

    ``kind`` is blob, partial, layer, container, temporary, mount, runtime, lease, volume or quarantine; ``size`` in
    bytes.
    """

    kind: str
    id: str
    why: str
    size: int = 0

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.id


@dataclass(slots=True)
class Findings:
    """What one check found, in the order in which it looked; ``notes`` say what could not be looked at, and why."""

    damage: list[Damage] = field(default_factory=list)
    leftovers: list[Leftover] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def confirmed_by(self, later: Findings) -> Findings:
        """What is still found by a ``later`` look: what came and went in between was at work, not broken."""
        damaged = {item.key for item in later.damage}
        left = {item.key for item in later.leftovers}
        return Findings(
            [item for item in self.damage if item.key in damaged],
            [item for item in self.leftovers if item.key in left],
            later.notes,
        )


@dataclass(frozen=True, slots=True)
class Checked:
    """How much was looked at. ``hashed`` is in bytes; ``files`` counts the entries compared in unpacked layers."""

    blobs: int = 0
    hashed: int = 0
    images: int = 0
    layers: int = 0
    files: int = 0
    containers: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """What a check of a whole root found."""

    damage: tuple[Damage, ...]
    leftovers: tuple[Leftover, ...]
    notes: tuple[str, ...]
    checked: Checked

    @property
    def is_clean(self) -> bool:
        """Whether every claim holds. Leftovers are no damage."""
        return not self.damage

    def lines(self) -> list[str]:
        """All that was found, one line each; what tests print."""
        found = [f"{item.kind} {item.id}: {item.message}" for item in self.damage]
        return found + [f"left over: {item.kind} {item.id}: {item.why}" for item in self.leftovers]


@dataclass(frozen=True, slots=True)
class Repaired:
    """What a repair did about one damage, or (not ``done``) why it could not."""

    kind: str
    id: str
    done: bool
    text: str


@dataclass(frozen=True, slots=True)
class Needs:
    """Who needs which image and which layer, beside the images' own names; as they are shown to people."""

    images: dict[Digest, list[str]] = field(default_factory=dict)
    layers: dict[Digest, list[str]] = field(default_factory=dict)
