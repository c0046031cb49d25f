"""Tags: on this host, and pushed to their registries."""

from __future__ import annotations

from reconciler.model import canonical
from reconciler.model.action import PushTag, SetTag
from reconciler.model.address import Address
from reconciler.model.desired import Pin
from reconciler.model.facts import Absent, Known, Unknown
from reconciler.model.observed import ObservedImage, ObservedSync, ObservedTag
from reconciler.model.resources import Tag
from reconciler.oci.digest import Digest
from reconciler.plan.diff import diff
from reconciler.plan.draft import Draft, Gate
from reconciler.plan.plan import Cost, FieldChange
from reconciler.value import dataclass

_NOT_TAGGED = ObservedTag(local=None)


@dataclass(frozen=True, slots=True)
class _Push:
    """What is to be done at the registry: nothing unless ``needed``; ``blocked`` is a reason not to touch the tag."""

    needed: bool = False
    expected: Digest | None = None
    repair: bool = False
    code: str = ""
    message: str = ""
    hint: str = ""
    blocked: bool = False


_NOTHING = _Push()


def plan_tag(draft: Draft, address: Address, tag: Tag) -> None:
    """Points the tag at its image on this host, then at the registry where it is pushed."""
    found = draft.current(address, ObservedTag) or _NOT_TAGGED
    if tag.image in draft.blocked:
        # What cannot be told now stays as it is; only a tag that is not there yet is held up.
        if found.local is None:
            draft.block(address, "dependency-blocked", f"it needs {tag.image}, which is blocked", error=False)
        return
    digest = draft.digests[tag.image]
    if _taken(draft, address, found, digest) or (tag.push is not None and _synced(draft, address, tag)):
        return
    push = _push(tag, found, digest)
    if push.blocked:
        draft.block(address, push.code, push.message, push.hint)
        return
    form = canonical.form(tag)
    owner = _owner(draft, address, found)
    fields = _fields(found, form, digest, owner, push)
    set_local = digest is None or found.local != digest or found.form != form or found.stack != owner
    if not set_local and not push.needed:
        return
    gate = draft.ready_gate((tag.image,))
    if digest is None:
        gate = gate.and_(Gate(deferred=f"the digest of {tag.image} is known after apply"))
    if set_local:
        last = draft.step(SetTag(address, tag, digest, form, owner), gate)
        gate = Gate((last,), gate.deferred)
        draft.ready[address] = last
    if push.needed:
        facts = [Address("registry", tag.reference.registry)]
        action = PushTag(address, tag, digest, push.expected, push.repair)
        draft.ready[address] = draft.step(action, gate.and_(draft.ready_gate(facts)))
        _note_index(draft, address, tag)
    cost = Cost(push_bytes=None if push.needed else 0)
    if found.local is None:
        draft.change(address, "create", "missing", "it is declared and not there", fields, cost=cost)
    elif set_local:
        message = _changed(tag, found, digest)
        draft.change(address, "update", "changed", message, fields, cost=cost)
    else:
        draft.change(address, "update", push.code, push.message, fields, cost=cost)


def _changed(tag: Tag, found: ObservedTag, digest: Digest | None) -> str:
    if digest is None:
        return f"{tag.image} is made again, and may turn out the same"
    return "its image changed" if found.local != digest else "its fields changed"


def _taken(draft: Draft, address: Address, found: ObservedTag, digest: Digest | None) -> bool:
    """Blocks the tag when somebody else holds it on this host."""
    elsewhere = draft.observed.other_stacks.get(address)
    holder = elsewhere if isinstance(elsewhere, ObservedTag) else found
    if holder.local is None or holder.stack in draft.stacks:
        return False
    if holder.stack:
        message = f"stack {holder.stack} declares this tag too, and a tag belongs to one stack"
        draft.block(address, "tag-conflict", message, "take it out of one of the two stacks")
        return True
    if holder.local == digest:
        return False
    message = f"the tag was made on this host by hand, for {holder.local.hex[:12]}"
    hint = f"remove it with `reconciler image rm {address.name}`, then apply again"
    draft.block(address, "tag-conflict", message, hint)
    return True


