"""What leaves the specs: removals, their order, and the guards against removing too much."""

from __future__ import annotations

from reconciler.errors import RefusedError
from reconciler.model.action import (
    DropFact,
    DropSync,
    DropTag,
    ReleaseImage,
    ReleaseVolume,
    RemoveContainer,
    RemoveNetwork,
)
from reconciler.model.address import Address
from reconciler.model.observed import (
    ObservedContainer,
    ObservedFact,
    ObservedImage,
    ObservedNetwork,
    ObservedResource,
    ObservedSync,
    ObservedTag,
    ObservedVolume,
)
from reconciler.model.policy import too_many_deletes
from reconciler.plan.draft import Draft, Gate, own_stack, plural
from reconciler.plan.facts import other_owners, stacks_change
from reconciler.plan.plan import Cost

_LISTED = 10


def prune(draft: Draft) -> None:
    """Removes what this plan's stacks hold and no longer declare. Raises ``RefusedError`` when a guard forbids it."""
    declared = draft.desired.resources or draft.desired.unsupported or draft.desired.from_host
    if not declared and not draft.options.allow_empty:
        raise RefusedError(
            "the specs declare no resources at all, and an empty set prunes nothing",
            hint="check the paths; if everything is really to go, say --allow-empty",
        )
    # An entry that cannot be honoured was not taken out of the specs.
    protected = {item.address for item in draft.desired.unsupported}
    owned = [address for address, found in draft.observed.resources.items() if _is_ours(draft, address, found)]
    leaving = [a for a in owned if a not in draft.desired.resources and str(a) not in protected]
    # Containers first: what they stand on can only go when they are gone.
    for address in sorted(leaving, key=lambda a: (a.kind != "container", a)):
        _remove(draft, address, draft.observed.resources[address])
    _guard(draft, len(owned))


def _is_ours(draft: Draft, address: Address, found: ObservedResource) -> bool:
    if isinstance(found, ObservedFact):
        return bool(found.stacks & draft.stacks)
    if isinstance(found, ObservedTag):
        return found.local is not None and found.stack in draft.stacks
    if isinstance(found, ObservedSync):
        return found.stack in draft.stacks
    if isinstance(found, (ObservedNetwork, ObservedVolume)) and found.form.get("external"):
        return False
    return own_stack(address) in draft.stacks


def _remove(draft: Draft, address: Address, found: ObservedResource) -> None:
    message = _why(draft, address, found)
    cost = Cost()
    match found:
        case ObservedContainer():
            draft.gone[found.id] = draft.freed[found.id] = draft.step(RemoveContainer(address, found.id))
            cost = Cost(discarded_bytes=found.discarded_bytes, downtime=found.alive)
        case ObservedNetwork():
            draft.step(RemoveNetwork(address), _gone_from(draft, "networks", address))
        case ObservedVolume():
            delete = draft.options.delete_volumes
            draft.step(ReleaseVolume(address, delete), _gone_from(draft, "mounts", address))
            message += "; its data is deleted" if delete else "; its data stays"
            cost = Cost(discarded_bytes=found.bytes if delete else 0)
        case ObservedImage():
            draft.step(ReleaseImage(address), _gone_with_image(draft, found))
        case ObservedTag():
            draft.step(DropTag(address))
            message += "; the tag at its registry stays" if found.pushed else ""
        case ObservedSync():
            draft.step(DropSync(address))
            message += "; both repositories stay as they are"
        case ObservedFact():
            if others := other_owners(draft, found):
                _keep_for_others(draft, address, found, others)
                return
            draft.step(DropFact(address))
    draft.change(address, "delete", "undeclared", message, cost=cost)


def _why(draft: Draft, address: Address, found: ObservedResource) -> str:
    if isinstance(found, ObservedFact):
        stacks = found.stacks
        if "from_file" in found.form and draft.desired.from_host:
            return f"{found.form['from_file']} does not say so any more"
    else:
        stacks = frozenset({found.stack if isinstance(found, (ObservedTag, ObservedSync)) else own_stack(address)})
    if not stacks & draft.desired.stacks:
        return f"stack {', '.join(sorted(stacks & draft.stacks))} is no longer in {draft.desired.source or 'the specs'}"
    return "it is no longer in the specs"


def _gone_from(draft: Draft, field: str, address: Address) -> Gate:
    """After the containers of this plan that use the network or the volume are gone, or have let go of it."""
    users = (found.id for found in draft.containers if _uses(found, field, str(address)))
    steps = (draft.gone.get(id_) or draft.freed.get(id_) for id_ in users)
    return Gate(tuple(step for step in steps if step))


def _uses(found: ObservedContainer, field: str, name: str) -> bool:
    if field == "networks":
        return name in found.form.get("networks", ())
    return any(mount.get("source") == name for mount in found.form.get("mounts", ()))


def _gone_with_image(draft: Draft, image: ObservedImage) -> Gate:
    users = (found.id for found in draft.containers if found.image == image.digest)
    return Gate(tuple(draft.gone[id_] for id_ in users if id_ in draft.gone))


def _keep_for_others(draft: Draft, address: Address, found: ObservedFact, others: frozenset[str]) -> None:
    """The fact stays for the stacks outside this plan; only its owners change."""
    fields = stacks_change(found.stacks, others)
    message = f"it is no longer in the specs, and stays for {', '.join(sorted(others))}"
    draft.change(address, "update", "owners", message, fields)
    draft.step(DropFact(address, remaining=others))


def _guard(draft: Draft, total: int) -> None:
    deletes = sorted(address for address, change in draft.changes.items() if change.operation == "delete")
    if not too_many_deletes(len(deletes), total, draft.options):
        return
    shown = ", ".join(str(address) for address in deletes[:_LISTED])
    more = f" and {len(deletes) - _LISTED} more" if len(deletes) > _LISTED else ""
    raise RefusedError(
        f"the plan deletes {plural(len(deletes), 'resource')} of {total}: {shown}{more}",
        hint=f"if that is meant, say --max-deletes {len(deletes)}",
    )
