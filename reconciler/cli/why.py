"""``reconciler why``: who keeps something in the store."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from reconciler.cli.context import Context
from reconciler.cli.table import size
from reconciler.printable import printable

if TYPE_CHECKING:
    from reconciler.engine.embedded.upkeep.roots import Keeper
    from reconciler.engine.embedded.upkeep.why import Thing, Why

_KEEPERS = {"entry": "image", "tag": "name", "retention": "rule"}


def run(context: Context, options: argparse.Namespace) -> int:
    """The chain from the thing to each reason for which it stays, or that gc frees it. Writes nothing."""
    from reconciler.engine.embedded.upkeep.why import Inquiry

    with context.engine() as engine:
        found = Inquiry(engine.view()).why(options.name)
    if options.output == "json":
        context.print(json.dumps(_document(found), indent=2))
    else:
        context.print("\n".join(_text(found)))
    return 0


def _text(found: Why) -> list[str]:
    lines = [f"{found.thing.kind} {found.thing.digest} ({size(found.size)})"]
    if not found.chains:
        return [*lines, f"  {_unkept(found)}"]
    tree: dict[tuple[Thing, ...], list[Keeper]] = {}
    for chain in found.chains:
        tree.setdefault(chain.things[1:], []).append(chain.keeper)
    # First what keeps it by itself, then by way of each image.
    for things, keepers in sorted(tree.items(), key=lambda item: (len(item[0]), item[0][0].digest if item[0] else "")):
        indent = "  "
        for thing in things:
            lines.append(f"{indent}{thing.part} {_of(thing)}")
            indent += "  "
        lines += [f"{indent}kept by {_keeper(keeper)}" for keeper in keepers]
    return lines


def _of(thing: Thing) -> str:
    return f"of image {thing.digest.short}" if thing.kind == "image" else f"({thing.digest.short})"


def _keeper(keeper: Keeper) -> str:
    kind = _KEEPERS.get(keeper.kind, keeper.kind)
    return printable(f"{kind} {keeper.name}: {keeper.detail}")


def _unkept(found: Why) -> str:
    if found.garbage is None:
        return "nothing keeps it, but gc leaves it for now: somebody may be making or removing it"
    return f"nothing keeps it: gc frees {size(found.garbage.size)} ({found.garbage.why})"


def _document(found: Why) -> dict[str, Any]:
    garbage = found.garbage
    return {
        "kind": found.thing.kind,
        "digest": found.thing.digest,
        "bytes": found.size,
        "kept": bool(found.chains),
        "chains": [
            {
                "things": [{"kind": t.kind, "digest": t.digest, "part": t.part or None} for t in chain.things],
                "keeper": {
                    "kind": chain.keeper.kind,
                    "name": chain.keeper.name,
                    "detail": chain.keeper.detail,
                    "stack": chain.keeper.stack or None,
                },
            }
            for chain in found.chains
        ],
        "garbage": {"reason": garbage.why, "bytes": garbage.size} if garbage else None,
    }
