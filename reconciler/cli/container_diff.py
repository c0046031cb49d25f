"""``reconciler container diff``."""

from __future__ import annotations

import argparse
import json
import os

from reconciler.cli.context import Context
from reconciler.engine.embedded.containers.rows import find_container
from reconciler.engine.embedded.images.commit import stubs
from reconciler.engine.embedded.state import open_reader
from reconciler.printable import printable
from reconciler.store.layers.changes import listed


def run(context: Context, options: argparse.Namespace) -> int:
    """What the container changed of its image: a line for each path that was added (A), changed (C) or deleted (D).

    Paths are in byte order. In JSON a byte that is no UTF-8 stands as a lone surrogate, so that none is lost.
    """
    state = open_reader(context.root)
    try:
        row = find_container(state.containers.all(), options.name)
        snapshot = state.snapshots.get(row.id)
        changes = listed(snapshot.upper, snapshot.lowers, stubs(row))
    finally:
        state.close()
    found = [(change.kind, os.fsdecode(change.path)) for change in changes]
    if options.output == "json":
        context.print(json.dumps([{"kind": kind, "path": path} for kind, path in found], indent=2))
    else:
        for kind, path in found:
            context.print(f"{kind} {printable(path)}")
    return 0
