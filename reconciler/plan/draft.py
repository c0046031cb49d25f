"""A plan while it is being drawn up."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import TypeVar

from reconciler.model.action import Action
from reconciler.model.address import Address
from reconciler.model.canonical import Form
from reconciler.model.capabilities import Capabilities
from reconciler.model.desired import Desired
from reconciler.model.observed import Observed, ObservedContainer, ObservedResource
from reconciler.model.policy import PlanOptions
from reconciler.model.reason import Reason
from reconciler.oci.digest import Digest
from reconciler.plan.plan import Blocked, Change, Cost, FieldChange, Operation, Step
from reconciler.value import dataclass

R = TypeVar("R", bound=ObservedResource)


@dataclass(frozen=True, slots=True)
class Gate:
    """What stands before a step: ``needs`` are steps, ``deferred`` what must happen after this pass, and ``blocked``
    what will not happen at all; ``mistaken`` when that is for the specs to put right. ``awaits`` are the steps that
    ``deferred`` is about, where they are in this plan: to know their outcome takes more than their end."""

    needs: tuple[str, ...] = ()
    deferred: str = ""
    blocked: str = ""
    mistaken: bool = False
    awaits: tuple[str, ...] = ()

    def and_(self, other: Gate) -> Gate:
        needs = tuple(dict.fromkeys((*self.needs, *other.needs)))
        blocked, mistaken = self.blocked or other.blocked, self.mistaken or other.mistaken
        awaits = tuple(dict.fromkeys((*self.awaits, *other.awaits)))
        return Gate(needs, self.deferred or other.deferred, blocked, mistaken, awaits)

    @property
    def delay(self) -> Gate:
        """This gate without its needs: only that, and for what, a step is deferred."""
        return Gate(deferred=self.deferred, awaits=self.awaits)


OPEN = Gate()
FREE = Cost()


class Draft:
    """What the planners of the kinds write to, and what they tell each other.

    - ``containers`` are those observed, by name: no order of the observation may show.
    - ``forms`` are the containers as they should be.
    - ``digests`` holds what each image that is not blocked will be; None is known after apply.
    - ``awaits`` are the steps whose outcome a deferred step waits for.
    - ``ready`` names the step after which a resource is there as desired.
    - ``freed`` and ``gone`` name the steps after which a container (by id) holds no port and no network, and exists
      no more.
    - ``early`` are those of them that cannot wait for the other steps of their container.
    - ``unsupported`` are the plan errors for fields that cannot be honoured, all of them.
    - ``recreated`` are the networks that are made anew.
    - ``fetched`` are the blobs that are on disk, or that an image planned before brings there.
    - ``told`` is what was noted when images were resolved, and of which: a mirror that is down is down for all.
    """

    def __init__(
        self,
        desired: Desired,
        observed: Observed,
        capabilities: Capabilities,
        options: PlanOptions,
        due: Collection[Address] = (),
    ) -> None:
        self.desired = desired
        self.observed = observed
        self.capabilities = capabilities
        self.options = options
        self.due = due
        self.stacks = desired.stacks | observed.source_stacks
        found = (item for item in observed.resources.values() if isinstance(item, ObservedContainer))
        self.containers = sorted(found, key=lambda item: item.address.name)
        self.changes: dict[Address, Change] = {}
        self.steps: dict[str, Step] = {}
        self.awaits: dict[str, tuple[str, ...]] = {}
        self.blocked: dict[Address, Blocked] = {}
        self.unsupported: list[Blocked] = []
        self.waiting: set[Address] = set()
        self.retry_at: float | None = None
        self.notes: list[str] = list(desired.notes)
        self.told: dict[str, list[Address]] = {}
        self.digests: dict[Address, Digest | None] = {}
        self.forms: dict[Address, Form] = {}
        self.ready: dict[Address, str] = {}
        self.freed: dict[str, str] = {}
        self.gone: dict[str, str] = {}
        self.early: set[str] = set()
        self.recreated: set[Address] = set()
        self.fetched: set[Digest] = set(observed.blobs)

    def all_notes(self) -> tuple[str, ...]:
        """The notes of the plan, each once."""
        told = []
        for note, addresses in self.told.items():
            others = f" and {len(addresses) - 1} more" if len(addresses) > 1 else ""
            told.append(f"{min(addresses)}{others}: {note}")
        return tuple(sorted([*self.notes, *told]))

    def current(self, address: Address, kind: type[R]) -> R | None:
        """What was observed under the address, if it is of that kind."""
        found = self.observed.resources.get(address)
        return found if isinstance(found, kind) else None

    def owned_container(self, address: Address) -> ObservedContainer | None:
        return self.current(address, ObservedContainer)

    def block(self, address: Address, code: str, message: str, hint: str = "", *, error: bool = True) -> None:
        """Says why the resource cannot converge. The first reason stands."""
        location = self.desired.locations.get(address)
        self.blocked.setdefault(address, Blocked(address, Reason(code, message), hint, location, error))

    def block_gate(self, address: Address, gate: Gate) -> None:
        """Says that the resource is held up by what its gate waits for in vain."""
        if gate.mistaken:
            self.block(address, "dependency-mistaken", gate.blocked, "change the one or the other")
        else:
            self.block(address, "dependency-blocked", gate.blocked, error=False)

    def change(
        self,
        address: Address,
        operation: Operation,
        code: str,
        message: str,
        fields: Iterable[FieldChange] = (),
        *,
        cost: Cost = FREE,
        tentative: bool = False,
    ) -> None:
        location = self.desired.locations.get(address)
        self.changes[address] = Change(
            address, operation, Reason(code, message), tuple(fields), location, cost, tentative
        )

    def step(self, action: Action, gate: Gate = OPEN) -> str:
        """Adds a step and returns its id."""
        step = Step(action, gate.needs, gate.deferred)
        self.steps[step.id] = step
        if gate.awaits:
            self.awaits[step.id] = gate.awaits
        return step.id

    def need(self, step_id: str, needs: Iterable[str]) -> None:
        """Adds to what a step needs."""
        step = self.steps[step_id]
        added = [need for need in needs if need not in step.needs and need != step_id]
        if added:
            self.steps[step_id] = replace(step, needs=(*step.needs, *added))

    def ready_gate(self, addresses: Iterable[Address]) -> Gate:
        """The gate that opens when these resources are there; blocked when one of them cannot be."""
        needs: list[str] = []
        blocked = ""
        for address in addresses:
            if address in self.blocked:
                blocked = blocked or f"it needs {address}, which is blocked"
            elif step_id := self.ready.get(address):
                needs.append(step_id)
        return Gate(tuple(needs), blocked=blocked)


def own_stack(address: Address) -> str:
    """The stack in the name of an address, for the kinds that have one there."""
    return address.name.partition("/")[0]


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
