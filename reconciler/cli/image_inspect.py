"""``reconciler image inspect``: the fields that people read of Docker's JSON, under Docker's names."""

from __future__ import annotations

import argparse
import json
from typing import Any

from reconciler.cli.context import Context
from reconciler.engine.embedded.images.lookup import find_image
from reconciler.engine.embedded.state import State, open_reader
from reconciler.errors import NotFoundError, ReconcilerError, UsageError
from reconciler.oci import media
from reconciler.oci.config import MAX_CONFIG_BYTES
from reconciler.oci.digest import Digest
from reconciler.oci.manifest import MAX_MANIFEST_BYTES
from reconciler.oci.reference import Reference
from reconciler.printable import printable
from reconciler.store.images import ImageRecord


def run(context: Context, options: argparse.Namespace) -> int:
    """One JSON list with an object for each image there is; exit 1 when one is not. ``Id`` is the manifest's digest."""
    if options.raw and len(options.names) != 1:
        raise UsageError("--raw prints the bytes of one document", hint="name one image")
    state = open_reader(context.root)
    documents = []
    failed: list[ReconcilerError] = []
    try:
        if options.raw:
            context.stdout.buffer.write(_raw(state, find_image(state, options.names[0]).record, options.raw))
            return 0
        for name in options.names:
            try:
                documents.append(_document(state, find_image(state, name).record, oci=options.oci))
            except ReconcilerError as error:
                failed.append(error)
    finally:
        state.close()
    context.print(json.dumps(documents, indent=2))
    for problem in failed:
        hint = f"\n  hint: {problem.hint}" if problem.hint else ""
        context.note(printable(f"error: {problem}{hint}", keep="\n"))
    return 1 if failed else 0


def _document(state: State, record: ImageRecord, *, oci: bool) -> dict[str, Any]:
    is_image = record.config.media_type in media.CONFIGS
    config = state.config(record) if is_image else None
    names = state.names.list(digest=record.digest)
    references = [Reference.parse(name.name) for name in names if name.kind == "tag"]
    digest = record.index_digest or record.digest
    unpacked = [state.layers.get(chain) for chain in record.chain_ids]
    layers = [state.layers.path(layer.chain_id) for layer in reversed(unpacked) if layer is not None]
    documents = {"OCI": {kind: _oci(state, record, kind) for kind in ("manifest", "config", "index")}} if oci else {}
    return {
        "Id": record.digest,
        "RepoTags": [reference.familiar for reference in references if reference.tag],
        "RepoDigests": [
            Reference.parse(f"{repository}@{digest}").familiar
            for repository in state.images.repositories(record.digest)
        ],
        "Entries": [name.name.removeprefix("image/") for name in names if name.kind == "entry"],
        "Parent": "",
        "Comment": config.history[-1].comment if config and config.history else "",
        "Created": record.created,
        "Author": config.author if config else "",
        "Config": (config.raw.get("config") if config else None) or {},
        "Architecture": record.platform.architecture,
        "Variant": record.platform.variant,
        "Os": record.platform.os,
        "Size": record.size + sum(layer.size for layer in unpacked if layer is not None),
        "GraphDriver": {"Name": "overlayfs", "Data": {"LowerDir": ":".join(map(str, layers))}},
        "RootFS": {"Type": "layers", "Layers": list(config.diff_ids) if config else []},
        "Metadata": {
            "LastTagTime": record.fetched_at,
            "Index": record.index_digest,
            "MediaType": record.media_type,
            "Config": record.config.digest,
            "ConfigMediaType": record.config.media_type,
            "Compressed": record.size,
            "Unpacked": len(layers) == len(record.layers),
        },
        **documents,
    }


def _oci(state: State, record: ImageRecord, kind: str) -> Any:
    """A document as JSON; None for an index where there was none, and for what an artifact has that is not JSON."""
    try:
        return json.loads(_raw(state, record, kind))
    except (NotFoundError, ValueError):
        return None


def _raw(state: State, record: ImageRecord, kind: str) -> bytes:
    """The bytes of a document as they came. Raises ``NotFoundError`` for an index where there was none."""
    digest: Digest | None = {
        "manifest": record.digest, "config": record.config.digest, "index": record.index_digest
    }[kind]  # fmt: skip
    if digest is None:
        raise NotFoundError(f"image {record.digest.short} was not chosen from an index")
    return state.content.read(digest, MAX_CONFIG_BYTES if kind == "config" else MAX_MANIFEST_BYTES)
