"""The last pass over the steps: leftovers, and what must wait with what."""

from __future__ import annotations

from dataclasses import replace

from reconciler.model.action import RemoveContainer, StartContainer
from reconciler.model.address import Address
from reconciler.model.observed import ObservedContainer
from reconciler.model.reason import Reason
from reconciler.plan.draft import Draft, Gate, own_stack
from reconciler.plan.graph import ordered
from reconciler.plan.handover import is_on_recreated
from reconciler.plan.plan import Cost, Step


def clear_leftovers(draft: Draft) -> None:
    """Removes what interrupted replacements left, each before its successor starts, and not while that is blocked.

    Where the start is deferred, so is the removal, as all steps of one container are.
    """
    for found in sorted(draft.observed.leftovers, key=lambda item: (item.address, item.id)):
        if own_stack(found.address) not in draft.stacks:
            continue
        start = draft.steps.get(StartContainer(found.address).step_id)
        successor = draft.current(found.address, ObservedContainer)
        if found.alive and found.address in draft.blocked and not (successor and successor.alive):
            continue
        _remove_leftover(draft, found, start)


def _remove_leftover(draft: Draft, found: ObservedContainer, start: Step | None) -> None:
    needs: tuple[str, ...] = ()
    if start and not is_on_recreated(draft, found):
        needs = tuple(need for need in start.needs if need.startswith("create "))
    removal = draft.step(RemoveContainer(found.address, found.id), Gate(needs))
    draft.freed[found.id] = draft.gone[found.id] = removal
    if start:
        draft.need(start.id, (removal,))
    _report_leftover(draft, found)


def _report_leftover(draft: Draft, found: ObservedContainer) -> None:
    message = f"container {found.id[:12]} is left of an interrupted replacement"
    change = draft.changes.get(found.address)
    if change is None:
        declared = found.address in draft.desired.resources
        cost = Cost(discarded_bytes=found.discarded_bytes, downtime=found.alive)
        draft.change(found.address, "update" if declared else "delete", "leftover", message, cost=cost)
        return
    before, more = change.cost.discarded_bytes, found.discarded_bytes
    cost = replace(
        change.cost,
        discarded_bytes=None if before is None or more is None else before + more,
        downtime=change.cost.downtime or found.alive,
    )
    reason = Reason(change.reason.code, f"{change.reason.message}; {message}")
    draft.changes[found.address] = replace(change, reason=reason, cost=cost)


def settle(draft: Draft) -> tuple[Step, ...]:
    """The steps in order. What needs a deferred step is deferred itself, and a container's steps all together but for
    those that must let go early.

    Raises ``InvalidError`` when steps need each other in a ring.
    """
    order = ordered({step.id: step.needs for step in draft.steps.values()})
    steps = draft.steps
    groups: dict[Address, list[str]] = {}
    for step in steps.values():
        if step.action.address.kind == "container":
            groups.setdefault(step.action.address, []).append(step.id)
    changed = any(step.deferred for step in steps.values())
    while changed:
        changed = False
        for step_id in order:
            changed |= _defer(steps, step_id, steps[step_id].needs)
        for members in groups.values():
            for step_id in members:
                if step_id not in draft.early:
                    changed |= _defer(steps, step_id, members)
    return tuple(steps[step_id] for step_id in order)


def _defer(steps: dict[str, Step], step_id: str, others: tuple[str, ...] | list[str]) -> bool:
    """Defers a step with the first of ``others`` that is deferred, and says whether that changed it."""
    if steps[step_id].deferred:
        return False
    deferred = next((steps[other].deferred for other in others if other in steps and steps[other].deferred), "")
    if deferred:
        steps[step_id] = replace(steps[step_id], deferred=deferred)
    return bool(deferred)
