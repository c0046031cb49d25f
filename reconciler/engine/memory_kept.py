"""What the reference engine keeps, but for containers and syncs."""

from __future__ import annotations

from dataclasses import field
from typing import TypeVar

from reconciler.engine.port import Outcome
from reconciler.model.address import Address
from reconciler.model.observed import (
    ObservedFact,
    ObservedImage,
    ObservedNetwork,
    ObservedResource,
    ObservedSync,
    ObservedTag,
    ObservedVolume,
)
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.value import dataclass


@dataclass(slots=True)
class Kept:
    """Everything but containers that the root holds."""

    facts: dict[Address, ObservedFact] = field(default_factory=dict)
    networks: dict[Address, ObservedNetwork] = field(default_factory=dict)
    volumes: dict[Address, ObservedVolume] = field(default_factory=dict)
    images: dict[Address, ObservedImage] = field(default_factory=dict)
    tags: dict[Address, ObservedTag] = field(default_factory=dict)
    manifests: dict[Digest, tuple[Descriptor, ...]] = field(default_factory=dict)
    pulled: dict[str, Digest] = field(default_factory=dict)


V = TypeVar("V", bound=ObservedResource)


def put(kept: dict[Address, V], address: Address, value: V) -> Outcome:
    """Keeps a value; whether that changed anything."""
    changed = kept.get(address) != value
    kept[address] = value
    return Outcome(changed)


def drop(kept: dict[Address, V], address: Address) -> Outcome:
    """Forgets a value; whether there was one."""
    return Outcome(kept.pop(address, None) is not None)


def stacks_of(address: Address, found: ObservedResource) -> frozenset[str]:
    """The stacks that declare what was found."""
    if isinstance(found, ObservedFact):
        return found.stacks
    return frozenset(
        {found.stack if isinstance(found, (ObservedTag, ObservedSync)) else address.name.partition("/")[0]}
    )
