"""``reconciler validate``: are these specs right? Needs no root and no host."""

from __future__ import annotations

import argparse
from collections import Counter

from reconciler.cli.context import Context
from reconciler.cli.specs import load_desired
from reconciler.printable import printable


def run(context: Context, options: argparse.Namespace) -> int:
    """Exits 0 when everything could be planned, 1 with every problem found otherwise."""
    desired = load_desired(context, options, secrets=False)
    for warning in desired.warnings:
        context.note(f"warning: {printable(warning)}")
    for item in desired.unsupported:
        context.note(f"error: {item.location}: not supported yet: {printable(item.field)}")
    if desired.unsupported:
        return 1
    counts = Counter(address.kind for address in desired.resources)
    what = ", ".join(f"{count} {kind}{'s' if count != 1 else ''}" for kind, count in sorted(counts.items()))
    stacks = ", ".join(sorted(desired.stacks)) or "none"
    context.print(f"Valid. Stacks: {stacks}. Resources: {what or 'none'}.")
    return 0
