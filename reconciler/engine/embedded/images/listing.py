"""Listing images: few queries and few imports, for a store may hold thousands.

Images share blobs and unpacked layers: what an image takes is not what its removal frees.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from reconciler.engine.embedded.schema import ENGINE
from reconciler.store.identity import read_identity
from reconciler.store.readonly import ReadOnlyDatabase
from reconciler.store.schema import STORE

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence
    from pathlib import Path


_Chains = dict[tuple[str | None, str], tuple[str, int]]
"""Of each unpacked layer, under its parent and diff ID: its chain ID with a slash before it, and its bytes."""


@dataclass(frozen=True, slots=True)
class ListedName:
    """A name of an image as stored: a full reference (kind ``tag``), or ``image/STACK/NAME`` (kind ``entry``)."""

    name: str
    kind: str
    stack: str


@dataclass(frozen=True, slots=True)
class ListedImage:
    """One image. ``size`` is what it takes on this host in bytes, compressed and unpacked; ``unique`` is the part that
    no other image shares: what its removal would free. Both are 0 where they were not asked for.
    """

    digest: str
    names: tuple[ListedName, ...]
    index: str | None
    platform: str
    created: str
    fetched_at: str
    compressed: int
    size: int = 0
    unique: int = 0


def list_images(root: Path, *, sizes: bool) -> list[ListedImage]:
    """All images, the one fetched last first. Leaves no trace. Raises ``HostError`` for a damaged root."""
    read_identity(root)
    with closing(ReadOnlyDatabase(root, (STORE, ENGINE))) as database:
        return database.consistent(lambda: _list(database, sizes=sizes))


def _list(database: ReadOnlyDatabase, *, sizes: bool) -> list[ListedImage]:
    # Sorted here: SQLite would carry the long list of layers through its sorter.
    layers = "config_digest, config_size, layers" if sizes else "1"
    columns = f"digest, index_digest, platform, created, fetched_at, size, {layers}"
    rows = sorted(database.query(f"SELECT {columns} FROM images"), key=lambda row: row["fetched_at"], reverse=True)
    names: dict[str, list[ListedName]] = {}
    for row in database.query("SELECT name, digest, kind, stack FROM names ORDER BY name"):
        names.setdefault(row["digest"], []).append(ListedName(row["name"], row["kind"], row["stack"]))
    taken = _sizes(rows, database) if sizes else [(0, 0)] * len(rows)
    return [
        ListedImage(
            row["digest"],
            tuple(names.get(row["digest"], ())),
            row["index_digest"],
            row["platform"],
            row["created"],
            row["fetched_at"],
            row["size"],
            size,
            unique,
        )
        for row, (size, unique) in zip(rows, taken, strict=True)
    ]


def _sizes(rows: Sequence[sqlite3.Row], database: ReadOnlyDatabase) -> list[tuple[int, int]]:
    """Bytes in all and bytes that are its own, for each image.

    A chain ID is found along its parents, not computed: hashing would take longer than all the rest.
    """
    rows_of_layers = database.query("SELECT parent, diff_id, chain_id, size FROM layers")
    chains: _Chains = {(parent, diff_id): ("/" + chain_id, size) for parent, diff_id, chain_id, size in rows_of_layers}
    layers: list[Any] = json.loads(f"[{','.join(row['layers'] for row in rows)}]")
    parts = [_parts(row, found, chains) for row, found in zip(rows, layers, strict=True)]
    users: Counter[str] = Counter(chain.from_iterable(parts))
    shared = {part for part, count in users.items() if count > 1}
    found_sizes = []
    for found in parts:
        total = sum(found.values())
        found_sizes.append((total, total - sum(map(found.__getitem__, found.keys() & shared))))
    return found_sizes


def _parts(row: sqlite3.Row, layers: Iterable[Any], chains: _Chains) -> dict[str, int]:
    """The blobs and unpacked layers of an image with their bytes, a layer under its chain ID with a slash before it."""
    parts: dict[str, int] = {}
    parent: str | None = None
    is_unpacked = True
    compressed = 0
    for digest, size, _, diff_id in layers:
        parts[digest] = size
        compressed += size
        found = chains.get((parent, diff_id)) if is_unpacked else None
        if found is None:
            is_unpacked = False  # and so is none above it
        else:
            name, parts[name] = found
            parent = name[1:]
    parts[row["config_digest"]] = row["config_size"]
    parts[row["digest"]] = row["size"] - row["config_size"] - compressed
    return parts
