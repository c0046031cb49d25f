"""The planner: from what is desired and what was observed to a plan. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from reconciler.model import canonical
from reconciler.model.address import KINDS, Address
from reconciler.model.canonical import Form
from reconciler.model.capabilities import Capabilities
from reconciler.model.desired import Desired
from reconciler.model.observed import Observed, ObservedContainer
from reconciler.model.policy import PlanOptions
from reconciler.model.reason import Reason
from reconciler.model.resources import (
    Commit,
    Container,
    Image,
    Mirror,
    Network,
    Registry,
    Resource,
    Retention,
    Sync,
    Tag,
    Volume,
)
from reconciler.plan.containers import plan_container, volumes_of
from reconciler.plan.draft import Draft, own_stack
from reconciler.plan.facts import plan_fact
from reconciler.plan.graph import ordered
from reconciler.plan.handover import hand_over
from reconciler.plan.images import plan_image
from reconciler.plan.plan import Blocked, Change, Operation, Plan
from reconciler.plan.ports import PortTable
from reconciler.plan.provisions import plan_network, plan_volume
from reconciler.plan.prune import prune
from reconciler.plan.sequence import clear_leftovers, settle
from reconciler.plan.syncs import plan_sync
from reconciler.plan.tags import plan_tag

_CAPABILITIES = Capabilities()
_OPTIONS = PlanOptions()
_COUNTED: dict[Operation, str] = {
    "create": "create",
    "update": "change",
    "start": "change",
    "stop": "change",
    "replace": "replace",
    "replace-create-first": "replace",
    "delete": "delete",
}


def plan(
    desired: Desired,
    observed: Observed,
    capabilities: Capabilities = _CAPABILITIES,
    options: PlanOptions = _OPTIONS,
    due: Collection[Address] = (),
) -> Plan:
    """What would change, why, and the steps that would do it. ``desired`` is sealed and pinned.

    ``due`` are containers that an earlier plan of the same apply was to start later: they wait for no next try.

    A resource that cannot converge is in ``blocked`` and nothing is planned for it; the rest is planned. Raises
    ``RefusedError`` when the prune guard or the guard against an empty set forbids the plan, and ``InvalidError``
    when resources need each other in a ring.
    """
    draft = Draft(desired, observed, capabilities, options, due)
    _refuse_unsupported(draft)
    taken = PortTable(_published_elsewhere(observed))
    for address in _in_order(desired.resources):
        resource = desired.resources[address]
        missing = next((need for need in _needs(resource) if need not in desired.resources), None)
        if missing is not None:
            draft.block(address, "undeclared-name", f"it names {missing}, which is not declared")
        if address not in draft.blocked:
            _plan_resource(draft, address, resource, taken)
    clear_leftovers(draft)
    prune(draft)
    hand_over(draft)
    steps = settle(draft)
    return Plan(
        changes=tuple(draft.changes[address] for address in sorted(draft.changes, key=sort_key)),
        steps=steps,
        blocked=_all_blocked(draft),
        waiting=frozenset(draft.waiting),
        retry_at=draft.retry_at,
        notes=draft.all_notes(),
        summary=_summary(draft.changes.values()),
    )


def sort_key(address: Address) -> tuple[int, str]:
    """Sorts as addresses do, without a method call for each comparison."""
    return KINDS.index(address.kind), address.name


def _plan_resource(draft: Draft, address: Address, resource: Resource, taken: PortTable) -> None:
    match resource:
        case Registry() | Mirror() | Retention():
            plan_fact(draft, address, resource)
        case Network():
            plan_network(draft, address, resource)
        case Volume():
            plan_volume(draft, address, resource)
        case Image():
            plan_image(draft, address, resource)
        case Tag():
            plan_tag(draft, address, resource)
        case Sync():
            plan_sync(draft, address, resource)
        case Container():
            plan_container(draft, address, resource, taken)


def _in_order(resources: Mapping[Address, Resource]) -> list[Address]:
    """Every resource after those it looks at, otherwise by address, so that no order of the specs shows."""
    return ordered({address: _needs(resources[address]) for address in sorted(resources, key=sort_key)})


def _needs(resource: Resource) -> tuple[Address, ...]:
    match resource:
        case Tag():
            return (resource.image,)
        case Image(source=Commit(container=container)):
            return (container,)
        case Container():
            dependencies = (dependency.container for dependency in resource.depends_on)
            return (resource.image, *resource.networks, *volumes_of(resource), *dependencies)
        case _:
            return ()


def _refuse_unsupported(draft: Draft) -> None:
    """Blocks what names a field that this version, or this engine, cannot honour."""
    for item in draft.desired.unsupported:
        address = Address.parse(item.address)
        if item.rule:
            reason = Reason("not-granted", f"not allowed on this host: {item.field} (rule {item.rule})")
        else:
            reason = Reason("unsupported", f"not supported yet: {item.field}")
        blocked = Blocked(address, reason, f"take `{item.field}` out of the spec", item.location)
        draft.unsupported.append(blocked)
        for affected in _affected(draft.desired, address):
            if affected == address:
                draft.blocked.setdefault(address, blocked)
            else:
                draft.block(affected, "dependency-blocked", f"it needs {address}, which is blocked", error=False)
    if draft.capabilities.unsupported:
        for address, resource in draft.desired.resources.items():
            for name in canonical.form(resource):
                if f"{address.kind}.{name}" in draft.capabilities.unsupported:
                    message = f"this engine cannot honour `{name}`"
                    draft.block(address, "unsupported", message, f"take `{name}` out of the spec")


def _affected(desired: Desired, address: Address) -> Iterator[Address]:
    """The resources that cannot be planned when the entry at ``address`` cannot be honoured."""
    if address in desired.resources:
        yield address
    if address.kind in ("secret", "config"):
        stack, _, name = address.name.partition("/")
        for user, resource in desired.resources.items():
            if isinstance(resource, Container) and own_stack(user) == stack:
                files = resource.secrets if address.kind == "secret" else resource.configs
                if any(file.name == name for file in files):
                    yield user


def _all_blocked(draft: Draft) -> tuple[Blocked, ...]:
    others = [item for item in draft.blocked.values() if item not in draft.unsupported]
    return tuple(sorted([*draft.unsupported, *others], key=lambda item: sort_key(item.address)))


def _published_elsewhere(observed: Observed) -> Iterator[tuple[str, Form]]:
    """The containers of other stacks that hold host ports, or will when their next try is due."""
    for address, found in observed.other_stacks.items():
        if isinstance(found, ObservedContainer) and (found.alive or _is_service(found.form)):
            yield str(address), found.form


def _is_service(form: Form) -> bool:
    return str(form.get("restart", "unless-stopped")) in ("always", "unless-stopped")


def _summary(changes: Iterable[Change]) -> dict[str, int]:
    counts = {"create": 0, "change": 0, "replace": 0, "delete": 0}
    for change in changes:
        counts[_COUNTED[change.operation]] += 1
    return counts
