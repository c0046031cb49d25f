"""``reconciler gc``: frees what nothing needs."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from reconciler.cli.context import Context
from reconciler.cli.table import size, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.engine.embedded.upkeep.collect import Item


def run(context: Context, options: argparse.Namespace) -> int:
    """With ``--plan`` lists what would go; else frees exactly that, but for what came into use, and lists it."""
    from reconciler.engine.embedded.upkeep.collect import Collection, collect

    with context.engine() as engine:
        listed = Collection(engine.view()).plan()
        if options.plan:
            _show(context, options, listed, "would be freed")
            return 0
        freed: list[Item] = []
        try:
            if engine.view().state.identity.exists:  # else there is no root, and none is made for this
                freed.extend(collect(engine, listed, context.lock_timeout))
        finally:
            # What is gone is told of even if the rest could not go.
            _show(context, options, freed, "freed", len(listed))
    if len(freed) < len(listed):
        kept = len(listed) - len(freed)
        context.note(f"{kept} of {len(listed)} listed things stay: they came into use, or were gone already")
    return 0


def _show(
    context: Context, options: argparse.Namespace, items: Sequence[Item], what: str, listed: int | None = None
) -> None:
    totals = _totals(items)
    total = sum(item.size for item in items)
    if options.output == "json":
        document = {
            "items": [{"kind": item.kind, "id": item.id, "reason": item.why, "bytes": item.size} for item in items],
            "totals": {kind: {"count": count, "bytes": used} for kind, (count, used) in totals.items()},
            "bytes": total,
        }
        if listed is not None:
            document["kept"] = listed - len(items)
        context.print(json.dumps(document, indent=2))
        return
    if items:
        rows = [(item.kind, _short(item), size(item.size), item.why) for item in items]
        context.print(table(("KIND", "ID", "SIZE", "WHY"), rows))
        context.print()
        sums = [(kind, str(count), size(used)) for kind, (count, used) in totals.items()]
        context.print(table(("KIND", "COUNT", "SIZE"), sums))
        context.print()
    context.print(f"{len(items)} things, {size(total)} {what}.")


def _totals(items: Sequence[Item]) -> dict[str, tuple[int, int]]:
    """Count and bytes of each kind, in the order of the list."""
    found: dict[str, tuple[int, int]] = {}
    for item in items:
        count, used = found.get(item.kind, (0, 0))
        found[item.kind] = count + 1, used + item.size
    return found


def _short(item: Item) -> str:
    """An id as listings show it; of what an interrupted unpack or removal left, also what that was."""
    name = item.id.removeprefix("sha256:")
    return name[:12] + name[64:] if item.kind in ("layer", "blob", "image", "partial", "container") else name