def _synced(draft: Draft, address: Address, tag: Tag) -> bool:
    """Blocks a push to a repository that a sync of another stack keeps."""
    sync = Address("sync", tag.reference.name)
    keeper = draft.observed.other_stacks.get(sync)
    if not isinstance(keeper, ObservedSync) or not keeper.stack:
        return False
    message = f"stack {keeper.stack} declares {sync}, which keeps the repository that this tag is pushed to"
    draft.block(address, "sync-conflict", message, "take the one or the other out, or choose two repositories")
    return True


def _owner(draft: Draft, address: Address, found: ObservedTag) -> str:
    owners = draft.desired.owners.get(address)
    if owners:
        return min(owners)
    return found.stack or min(draft.desired.stacks, default="")


def _push(tag: Tag, found: ObservedTag, digest: Digest | None) -> _Push:
    """What the registry's tag needs, by the push rule of the spec."""
    if tag.push is None:
        return _NOTHING
    remote = found.remote if found.remote is not None else Unknown("it was not asked for")
    match remote:
        case Unknown(reason, known_hint):
            message = f"what the registry has under it is unknown: {reason}"
            hint = known_hint or f"see that {tag.reference.registry} answers, then try again"
            return _Push(code="remote-unknown", message=message, hint=hint, blocked=True)
        case Absent():
            return _Push(True, code="not-pushed", message="its registry does not have it")
        case Known(there) if there == digest:
            return _NOTHING
        case Known(there):
            return _overwrite(tag, found, digest, there)


def _overwrite(tag: Tag, found: ObservedTag, digest: Digest | None, there: Digest) -> _Push:
    if digest is None and tag.push == "never" and found.pushed != there:
        # It may turn out to be the same image, which needs no push.
        return _Push(True, there, code="image-changed", message="its image changes")
    if tag.push == "never":
        message = f"its registry has it for {there.short} and `push: never` forbids overwriting it"
        return _Push(code="tag-immutable", message=message, hint="release under a new tag", blocked=True)
    if found.pushed == there:
        return _Push(True, there, code="image-changed", message="its image changed since it was pushed")
    if tag.push == "always":
        return _Push(True, there, found.pushed == digest, "remote-moved", f"its registry has it for {there.short}")
    if found.pushed is None:
        if digest is None:
            return _Push(True, there, code="image-changed", message="its image changes")
        message = f"its registry has it for {there.short}, which this host did not push"
        hint = "choose another tag, or say `push: always` to overwrite it"
        return _Push(code="tag-conflict", message=message, hint=hint, blocked=True)
    if found.repaired and found.pushed == digest:
        message = f"somebody moved it to {there.short} again after it was put back once"
        hint = "find out who else pushes it, or say `push: always` to overwrite it every time"
        return _Push(code="tag-stalled", message=message, hint=hint, blocked=True)
    return _Push(True, there, True, "remote-moved", f"somebody moved it to {there.short} at its registry")


def _fields(
    found: ObservedTag, form: canonical.Form, digest: Digest | None, owner: str, push: _Push
) -> tuple[FieldChange, ...]:
    fields = list(diff(found.form, form))
    if digest is None or found.local != digest:
        fields.append(_digest_change("digest", found.local, digest))
    if found.local is not None and found.stack != owner:
        fields.append(FieldChange("stack", found.stack or None, owner))
    if push.needed:
        fields.append(_digest_change("remote", push.expected, digest))
    return tuple(fields)


def _digest_change(path: str, before: Digest | None, after: Digest | None) -> FieldChange:
    return FieldChange(path, before and str(before), after and str(after), unknown=after is None)


def _note_index(draft: Draft, address: Address, tag: Tag) -> None:
    """Says that a push narrows an index to the one manifest that this host has."""
    pin = draft.desired.pins.get(tag.image)
    image = draft.current(tag.image, ObservedImage)
    index = (pin.index if isinstance(pin, Pin) else None) or (image.index if image and pin is None else None)
    if index:
        draft.notes.append(f"{address}: pushes this platform's manifest, not the whole index {index.short}")
