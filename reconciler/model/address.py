"""Addresses: how a resource is named in plans, reports, records and on the command line."""

from __future__ import annotations

from typing import Literal, get_args

from reconciler.errors import InvalidError
from reconciler.value import dataclass

Kind = Literal[
    "registry",
    "mirror",
    "network",
    "volume",
    "image",
    "tag",
    "sync",
    "container",
    "retention",
    "secret",
    "config",
    "stack",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
_IN_STACKS = frozenset({"network", "volume", "image", "container"})


@dataclass(frozen=True, slots=True)
class Address:
    """``kind/name``, where the name is as shown: ``container/shop/web``, ``tag/docker.io/library/app:1``.

    Addresses sort by kind in the order in which kinds are made, then by name. Secrets, configs and stacks are no
    resources: they are named where something is wrong with them.
    """

    kind: Kind
    name: str

    @classmethod
    def parse(cls, text: str) -> Address:
        """Reads ``kind/name``. Raises ``InvalidError``."""
        kind, _, name = text.partition("/")
        for known in KINDS:
            if kind == known and name:
                return cls(known, name)
        raise InvalidError(f"malformed address {text[:200]!a}", hint=f"write KIND/NAME; kinds are {', '.join(KINDS)}")

    @property
    def stack(self) -> str:
        """The stack in its name, for kinds that have one there: ``shop`` of ``container/shop/web``; else empty."""
        stack, slash, _ = self.name.partition("/")
        return stack if slash and self.kind in _IN_STACKS else ""

    @property
    def short(self) -> str:
        """The name without its stack, for kinds that have one: ``web`` of ``container/shop/web``."""
        return self.name.partition("/")[2] if self.kind in _IN_STACKS else self.name

    def __lt__(self, other: Address) -> bool:
        return (KINDS.index(self.kind), self.name) < (KINDS.index(other.kind), other.name)

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


def in_stack(kind: Kind, stack: str, name: str) -> Address:
    """The address of a resource that belongs to one stack."""
    return Address(kind, f"{stack}/{name}")
