"""Syncs: the tags to copy from one repository to another, and those to take away there."""

from __future__ import annotations

from collections.abc import Mapping

from reconciler.errors import RefusedError
from reconciler.model import canonical
from reconciler.model.action import CopyReferrers, CopyTag, PruneTag, SetSync
from reconciler.model.address import Address
from reconciler.model.facts import Known, RemoteTag, Unknown
from reconciler.model.observed import ObservedSync, ObservedTag, SyncTag, SyncView
from reconciler.model.policy import PRUNE_COUNT
from reconciler.model.resources import Sync
from reconciler.model.selection import TagSelection, select
from reconciler.oci.companion import companion_of
from reconciler.oci.digest import Digest
from reconciler.oci.reference import Reference
from reconciler.plan.diff import diff
from reconciler.plan.draft import OPEN, Draft, Gate, plural
from reconciler.plan.plan import Cost, FieldChange
from reconciler.value import dataclass

_LISTED = 5
_UNKNOWN = "see that both registries answer, then try again"
_LATER = "`reconciler status` tells when; `reconciler apply` tries at once"


@dataclass(frozen=True, slots=True)
class _Work:
    """Tags to write at the target, and to delete there, with the digest that each has now (None: there is none).

    ``referrers`` are by tag what of its image's referrers the target lacks; those of a copy come along with it.
    """

    chosen: Mapping[str, SyncTag]
    copies: Mapping[str, SyncTag]
    before: Mapping[str, Digest | None]
    referrers: Mapping[str, tuple[Digest, ...]]
    deletes: Mapping[str, Digest]

    def message(self) -> str:
        """``3 tags to add, 1 to move, 2 to delete, referrers of 1 tag to add``; empty when there is nothing to do."""
        moves = sum(self.before[tag] is not None for tag in self.copies)
        counts = ((len(self.copies) - moves, "to add"), (moves, "to move"), (len(self.deletes), "to delete"))
        parts = [f"{count} {what}" for count, what in counts if count]
        if parts:
            first, _, rest = parts[0].partition(" ")
            parts[0] = f"{plural(int(first), 'tag')} {rest}"
        if self.referrers:
            parts.append(f"referrers of {plural(len(self.referrers), 'tag')} to add")
        return ", ".join(parts)

    def fields(self) -> list[FieldChange]:
        changes = {tag: (self.before[tag], item.wanted) for tag, item in self.copies.items()}
        gone = {tag: (digest, None) for tag, digest in self.deletes.items()}
        tags = [
            FieldChange(f"tags[{tag}]", before and str(before), after and str(after))
            for tag, (before, after) in sorted({**changes, **gone}.items())
        ]
        return tags + [
            FieldChange(f"referrers[{tag}][{number}]", None, str(digest))
            for tag, digests in sorted(self.referrers.items())
            for number, digest in enumerate(digests)
        ]


_NOTHING = _Work({}, {}, {}, {}, {})


def plan_sync(draft: Draft, address: Address, sync: Sync) -> None:
    """Records the sync, copies what differs, and deletes what it does not choose where it prunes."""
    found = draft.current(address, ObservedSync) or ObservedSync()
    if _taken(draft, address, found):
        return
    if isinstance(found.view, Unknown):
        message = f"what there is to copy is unknown: {found.view.reason}"
        draft.block(address, "remote-unknown", message, found.view.hint or _UNKNOWN)
        return
    if found.view is None and found.error:
        draft.block(address, "sync-failed", f"what failed last is tried again later: {found.error}", _LATER)
    work = _work(draft, address, sync, found.view) if found.view is not None else _NOTHING
    form, owner = canonical.form(sync), min(draft.desired.owners.get(address) or draft.desired.stacks)
    is_new = found.stack == ""
    record = is_new or (found.form, found.stack) != (form, owner)
    fields = [*diff({} if is_new else found.form, form), *work.fields()]
    if not is_new and found.stack != owner:
        fields.append(FieldChange("stack", found.stack, owner))
    if not record and not fields:
        return
    _steps(draft, address, sync, work, SetSync(address, form, owner) if record else None)
    size = found.view.bytes if found.view is not None and (work.copies or work.referrers) else 0
    cost = Cost(pull_bytes=size, push_bytes=size)
    if is_new:
        message = "it is declared and not recorded" + (f": {work.message()}" if work.message() else "")
        draft.change(address, "create", "missing", message, fields, cost=cost)
    elif work.message():
        draft.change(address, "update", "tags-differ", work.message(), fields, cost=cost)
    else:
        draft.change(address, "update", "changed", "its fields changed", fields)


def _taken(draft: Draft, address: Address, found: ObservedSync) -> bool:
    """Blocks a sync into a repository that another stack syncs into, or pushes a tag to."""
    elsewhere = draft.observed.other_stacks.get(address)
    holder = elsewhere if isinstance(elsewhere, ObservedSync) else found
    if holder.stack and holder.stack not in draft.stacks:
        message = f"stack {holder.stack} declares a sync into this repository too, and it has one source"
        draft.block(address, "sync-conflict", message, "take it out of one of the two stacks")
        return True
    for other, tag in sorted(draft.observed.other_stacks.items(), key=lambda item: item[0]):
        if isinstance(tag, ObservedTag) and tag.form.get("push") and Reference.parse(other.name).name == address.name:
            message = f"stack {tag.stack} pushes {other} to this repository, which a sync is to keep"
            draft.block(address, "sync-conflict", message, "take the one or the other out, or choose two repositories")
            return True
    return False


