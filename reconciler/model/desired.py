"""What the specs ask for, as one value."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any

from reconciler.model.address import Address
from reconciler.model.facts import Absent, Unknown
from reconciler.model.resources import Mirror, Registry, Resource, Sensitive
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.value import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Location:
    """A place in a spec file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Pin:
    """A tag pinned to the manifest of one platform.

    ``blobs`` is the config and the layers, or empty when the image is on disk already. ``index`` is the digest the
    tag itself had when that was an index. ``answered_by`` is ``origin``, a mirror's URL or ``store``. ``tag`` is the
    one that was picked for an image that tracks a repository, and ``why`` says why in a clause.
    """

    digest: Digest
    index: Digest | None = None
    blobs: tuple[Descriptor, ...] = ()
    answered_by: str = "origin"
    note: str = ""
    tag: str = ""
    why: str = ""


Resolution = Pin | Absent | Unknown


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A field of the language that this version cannot honour: a plan error, never ignored.

    ``rule`` names what a host policy would have to grant, for options that reach into the host; else "".
    """

    address: str
    field: str
    location: Location
    rule: str = ""


@dataclass(frozen=True, slots=True)
class HostMirrors:
    """What files that this host has for other programs say of mirrors; each resource names its file. ``notes`` tell
    what was left out."""

    registries: tuple[Registry, ...] = ()
    mirrors: tuple[Mirror, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Desired:
    """Resources by address, with the stacks that this value speaks for.

    ``stacks`` holds every stack named by the specs, also those that declare nothing. ``source`` names where the
    specs came from (a directory, a repository): stacks it once held and holds no more are pruned. ``owners`` says
    which stacks declare a resource: one, but for the facts of the host. ``pins`` has an entry for every image that
    is pulled, once ``pin`` has run. ``from_host`` are the stacks that take over the mirrors of this host's own files,
    and where they say so; ``notes`` is what there is to say about these.
    """

    resources: Mapping[Address, Resource]
    stacks: frozenset[str]
    source: str = ""
    revision: str = ""
    locations: Mapping[Address, Location] = field(default_factory=dict, compare=False)
    owners: Mapping[Address, frozenset[str]] = field(default_factory=dict)
    unsupported: tuple[Unsupported, ...] = ()
    warnings: tuple[str, ...] = ()
    pins: Mapping[Address, Resolution] = field(default_factory=dict)
    from_host: Mapping[str, Location] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def sealed(self, seal: Callable[[bytes], str]) -> Desired:
        """The same with every sensitive value's seal filled in."""
        return dataclasses.replace(self, resources={a: _sealed(r, seal) for a, r in self.resources.items()})

    def pinned(self, pins: Mapping[Address, Resolution]) -> Desired:
        return dataclasses.replace(self, pins=dict(pins))

    def with_host_mirrors(self, found: HostMirrors) -> Desired:
        """The same with the mirrors that the host's files name, for the hosts that no spec says anything about."""
        addressed: dict[Address, Resource] = {Address("registry", item.host): item for item in found.registries}
        addressed |= {Address("mirror", item.host): item for item in found.mirrors}
        added = {address: item for address, item in addressed.items() if address not in self.resources}
        stacks, location = frozenset(self.from_host), min(self.from_host.values())
        return dataclasses.replace(
            self,
            resources={**self.resources, **added},
            owners={**self.owners, **dict.fromkeys(added, stacks)},
            locations={**self.locations, **dict.fromkeys(added, location)},
            notes=(*self.notes, *found.notes),
        )


def _sealed(value: Any, seal: Callable[[bytes], str]) -> Any:
    if isinstance(value, Sensitive):
        return dataclasses.replace(value, seal=seal(value.value.encode("utf-8", "surrogateescape")))
    if isinstance(value, tuple):
        return tuple(_sealed(item, seal) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changes = {item.name: _sealed(getattr(value, item.name), seal) for item in dataclasses.fields(value)}
        return value if all(changes[n] is getattr(value, n) for n in changes) else dataclasses.replace(value, **changes)
    return value
