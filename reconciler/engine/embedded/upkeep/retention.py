"""What retention rules keep: pure functions over rules, generations and ages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from reconciler.value import dataclass

if TYPE_CHECKING:
    from reconciler.engine.port import Generation
    from reconciler.model.address import Address
    from reconciler.model.observed import ObservedFact
    from reconciler.oci.digest import Digest

KEEP_GENERATIONS = 3
HISTORY = 100
"""Of each source this many generations stay on record, whether or not their images do."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The retention rules in force on the host: of several stacks' rules, the one that keeps most."""

    keep_generations: int = KEEP_GENERATIONS
    images_unused_for: float = 0.0
    containers_exited_for: float | None = None


def rules_of(facts: Mapping[Address, ObservedFact]) -> Rules:
    """The retention rules of all stacks as one: whatever keeps most wins."""
    forms = [fact.form for address, fact in facts.items() if address.kind == "retention"]
    keep = [form["keep_generations"] for form in forms if "keep_generations" in form]
    unused = [form["images_unused_for"] for form in forms if "images_unused_for" in form]
    exited = [form.get("containers_exited_for") for form in forms]
    return Rules(
        max(keep) if keep else KEEP_GENERATIONS,
        max(unused, default=0.0),
        # A stack without the rule keeps its ended containers for ever; ad-hoc ones go by those that have one.
        max((limit for limit in exited if limit is not None), default=None),
    )


def kept_generations(generations: Sequence[Generation], keep: int) -> list[Generation]:
    """The last ``keep`` generations of each source: a busy source does not push out the others' rollbacks."""
    return [item for found in by_source(generations).values() for item in (found[-keep:] if keep else [])]


def by_source(generations: Sequence[Generation]) -> dict[str, list[Generation]]:
    found: dict[str, list[Generation]] = {}
    for generation in generations:
        found.setdefault(generation.source, []).append(generation)
    return found


def forgettable(generations: Sequence[Generation], rules: Rules, now: float, *, least: int = HISTORY) -> list[int]:
    """The numbers of the generations that no rule needs any more: neither their absence nor their presence tells.

    Of each source stay the last ``keep_generations``, and no fewer than ``least``; and those that are younger than
    ``unused_for``, with the one before them: it tells which images they replaced.
    """
    found = []
    for history in by_source(generations).values():
        young = next((at for at, item in enumerate(history) if now - item.created_at < rules.images_unused_for), None)
        kept = max(least, rules.keep_generations)
        last = len(history) - kept if young is None else min(len(history) - kept, young - 1)
        found += [item.number for item in history[: max(last, 0)]]
    return sorted(found)


def last_wanted(generations: Sequence[Generation]) -> dict[Digest, float]:
    """When each image that a generation names was last wanted: now declared, or replaced in what its source declares.

    Seconds since the epoch, as the generations have them.
    """
    latest: dict[Digest, float] = {}
    held: dict[str, set[Digest]] = {}
    for generation in generations:
        holds = {entry.digest for entry in generation.entries.values() if entry.digest is not None}
        # The last one by number: the clock that dates them may have been moved.
        latest.update(dict.fromkeys(holds | held.get(generation.source, set()), generation.created_at))
        held[generation.source] = holds
    return latest