def _steps(draft: Draft, address: Address, sync: Sync, work: _Work, record: SetSync | None) -> None:
    """What is about a tag goes before it, so that a signature is there when its image is; deletions come last."""
    hosts = {Reference.parse(name).registry for name in (sync.source, sync.target)}
    facts = [Address(kind, host) for host in sorted(hosts) for kind in ("registry", "mirror")]
    gate = draft.ready_gate(facts)
    if record is not None:
        gate = Gate((draft.step(record, gate),))
        draft.ready[address] = gate.needs[0]
    companions: dict[Digest, list[str]] = {}
    for tag, item in work.copies.items():
        if (about := companion_of(tag)) is not None:
            step = draft.step(CopyTag(address, sync, tag, item.source, item.wanted), gate)
            companions.setdefault(about, []).append(step)
    copies = [step for steps in companions.values() for step in steps]
    for tag, item in sorted(work.copies.items()):
        if companion_of(tag) is None:
            before = Gate(tuple(companions.get(item.source, ())))
            action = CopyTag(address, sync, tag, item.source, item.wanted, work.referrers.get(tag, ()))
            copies.append(draft.step(action, gate.and_(before)))
    for tag in sorted(work.referrers.keys() - work.copies.keys()):
        item = work.chosen[tag]
        attach = CopyReferrers(address, sync, tag, item.source, item.wanted, work.referrers[tag])
        copies.append(draft.step(attach, gate))
    last = gate.and_(Gate(tuple(copies)) if copies else OPEN)
    for tag, digest in sorted(work.deletes.items()):
        draft.step(PruneTag(address, sync, tag, digest), last)


def _work(draft: Draft, address: Address, sync: Sync, view: SyncView) -> _Work:
    draft.notes += [f"{address}: {note}" for note in view.notes]
    failed = dict(view.failed)
    failed |= {tag: there for tag, there in view.target.items() if isinstance(there, Unknown)}
    if failed:
        tag, why = min(failed.items())
        more = f" (and {plural(len(failed) - 1, 'more tag')})" if len(failed) > 1 else ""
        draft.block(address, "remote-unknown", f"tag {tag} is not copied: {why.reason}{more}", why.hint or _UNKNOWN)
    for what, why in sorted(view.unclear.items()):
        draft.block(address, "remote-unknown", f"{what} is unknown: {why.reason}", why.hint or _UNKNOWN)
    before = {tag: _digest(view.target.get(tag)) for tag in view.chosen}
    copies = {
        tag: item for tag, item in sorted(view.chosen.items()) if tag not in failed and before[tag] != item.wanted
    }
    # What is unknown may be what makes a tag, or the digest it shares, one to keep.
    certain = not failed and not view.unclear
    deletes = _leaving(draft, address, sync, view) if certain and sync.prune is not None else {}
    referrers = {tag: found for tag, found in view.referrers.items() if tag not in failed}
    return _Work(view.chosen, copies, before, referrers, deletes)


def _leaving(draft: Draft, address: Address, sync: Sync, view: SyncView) -> Mapping[str, Digest]:
    """The tags to delete at the target, by the digest that goes with each. Says which stay for a shared digest."""
    assert sync.prune is not None
    there = {tag: found.digest for tag, found in view.target.items() if isinstance(found, Known)}
    others = there.keys() - view.chosen.keys()
    protect = sync.prune.protect
    protected = set(select(others, TagSelection(allow=protect), {}, 0).chosen) if protect else set()
    protected |= others & view.young
    kept = {item.wanted for item in view.chosen.values()} | {there[tag] for tag in protected} | view.nested
    about_kept: set[str] = set()
    while more := {tag for tag in others - about_kept if companion_of(tag) in kept}:
        about_kept |= more  # and what is about those: a signature of an SBOM
        kept |= {there[tag] for tag in more}
    leaving = sorted(others - protected - about_kept)
    shared = [tag for tag in leaving if there[tag] in kept]
    if shared:
        listed = ", ".join(shared[:_LISTED]) + (f" and {len(shared) - _LISTED} more" if len(shared) > _LISTED else "")
        draft.notes.append(
            f"{address}: {listed} stay{'s' if len(shared) == 1 else ''} although not chosen: "
            "a tag that stays needs the same manifest, and registries delete by digest"
        )
    deletes = {tag: there[tag] for tag in leaving if there[tag] not in kept}
    if not _too_many(draft, sync, view, len(deletes), len(there)):
        return deletes
    listed = ", ".join([*deletes][:_LISTED]) + (f" and {len(deletes) - _LISTED} more" if len(deletes) > _LISTED else "")
    message = f"it would delete {plural(len(deletes), 'tag')} of the {len(there)} at its target: {listed}"
    hint = f"if that is meant, say --max-deletes {len(deletes)}"
    if draft.options.asked:
        raise RefusedError(f"{address}: {message}", hint=hint)
    # The world changed, not the specs: what else this host needs goes on.
    draft.block(address, "too-many-deletes", message, f"{hint} to `reconciler apply`")
    return {}


def _too_many(draft: Draft, sync: Sync, view: SyncView, deletes: int, total: int) -> bool:
    assert sync.prune is not None
    if draft.options.max_deletes is not None:
        return deletes > draft.options.max_deletes
    if not view.chosen:
        return deletes > 0
    # A share of 0.29 of 100 is 28.999999999999996 in binary fractions, and 29 are not more than it.
    return deletes > PRUNE_COUNT and deletes > total * sync.prune.max_delete_share + 1e-9


def _digest(found: RemoteTag | None) -> Digest | None:
    return found.digest if isinstance(found, Known) else None
