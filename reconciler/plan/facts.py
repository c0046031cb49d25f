"""Facts of the host: registries, mirrors and retention rules, which several stacks may declare alike."""

from __future__ import annotations

from reconciler.model import canonical
from reconciler.model.action import SetFact
from reconciler.model.address import Address
from reconciler.model.observed import ObservedFact
from reconciler.model.resources import Mirror, Registry, Retention
from reconciler.plan.diff import diff
from reconciler.plan.draft import Draft, own_stack
from reconciler.plan.plan import FieldChange

_FILE = "from_file"


def plan_fact(draft: Draft, address: Address, fact: Registry | Mirror | Retention) -> None:
    """Records the fact, unless another stack says otherwise."""
    form = canonical.form(fact)
    owners = draft.desired.owners.get(address) or _default_owners(draft, address)
    recorded = draft.current(address, ObservedFact)
    elsewhere = draft.observed.other_stacks.get(address)
    known = recorded or (elsewhere if isinstance(elsewhere, ObservedFact) else None)
    others = _others(draft, recorded) | _others(draft, elsewhere)
    if known and others and known.form != form:
        ours, theirs = _FILE in form, _FILE in known.form
        if not ours and not theirs:
            _block_conflict(draft, address, owners, others, diff(known.form, form))
            return
        # What a spec declares counts, and what a file of the host says only where none does.
        if not theirs:
            return
        if not ours:
            others = frozenset()
    stacks = frozenset(owners | others)
    if recorded and recorded.form == form and recorded.stacks == stacks:
        return
    before = known.form if known else {}
    fields = (*diff(before, form), *stacks_change(known.stacks if known else frozenset(), stacks))
    if known is None:
        message = f"{form[_FILE]} says so" if _FILE in form else "it is declared and not recorded"
        draft.change(address, "create", "missing", message, diff({}, form))
    elif known.form == form:
        draft.change(address, "update", "owners", "the stacks that declare it changed", fields)
    else:
        draft.change(address, "update", "changed", "its fields changed", fields)
    draft.ready[address] = draft.step(SetFact(address, fact, form, stacks))


def other_owners(draft: Draft, fact: ObservedFact) -> frozenset[str]:
    """The stacks outside this plan that declare the fact."""
    return fact.stacks - draft.stacks


def stacks_change(before: frozenset[str], after: frozenset[str]) -> tuple[FieldChange, ...]:
    return (FieldChange("stacks", sorted(before), sorted(after)),) if before != after else ()


def _others(draft: Draft, found: object) -> frozenset[str]:
    return other_owners(draft, found) if isinstance(found, ObservedFact) else frozenset()


def _default_owners(draft: Draft, address: Address) -> frozenset[str]:
    stack = own_stack(address)
    return frozenset({stack}) if stack in draft.desired.stacks else draft.desired.stacks


def _block_conflict(
    draft: Draft,
    address: Address,
    owners: frozenset[str],
    others: frozenset[str],
    fields: tuple[FieldChange, ...],
) -> None:
    ours, theirs = _named(owners), _named(others)
    paths = ", ".join(field.path for field in fields)
    draft.block(
        address,
        "fact-conflict",
        f"{ours} and {theirs} declare it differently ({paths}); it is one fact of the host",
        "declare it alike in both stacks, or in one of them only",
    )


def _named(stacks: frozenset[str]) -> str:
    return ("stack " if len(stacks) == 1 else "stacks ") + ", ".join(sorted(stacks))
