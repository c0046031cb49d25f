"""``reconciler image history``."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from typing import Any

from reconciler.cli.context import Context
from reconciler.cli.table import since, size, table
from reconciler.engine.embedded.images.lookup import find_image
from reconciler.engine.embedded.state import State, open_reader
from reconciler.oci.config import History
from reconciler.store.images import ImageRecord, LayerRecord

_COMMAND = 45
_MISSING = "<missing>"
_Step = tuple[History, tuple[LayerRecord, int] | None]


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
    elif options.quiet:
        context.print("\n".join(_id(document["image"], whole=options.no_trunc) for document in documents))
    else:
        context.print(_table(documents, whole=options.no_trunc))
    return 0


def _documents(state: State, record: ImageRecord) -> list[dict[str, Any]]:
    layers = iter(_layers(state, record))
    steps: list[_Step] = [
        (step, None if step.empty_layer else next(layers, None)) for step in state.config(record).history
    ]
    # A config need not tell its history: the layers that it does not speak of are shown all the same.
    steps += [(History(), layer) for layer in layers]
    documents = [_document(step, made) for step, made in reversed(steps)]
    if documents:
        documents[0]["image"] = record.digest
    return documents


def _layers(state: State, record: ImageRecord) -> list[tuple[LayerRecord, int]]:
    """The layers with what each takes: unpacked, or as it is stored where it was not unpacked yet."""
    unpacked = [state.layers.get(chain) for chain in record.chain_ids]
    return [
        (layer, found.size if found is not None else layer.size)
        for layer, found in zip(record.layers, unpacked, strict=True)
    ]


def _document(step: History, made: tuple[LayerRecord, int] | None) -> dict[str, Any]:
    layer, taken = made if made is not None else (None, 0)
    return {
        "image": None,
        "created": step.created or None,
        "created_by": step.created_by,
        "size": taken,
        "compressed": layer.size if layer else 0,
        "layer": layer.digest if layer else None,
        "diff_id": layer.diff_id if layer else None,
        "empty_layer": layer is None,
        "author": step.author,
        "comment": step.comment,
    }


def _table(documents: list[dict[str, Any]], *, whole: bool) -> str:
    now = datetime.now(UTC)
    header = ["IMAGE", "CREATED", "CREATED BY", "SIZE", "AUTHOR", "COMMENT"]
    rows = [
        [
            _id(document["image"], whole=whole),
            since(document["created"] or "", now),
            _short(document["created_by"], whole=whole),
            size(document["size"]),
            document["author"],
            document["comment"],
        ]
        for document in documents
    ]
    if not any(document["author"] for document in documents):
        header, rows = header[:4] + header[5:], [row[:4] + row[5:] for row in rows]
    return table(header, rows)


def _id(digest: str | None, *, whole: bool) -> str:
    if digest is None:
        return _MISSING
    return digest if whole else digest.removeprefix("sha256:")[:12]


def _short(text: str, *, whole: bool) -> str:
    line = " ".join(text.split())
    if whole:
        return text
    return line if len(line) <= _COMMAND else line[: _COMMAND - 1] + "…"
