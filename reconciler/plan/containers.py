"""Containers: created, replaced, changed in place, started and stopped."""

from __future__ import annotations

from reconciler.model import canonical
from reconciler.model.action import (
    CreateContainer,
    RemoveContainer,
    StartContainer,
    StopContainer,
    UpdateContainer,
)
from reconciler.model.address import Address
from reconciler.model.canonical import Form
from reconciler.model.observed import ObservedContainer
from reconciler.model.reason import Reason
from reconciler.model.resources import Container
from reconciler.oci.digest import Digest
from reconciler.plan.activity import SETTLED, Verdict, judge
from reconciler.plan.diff import diff
from reconciler.plan.draft import OPEN, Draft, Gate
from reconciler.plan.plan import Cost, FieldChange, Operation
from reconciler.plan.ports import PortTable
from reconciler.plan.provisions import drift_fields
from reconciler.plan.standing import dependency
from reconciler.value import dataclass


@dataclass(frozen=True, slots=True)
class _Want:
    """What a container should be made from. ``unknown`` says that its image is known only after apply."""

    address: Address
    container: Container
    form: Form
    image: Digest | None
    unknown: bool


def plan_container(draft: Draft, address: Address, container: Container, taken: PortTable) -> None:
    """Plans one container; the containers it depends on and its image have been planned. ``taken`` are host ports of
    other stacks."""
    found = draft.owned_container(address)
    want = _wanted(draft, address, container, found)
    if want is None:
        return
    draft.forms[address] = want.form
    fields = _changed_fields(draft, want, found)
    if found is None:
        _make(draft, want, None, "create", Reason("missing", "it is declared and not there"), fields, taken)
    elif reason := _replacement(draft, want, found, fields):
        _make(draft, want, found, "replace", reason, fields, taken)
    else:
        _keep(draft, want, found, fields, taken)


def _wanted(draft: Draft, address: Address, container: Container, found: ObservedContainer | None) -> _Want | None:
    """The form the container should have; None when its image is blocked and it is not there or has changed."""
    form = canonical.form(container)
    if container.image not in draft.blocked:
        digest = draft.digests[container.image]
        if digest is not None:
            form["image"] = str(digest)
        return _Want(address, container, form, digest, digest is None)
    # An image that cannot be told now is no reason to let go of a container that runs on the one it has.
    if found is not None:
        form["image"] = found.form.get("image")
        if form == found.form:
            return _Want(address, container, form, found.image, unknown=False)
    draft.block(address, "dependency-blocked", f"it needs {container.image}, which is blocked", error=False)
    return None


def _changed_fields(draft: Draft, want: _Want, found: ObservedContainer | None) -> tuple[FieldChange, ...]:
    before = dict(found.form) if found else {}
    in_place = draft.capabilities.in_place if found else None
    if not want.unknown:
        return diff(before, want.form, in_place=in_place)
    image = FieldChange("image", before.pop("image", None), None, replaces=found is not None, unknown=True)
    return tuple(sorted((*diff(before, want.form, in_place=in_place), image), key=lambda field: field.path))


def _replacement(draft: Draft, want: _Want, found: ObservedContainer, fields: tuple[FieldChange, ...]) -> Reason | None:
    """Why the container must be made anew, if it must."""
    causes = [field for field in fields if field.replaces and not field.unknown]
    if any(field.path == "image" for field in causes):
        return Reason("image-changed", "its image changed" + (" and so did its spec" if len(causes) > 1 else ""))
    if causes:
        return Reason("changed", "its spec changed")
    if found.alive and (moved := _on_recreated(draft, found)):
        return Reason("network-replaced", f"{moved[0]} is made anew")
    if want.unknown:
        return Reason("image-may-change", f"{want.container.image} is made again, and may turn out the same")
    return None


def _on_recreated(draft: Draft, found: ObservedContainer) -> list[Address]:
    if not draft.recreated:
        return []
    attached = set(found.form.get("networks", ()))
    return sorted(address for address in draft.recreated if str(address) in attached)


