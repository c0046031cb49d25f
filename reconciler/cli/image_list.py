"""``reconciler image ls``."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import NamedTuple

from reconciler.cli.context import Context
from reconciler.cli.table import since, size, table
from reconciler.engine.embedded.images.listing import ListedImage, ListedName, list_images
from reconciler.engine.embedded.images.lookup import NO_NAME, split_name
from reconciler.errors import UsageError


class _Row(NamedTuple):
    """One line of the listing."""

    repository: str
    tag: str
    image: ListedImage
    name: ListedName | None


def run(context: Context, options: argparse.Namespace) -> int:
    """A line for each name, the image fetched last first. The entry of a stack shows as ``shop/base`` with no tag."""
    dangling, patterns = _filters(options)
    images = list_images(context.root, sizes=not options.quiet)
    images = [image for image in images if dangling is None or dangling == (not image.names)]
    if options.quiet and not patterns:
        context.stdout.writelines(f"{_id(image.digest, options)}\n" for image in images)
        return 0
    rows = [row for image in images for row in _rows_of(image)]
    if patterns:
        rows = [row for row in rows if any(_fits(row, pattern) for pattern in patterns)]
    if options.output == "json":
        context.print(json.dumps([_document(row) for row in rows], indent=2))
    elif options.quiet:
        ids = dict.fromkeys(row.image.digest for row in rows)
        context.stdout.writelines(f"{_id(digest, options)}\n" for digest in ids)
    else:
        context.print(_table(rows, options))
    return 0


def _filters(options: argparse.Namespace) -> tuple[bool | None, list[str]]:
    dangling, patterns = None, list(options.patterns)
    for text in options.filter:
        match text.partition("="):
            case ("dangling", "=", ("true" | "false") as value):
                dangling = value == "true"
            case ("reference", "=", pattern) if pattern:
                patterns.append(pattern)
            case _:
                raise UsageError(
                    f"--filter {text[:200]!a} is not known",
                    hint="write dangling=true, dangling=false or reference=PATTERN",
                )
    return dangling, patterns


def _rows_of(image: ListedImage) -> list[_Row]:
    if not image.names:
        return [_Row(NO_NAME, NO_NAME, image, None)]
    rows = []
    for name in image.names:
        repository, tag = split_name(name.name, name.kind)
        rows.append(_Row(repository, tag or NO_NAME, image, name))
    return rows


def _fits(row: _Row, pattern: str) -> bool:
    """Whether a name fits a pattern with ``*``, in familiar or in full form, with the tag or without it."""
    if row.name is None:
        return False
    full = row.name.name
    spellings = (row.repository, f"{row.repository}:{row.tag}", full, full.removesuffix(f":{row.tag}"))
    return any(fnmatchcase(text, pattern) for text in spellings)


def _table(rows: list[_Row], options: argparse.Namespace) -> str:
    now = datetime.now(UTC)
    header = ["REPOSITORY", "TAG", *(["DIGEST"] if options.digests else []), "IMAGE ID", "CREATED", "SIZE", "UNIQUE"]
    cells = (
        [
            row.repository,
            row.tag,
            *([row.image.index or row.image.digest] if options.digests else []),
            _id(row.image.digest, options),
            since(row.image.created, now),
            size(row.image.size),
            size(row.image.unique),
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
        "index": row.image.index,
        "platform": row.image.platform,
        "created": row.image.created or None,
        "fetched_at": row.image.fetched_at,
        "size": row.image.size,
        "shared": row.image.size - row.image.unique,
        "unique": row.image.unique,
        "compressed": row.image.compressed,
    }
