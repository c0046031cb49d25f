"""A plan as a value: what would change, why, at what cost, and the steps that would do it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal

from reconciler.model.action import Action
from reconciler.model.address import Address
from reconciler.model.desired import Location
from reconciler.model.reason import Reason
from reconciler.value import dataclass

Operation = Literal["create", "update", "replace", "replace-create-first", "delete", "start", "stop"]


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field, before and after; ``unknown`` means that only the apply will tell what comes after."""

    path: str
    before: Any = None
    after: Any = None
    replaces: bool = False
    unknown: bool = False
    sensitive: bool = False


@dataclass(frozen=True, slots=True)
class Cost:
    """What a change costs, in bytes; None is unknown. ``downtime`` says whether something that runs is interrupted."""

    pull_bytes: int | None = 0
    push_bytes: int | None = 0
    disk_bytes: int | None = 0
    discarded_bytes: int | None = 0
    downtime: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """What would happen to one resource. ``tentative`` is a replacement that apply skips if the digest is the same."""

    address: Address
    operation: Operation
    reason: Reason
    fields: tuple[FieldChange, ...] = ()
    location: Location | None = None
    cost: Cost = Cost()
    tentative: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One action and the ids of the steps it needs.

    ``deferred`` is empty for a step that can be carried out in this pass; else it says what must happen first (a job
    must end, a digest must become known), and the step comes again, exact, in a later plan.
    """

    action: Action
    needs: tuple[str, ...] = ()
    deferred: str = ""

    @property
    def id(self) -> str:
        return self.action.step_id


@dataclass(frozen=True, slots=True)
class Blocked:
    """A resource that cannot converge now: an error in what is desired, a failed job, a fact nobody could tell.

    ``error`` is false for what is only being waited for, such as the next try of a service.
    """

    address: Address
    reason: Reason
    hint: str = ""
    location: Location | None = None
    error: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """``changes`` are ordered by address, ``steps`` so that each follows those it needs.

    ``waiting`` holds the resources whose own progress must be waited for: jobs that run and are depended upon.
    ``retry_at`` is when the first service that backs off is due again (seconds since the epoch).
    """

    changes: tuple[Change, ...] = ()
    steps: tuple[Step, ...] = ()
    blocked: tuple[Blocked, ...] = ()
    waiting: frozenset[Address] = frozenset()
    retry_at: float | None = None
    notes: tuple[str, ...] = ()
    summary: Mapping[str, int] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        return not self.changes

    @property
    def errored(self) -> bool:
        return any(item.error for item in self.blocked)
