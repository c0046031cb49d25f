"""``reconciler image history``."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from typing import Any

from reconciler.cli.context import Context
from reconciler.cli.table import since, size, table
from reconciler.engine.embedded.image_lookup import find_image
from reconciler.engine.embedded.state import State, open_reader
from reconciler.oci.config import History
from reconciler.store.images import ImageRecord, LayerRecord

_COMMAND = 45
_MISSING = "<missing>"


def run(context: Context, options: argparse.Namespace) -> int:
    """A line for each step, newest first; a step that made a layer has its size."""
    state = open_reader(context.root)
    try:
        record = find_image(state, options.name).record
        documents = _documents(state, record)
    finally:
        state.close()
    if options.output == "json":
        context.print(json.dumps(documents, indent=2))
    else:
        context.print(_table(documents, whole=options.no_trunc))
    return 0


def _documents(state: State, record: ImageRecord) -> list[dict[str, Any]]:
    layers = iter(record.layers)
    steps: list[tuple[History, LayerRecord | None]] = [
        (step, None if step.empty_layer else next(layers, None)) for step in state.config(record).history
    ]
    # A config need not tell its history: the layers that it does not speak of are shown all the same.
    steps += [(History(), layer) for layer in layers]
    return [
        {
            "image": record.digest if index == 0 else None,
            "created": step.created or None,
            "created_by": step.created_by,
            "size": layer.size if layer else 0,
            "layer": layer.digest if layer else None,
            "diff_id": layer.diff_id if layer else None,
            "author": step.author,
            "comment": step.comment,
        }
        for index, (step, layer) in enumerate(reversed(steps))
    ]


def _table(documents: list[dict[str, Any]], *, whole: bool) -> str:
    now = datetime.now(UTC)
    rows = [
        (
            _id(document["image"], whole=whole),
            since(document["created"] or "", now),
            _short(document["created_by"], whole=whole),
            size(document["size"]),
            document["author"],
            document["comment"],
        )
        for document in documents
    ]
    return table(("IMAGE", "CREATED", "CREATED BY", "SIZE", "AUTHOR", "COMMENT"), rows)


def _id(digest: str | None, *, whole: bool) -> str:
    if digest is None:
        return _MISSING
    return digest if whole else digest.removeprefix("sha256:")[:12]


def _short(text: str, *, whole: bool) -> str:
    return text if whole or len(text) <= _COMMAND else text[: _COMMAND - 1] + "…"
