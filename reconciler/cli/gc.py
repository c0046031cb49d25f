"""``reconciler gc``: frees what nothing needs."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from reconciler.cli.context import Context
from reconciler.cli.table import size, table

if TYPE_CHECKING:
    from reconciler.engine.embedded.collect import Item


def run(context: Context, options: argparse.Namespace) -> int:
    """With ``--plan`` lists what would go; else frees exactly that and lists it."""
    from reconciler.engine.embedded.collect import Collection

    with context.engine() as engine:
        if options.plan:
            _show(context, options, Collection(engine.view()).plan(), "would be freed")
            return 0
        with engine.turn(context.lock_timeout):
            collection = Collection(engine.writer())
            freed = collection.collect(collection.plan())
    _show(context, options, freed, "freed")
    return 0


def _show(context: Context, options: argparse.Namespace, items: list[Item], what: str) -> None:
    total = sum(item.size for item in items)
    if options.output == "json":
        listed = [{"kind": item.kind, "id": item.id, "reason": item.why, "bytes": item.size} for item in items]
        context.print(json.dumps({"items": listed, "bytes": total}, indent=2))
        return
    if items:
        rows = [(item.kind, item.id.removeprefix("sha256:")[:12], size(item.size), item.why) for item in items]
        context.print(table(("KIND", "ID", "SIZE", "WHY"), rows))
    context.print(f"{len(items)} things, {size(total)} {what}.")
