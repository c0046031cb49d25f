"""Listing images: few queries and few imports, for a store may hold thousands.

Images share blobs and unpacked layers: what an image takes is not what its removal frees.
"""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Any

from reconciler.engine.embedded.schema import ENGINE
from reconciler.store.identity import read_identity
from reconciler.store.readonly import ReadOnlyDatabase
from reconciler.store.schema import STORE
from reconciler.value import dataclass

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from pathlib import Path


_Chains = dict[str, tuple[str, int]]
"""Of each unpacked layer, under its parent's chain ID with its diff ID after it: its chain ID, and its bytes."""


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
    layers = database.query("SELECT coalesce(parent, '') || diff_id, chain_id, size FROM layers")
    chains: _Chains = {key: (chain_id, size) for key, chain_id, size in layers}
    stacks: list[Any] = json.loads(f"[{','.join([row['layers'] for row in rows])}]")
    found = []
    seen: set[str] = set()
    shared: set[str] = set()
    for row, stack in zip(rows, stacks, strict=True):
        parts = _parts(row, stack, chains)
        # Most parts are one image's: to ask first is cheaper than to count them all.
        if not seen.isdisjoint(parts):
            shared |= seen & parts.keys()
        seen.update(parts)
        found.append(parts)
    totals = [sum(parts.values()) for parts in found]
    return [
        (total, total - sum(map(parts.__getitem__, parts.keys() & shared)))
        for total, parts in zip(totals, found, strict=True)
    ]


def _parts(row: sqlite3.Row, stack: Sequence[Any], chains: _Chains) -> dict[str, int]:
    """The blobs and unpacked layers of an image with their bytes, a layer under its chain ID with a slash before it."""
    parts = {layer[0]: layer[1] for layer in stack}
    config = row["config_size"]
    manifest = row["size"] - config - sum([layer[1] for layer in stack])
    parent = ""
    for layer in stack:
        found = chains.get(parent + layer[3])
        if found is None:
            break  # not unpacked, and so is none above it
        parent, size = found
        parts["/" + parent] = size
    parts[row["config_digest"]] = config
    parts[row["digest"]] = manifest
    return parts
