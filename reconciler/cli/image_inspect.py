"""``reconciler image inspect``: the fields that people read of Docker's JSON, under Docker's names."""

from __future__ import annotations

import argparse
import json
from typing import Any

from reconciler.cli.context import Context
from reconciler.engine.embedded.image_lookup import find_image
from reconciler.engine.embedded.state import State, open_reader
from reconciler.oci.reference import Reference
from reconciler.store.images import ImageRecord


def run(context: Context, options: argparse.Namespace) -> int:
    """One JSON list with an object for each image. ``Id`` is the manifest's digest."""
    state = open_reader(context.root)
    try:
        documents = [_document(state, find_image(state, name).record) for name in options.names]
    finally:
        state.close()
    context.print(json.dumps(documents, indent=2))
    return 0


def _document(state: State, record: ImageRecord) -> dict[str, Any]:
    config = state.config(record)
    names = state.names.list(digest=record.digest)
    references = [Reference.parse(name.name) for name in names if name.kind == "tag"]
    digest = record.index_digest or record.digest
    return {
        "Id": record.digest,
        "RepoTags": [reference.familiar for reference in references if reference.tag],
        "RepoDigests": sorted({reference.with_digest(digest).familiar for reference in references}),
        "Entries": [name.name.removeprefix("image/") for name in names if name.kind == "entry"],
        "Comment": config.history[-1].comment if config.history else "",
        "Created": record.created,
        "Author": config.author,
        "Config": config.raw.get("config") or {},
        "Architecture": record.platform.architecture,
        "Variant": record.platform.variant,
        "Os": record.platform.os,
        "Size": record.size,
        "RootFS": {"Type": "layers", "Layers": list(config.diff_ids)},
        "Metadata": {"LastTagTime": record.fetched_at, "Index": record.index_digest, "MediaType": record.media_type},
    }
