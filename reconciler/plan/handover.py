"""Handing over: networks and ports are let go of by one container before another takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from reconciler.model.action import RemoveNetwork, StartContainer, StopContainer
from reconciler.model.address import Address
from reconciler.model.observed import ObservedContainer
from reconciler.plan.draft import Draft
from reconciler.plan.graph import rings
from reconciler.plan.ports import PortTable


def hand_over(draft: Draft) -> None:
    """Makes what takes a network or a port wait for those who hold it, and those let go of it who would wait for
    what waits for them."""
    alive = [found for found in (*draft.containers, *draft.observed.leftovers) if found.alive]
    for network in sorted(draft.recreated):
        _empty_network(draft, network, alive)
    holders = {found.id: found for found in alive if found.id in draft.freed}
    table = PortTable((found.id, found.form) for found in holders.values())
    for address, form in draft.forms.items():
        start = StartContainer(address).step_id
        if start not in draft.steps:
            continue
        for _, holder in table.clashes(form):
            if holders[holder].address != address:
                draft.need(start, (draft.freed[holder],))
    _open_rings(draft)


def is_on_recreated(draft: Draft, found: ObservedContainer) -> bool:
    """Whether the container is on a network that is made anew."""
    return any(str(network) in found.form.get("networks", ()) for network in draft.recreated)


def _empty_network(draft: Draft, network: Address, alive: list[ObservedContainer]) -> None:
    """The removal of a network waits for the running containers on it to stop, or for as long as one cannot.

    None of them stops before all can: one whose image cannot be had would keep the others down.
    """
    removal = RemoveNetwork(network).step_id
    freed: list[str] = []
    for found in alive:
        if str(network) not in found.form.get("networks", ()):
            continue
        if found.id in draft.freed:
            freed.append(draft.freed[found.id])
        else:
            deferred = f"{found.address} uses it and cannot be replaced now"
            draft.steps[removal] = replace(draft.steps[removal], deferred=deferred)
            draft.block(network, "in-use", deferred, error=False)
    draft.need(removal, freed)
    stops = [step_id for step_id in freed if isinstance(draft.steps[step_id].action, StopContainer)]
    needs = tuple(dict.fromkeys(need for stop in stops for need in draft.steps[stop].needs))
    for stop in stops:
        draft.steps[stop] = replace(draft.steps[stop], needs=needs)


def _open_rings(draft: Draft) -> None:
    """Without this a step would wait for itself: for the start of what cannot start before it, or, being deferred
    with all steps of its container, for a job or an image that cannot be had before it.

    Every such ring passes through a step that lets go of something for another container, and is opened there.
    """
    yielding = _yielding(draft)
    if not yielding:
        return
    _let_go(draft, yielding, rings({step_id: step.needs for step_id, step in draft.steps.items()}))
    if draft.awaits:
        ring = rings(_tied(draft))
        stuck = {ring[id_] for id_, awaited in draft.awaits.items() if any(ring[id_] == ring[a] for a in awaited)}
        early = [step_id for step_id in yielding if ring[step_id] in stuck]
        _let_go(draft, early, ring)
        _defer_early(draft, early, ring)
        draft.early.update(early)


def _yielding(draft: Draft) -> list[str]:
    """The steps that let go of something for another resource."""
    letting_go = set(draft.freed.values())
    needed = ((need, step) for step in draft.steps.values() for need in step.needs if need in letting_go)
    return sorted({need for need, step in needed if step.action.address != draft.steps[need].action.address})


def _let_go(draft: Draft, step_ids: list[str], ring: Mapping[str, int]) -> None:
    """These steps wait for nothing in their rings, and for all that their rings wait for outside: nothing is stopped
    for the sake of what may turn out to be impossible."""
    outside: dict[int, dict[str, None]] = {ring[step_id]: {} for step_id in step_ids}
    for step_id, step in draft.steps.items():
        if (mine := ring[step_id]) in outside:
            outside[mine].update((need, None) for need in step.needs if ring[need] != mine)
    for step_id in step_ids:
        draft.steps[step_id] = replace(draft.steps[step_id], needs=tuple(outside[ring[step_id]]))


def _defer_early(draft: Draft, step_ids: list[str], ring: Mapping[str, int]) -> None:
    """Only what is awaited outside their rings still defers these steps."""
    deferred: dict[int, str] = {}
    for step_id, step in draft.steps.items():
        awaited = draft.awaits.get(step_id, ())
        if step.deferred and not (awaited and all(ring[other] == ring[step_id] for other in awaited)):
            deferred.setdefault(ring[step_id], step.deferred)
    for step_id in step_ids:
        draft.steps[step_id] = replace(draft.steps[step_id], deferred=deferred.get(ring[step_id], ""))


def _tied(draft: Draft) -> dict[str, tuple[str, ...]]:
    """What each step waits for in all: what it needs and awaits, and what the other steps of its container do."""
    tied: dict[str, tuple[str, ...]] = {}
    for step_id, step in draft.steps.items():
        tied[step_id] = (*step.needs, *draft.awaits.get(step_id, ()))
        if step.action.address.kind == "container":
            container = str(step.action.address)
            tied[step_id] += (container,)
            tied[container] = (*tied.get(container, ()), step_id)
    return tied
