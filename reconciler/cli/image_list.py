"""``reconciler image ls``."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from datetime import UTC, datetime

from reconciler.cli.context import Context
from reconciler.cli.table import since, size, table
from reconciler.engine.embedded.image_lookup import NO_NAME, shown_name
from reconciler.engine.embedded.state import State, open_reader
from reconciler.oci.reference import Reference
from reconciler.store.images import ImageRecord, Name


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of the listing."""

    repository: str
    tag: str
    image: ImageRecord
    name: Name | None


def run(context: Context, options: argparse.Namespace) -> int:
    """A line for each name, newest image first. The entry of a stack shows as ``shop/base`` with no tag."""
    state = open_reader(context.root)
    try:
        rows = _rows(state)
    finally:
        state.close()
    if options.output == "json":
        context.print(json.dumps([_document(row) for row in rows], indent=2))
    elif options.quiet:
        ids = dict.fromkeys(str(row.image.digest) for row in rows)
        context.stdout.writelines(f"{_id(digest, options)}\n" for digest in ids)
    else:
        context.print(_table(rows, options))
    return 0


def _rows(state: State) -> list[_Row]:
    names: dict[str, list[Name]] = {}
    for name in state.names.list():
        names.setdefault(name.digest, []).append(name)
    images = sorted(state.images.list(), key=lambda image: image.fetched_at, reverse=True)
    return [row for image in images for row in _rows_of(image, names.get(image.digest, []))]


def _rows_of(image: ImageRecord, names: list[Name]) -> list[_Row]:
    if not names:
        return [_Row(NO_NAME, NO_NAME, image, None)]
    return [_Row(*_split(name), image, name) for name in names]


def _split(name: Name) -> tuple[str, str]:
    if name.kind == "entry":
        return shown_name(name), NO_NAME
    reference = Reference.parse(name.name)
    tag = reference.tag or NO_NAME
    return shown_name(name).partition("@")[0].removesuffix(f":{reference.tag}"), tag


def _table(rows: list[_Row], options: argparse.Namespace) -> str:
    now = datetime.now(UTC)
    header = ["REPOSITORY", "TAG", *(["DIGEST"] if options.digests else []), "IMAGE ID", "CREATED", "SIZE"]
    cells = (
        [
            row.repository,
            row.tag,
            *([row.image.index_digest or row.image.digest] if options.digests else []),
            _id(row.image.digest, options),
            since(row.image.created, now),
            size(row.image.size),
        ]
        for row in rows
    )
    return table(header, cells)


def _id(digest: str, options: argparse.Namespace) -> str:
    return digest if options.no_trunc else digest.removeprefix("sha256:")[:12]


def _document(row: _Row) -> dict[str, object]:
    return {
        "id": row.image.digest,
        "name": row.name.name if row.name else None,
        "repository": row.repository,
        "tag": row.tag if row.tag != NO_NAME else None,
        "stack": row.name.stack if row.name else "",
        "kind": row.name.kind if row.name else None,
        "index": row.image.index_digest,
        "platform": str(row.image.platform),
        "created": row.image.created or None,
        "fetched_at": row.image.fetched_at,
        "size": row.image.size,
    }