def _make(
    draft: Draft,
    want: _Want,
    found: ObservedContainer | None,
    operation: Operation,
    reason: Reason,
    fields: tuple[FieldChange, ...],
    taken: PortTable,
) -> None:
    """A new container, in place of ``found`` where there is one: new made, old stopped, new started, old removed."""
    runs = want.container.state == "running"
    image = _image_gate(draft, want)
    start_gate = _dependencies(draft, want) if runs else OPEN
    things = draft.ready_gate(_things(want.container))
    if (runs and _port_taken(draft, want, taken)) or _blocked(draft, want, image.and_(things).and_(start_gate)):
        return
    # Nothing of it begins before all of it can: a container in two halves is worse than one that waits.
    delay = image.and_(start_gate).delay
    early = found is not None and found.alive and bool(_on_recreated(draft, found))
    action = CreateContainer(want.address, want.container, want.form, want.image, found.id if found else "")
    create = draft.step(action, delay.and_(Gate(image.and_(things).needs)))
    last = create
    if found is not None and found.alive:
        # A network that is made anew must be let go of first; else the new container is there before the old stops.
        before = image.needs if early else (create, *start_gate.needs)
        stop = draft.step(StopContainer(want.address, found.id), delay.and_(Gate(before)))
        draft.freed[found.id] = last = stop
    if runs:
        needs = (create, last, *start_gate.needs)
        last = draft.step(StartContainer(want.address), delay.and_(Gate(needs)))
        draft.ready[want.address] = last
    if found is not None:
        draft.gone[found.id] = draft.step(RemoveContainer(want.address, found.id), delay.and_(Gate((create, last))))
    cost = Cost(
        discarded_bytes=found.discarded_bytes if found else 0,
        downtime=found is not None and found.alive,
    )
    tentative = reason.code == "image-may-change"
    draft.change(want.address, operation, reason.code, reason.message, fields, cost=cost, tentative=tentative)


def _keep(
    draft: Draft, want: _Want, found: ObservedContainer, fields: tuple[FieldChange, ...], taken: PortTable
) -> None:
    """The container stays: its spec changes in place, if it does, and its state."""
    asked = draft.options.asked or want.address in draft.due or bool(fields)
    verdict = judge(want.container, found, draft.observed.now, asked=asked)
    gate = OPEN
    if verdict.kind in ("start", "restart"):
        gate = _image_gate(draft, want).and_(draft.ready_gate(_things(want.container))).and_(_dependencies(draft, want))
        if _port_taken(draft, want, taken) or _blocked(draft, want, gate):
            verdict = SETTLED
    _report(draft, want.address, found, fields, verdict)
    last = gate
    if fields:
        update = draft.step(UpdateContainer(want.address, found.id, want.container, want.form))
        last = gate.and_(Gate((update,)))
    if verdict.kind in ("stop", "restart"):
        stop = draft.step(StopContainer(want.address, found.id), last)
        draft.freed[found.id] = stop
        last = gate.delay.and_(Gate((stop,)))
    if verdict.kind in ("start", "restart"):
        draft.ready[want.address] = draft.step(StartContainer(want.address, found.id), last)


def _report(
    draft: Draft, address: Address, found: ObservedContainer, fields: tuple[FieldChange, ...], verdict: Verdict
) -> None:
    """The change that people see, or why there is none yet."""
    if verdict.kind == "failed":
        hint = f"run it again with `reconciler container start {address.name}`, or change its spec or its image"
        draft.block(address, verdict.reason.code, verdict.reason.message, hint)
    elif verdict.kind == "wait":
        draft.block(address, "backoff", f"{verdict.reason.message}; the next start is due shortly", error=False)
        draft.retry_at = min(draft.retry_at or verdict.until, verdict.until)
    if fields:
        draft.change(address, "update", "changed", "its spec changed", fields)
        return
    if verdict.kind == "restart":
        drifted = drift_fields(found.drift)
        cost = Cost(downtime=True)
        draft.change(address, "update", verdict.reason.code, verdict.reason.message, drifted, cost=cost)
    elif verdict.kind == "start":
        draft.change(address, "start", verdict.reason.code, verdict.reason.message)
    elif verdict.kind == "stop":
        draft.change(address, "stop", verdict.reason.code, verdict.reason.message, cost=Cost(downtime=True))


def _image_gate(draft: Draft, want: _Want) -> Gate:
    if want.container.image in draft.blocked:
        return OPEN
    gate = draft.ready_gate((want.container.image,))
    if want.unknown:
        reason = f"the digest of {want.container.image} is known after apply"
        return gate.and_(Gate(deferred=reason, awaits=gate.needs))
    return gate


def _dependencies(draft: Draft, want: _Want) -> Gate:
    gate = OPEN
    for wanted in want.container.depends_on:
        gate = gate.and_(dependency(draft, wanted))
    return gate


def _blocked(draft: Draft, want: _Want, gate: Gate) -> bool:
    if gate.blocked:
        draft.block_gate(want.address, gate)
    return bool(gate.blocked)


def _port_taken(draft: Draft, want: _Want, taken: PortTable) -> bool:
    clash = next(taken.clashes(want.form), None)
    if clash:
        message = f"host port {clash[0]} is published by {clash[1]} already"
        draft.block(want.address, "port-taken", message, "publish another host port, or free that one")
    return clash is not None


def _things(container: Container) -> tuple[Address, ...]:
    return (*container.networks, *volumes_of(container))


def volumes_of(container: Container) -> tuple[Address, ...]:
    """The named volumes that the container mounts."""
    return tuple(Address.parse(mount.source) for mount in container.mounts if mount.kind == "volume" and mount.source)
