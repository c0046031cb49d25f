"""``reconciler image diff``."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from reconciler.cli.context import Context
from reconciler.cli.table import size, table
from reconciler.engine.embedded.images.lookup import find_image
from reconciler.engine.embedded.images.unpacking import is_unpacked, unpack_image
from reconciler.printable import printable
from reconciler.store.images import ImageRecord
from reconciler.store.layers.comparison import Difference, differences


def run(context: Context, options: argparse.Namespace) -> int:
    """Which layers two images share, and each path that only the second has (A), only the first (D), or both otherwise
    (C), with the sizes of files.

    A layer that no container has needed so far is unpacked first, for which the command waits for its turn.
    """
    with context.engine() as engine:
        state = engine.view().state
        images = [find_image(state, name).record for name in (options.first, options.second)]
        if not all(is_unpacked(state, image) for image in images):
            with engine.turn(context.lock_timeout):
                state = engine.writer().state
                for image in images:
                    unpack_image(state, image.digest)
        found = differences(*(state.lowers(image) for image in images))
    first, second = images
    if options.output == "json":
        context.print(json.dumps(_document(first, second, found), indent=2))
        return 0
    context.print(_layers(first, second))
    if found:
        context.print()
    for difference in found:
        context.print(f"{difference.kind} {printable(os.fsdecode(difference.path))}{_sizes(difference)}")
    return 0


def shared_layers(first: ImageRecord, second: ImageRecord) -> int:
    """How many layers both have, from the lowest up: what lies on another layer is another layer on disk."""
    shared = 0
    for ours, theirs in zip(first.chain_ids, second.chain_ids, strict=False):
        if ours != theirs:
            break
        shared += 1
    return shared


def _layers(first: ImageRecord, second: ImageRecord) -> str:
    shared = shared_layers(first, second)
    rows = [(layer.digest.short, size(layer.size), "both") for layer in first.layers[:shared]]
    for image, where in ((first, "first"), (second, "second")):
        rows += [(layer.digest.short, size(layer.size), where) for layer in image.layers[shared:]]
    return table(("LAYER", "SIZE", "IN"), rows)


def _sizes(difference: Difference) -> str:
    known = [size(count) for count in (difference.before, difference.after) if count is not None]
    return f"  {' -> '.join(known)}" if known else ""


def _document(first: ImageRecord, second: ImageRecord, found: list[Difference]) -> dict[str, Any]:
    shared = shared_layers(first, second)
    return {
        "first": first.digest,
        "second": second.digest,
        "layers": {
            "shared": [layer.digest for layer in first.layers[:shared]],
            "first": [layer.digest for layer in first.layers[shared:]],
            "second": [layer.digest for layer in second.layers[shared:]],
        },
        "differences": [
            {"kind": item.kind, "path": os.fsdecode(item.path), "before": item.before, "after": item.after}
            for item in found
        ],
    }
