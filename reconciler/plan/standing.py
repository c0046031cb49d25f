"""How far the containers are that others wait for."""

from __future__ import annotations

from reconciler.model.action import StartContainer
from reconciler.model.address import Address
from reconciler.model.observed import ObservedContainer
from reconciler.model.resources import Container, Dependency
from reconciler.plan.activity import ending
from reconciler.plan.draft import OPEN, Draft, Gate


def dependency(draft: Draft, wanted: Dependency) -> Gate:
    """The gate of one ``depends_on``. The container depended upon must have been planned before."""
    if wanted.condition == "service_completed_successfully":
        return completed(draft, wanted.container)
    return started(draft, wanted.container)


def started(draft: Draft, address: Address) -> Gate:
    """Opens when the container has been started."""
    found = draft.current(address, ObservedContainer)
    declared = draft.desired.resources.get(address)
    if isinstance(declared, Container) and declared.state == "stopped":
        return Gate(blocked=f"it depends on {address}, which is declared stopped", mistaken=True)
    if step := _start_step(draft, address):
        return step
    if found is not None and (found.alive or found.succeeded):
        return OPEN
    return _not_coming(draft, address)


def completed(draft: Draft, address: Address) -> Gate:
    """Opens when the job has exited 0 as its spec now says."""
    found = draft.current(address, ObservedContainer)
    declared = draft.desired.resources.get(address)
    if isinstance(declared, Container) and not declared.restart.is_job:
        return Gate(blocked=f'{address} is a service and never ends; a job has `restart: "no"`', mistaken=True)
    if isinstance(declared, Container) and declared.state == "stopped" and not (found and found.succeeded):
        return Gate(blocked=f"{address} is declared stopped and has not run to its end", mistaken=True)
    if step := _start_step(draft, address):
        return step.and_(Gate(deferred=f"{address} must exit 0 first", awaits=step.needs))
    if found is None or address in draft.blocked:
        return _not_coming(draft, address)
    if found.succeeded:
        return OPEN
    if found.alive:
        draft.waiting.add(address)
        return Gate(deferred=f"{address} must exit 0 first")
    return Gate(blocked=f"it waits for {address} to exit 0, and {ending(found)}")


def _start_step(draft: Draft, address: Address) -> Gate | None:
    step = draft.steps.get(StartContainer(address).step_id)
    return Gate((step.id,), step.deferred, awaits=draft.awaits.get(step.id, ())) if step else None


def _not_coming(draft: Draft, address: Address) -> Gate:
    why = draft.blocked.get(address)
    return Gate(blocked=f"it needs {address}, which " + ("is blocked" if why else "is not declared"))
