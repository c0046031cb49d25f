"""What must hold of a root whatever happened to it, checked in the plainest way: a second opinion on ``store verify``.

Blobs are what their names say; no row without its bytes; a ready layer holds what it held when it was first made; no
mounts. Nothing here shares code with what makes or removes these things.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sqlite3
import stat
from collections import Counter
from pathlib import Path
from typing import Any

_MADE_AT_START = re.compile(r"containers/\**/(config\.json|names|exit|work)\b")
_RANDOM = re.compile(r"[0-9a-f]{32}")
_FORGOTTEN = ("events", "generations", "generation_entries", "leases", "lease_items", "sqlite_sequence")
Trees = dict[str, str]


def problems(root: Path, trees: Trees) -> list[str]:
    """What is wrong with ``root``. ``trees`` has what each layer holds, by name (``tree_digest``); it learns more."""
    found = [f"mounted: {line}" for line in mounted_below(root)]
    if not (root / "state.db").exists():
        kept = [path for name in ("blobs/sha256", "layers") for path in _names(root / name)]
        return found + [f"no state.db, yet {name}" for name in kept]
    with contextlib.closing(sqlite3.connect(root / "state.db")) as database:
        found += [f"database: {row[0]}" for row in database.execute("PRAGMA integrity_check") if row[0] != "ok"]
        found += [f"dangling row: {row}" for row in database.execute("PRAGMA foreign_key_check")]
        found += _blobs(root, database)
        found += _layers(root, database, trees)
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return found


def _blobs(root: Path, database: sqlite3.Connection) -> list[str]:
    directory = root / "blobs" / "sha256"
    wrong = [
        f"blob {name} holds other bytes"
        for name in _names(directory)
        if hashlib.sha256((directory / name).read_bytes()).hexdigest() != name
    ]
    needed = set()
    for digest, config, layers, index in database.execute(
        "SELECT digest, config_digest, layers, index_digest FROM images"
    ):
        needed |= {digest, config, *(layer[0] for layer in json.loads(layers))} | ({index} if index else set())
    missing = {digest.removeprefix("sha256:") for digest in needed} - set(_names(directory))
    return wrong + [f"an image's blob {name} is missing" for name in sorted(missing)]


def _layers(root: Path, database: sqlite3.Connection, trees: Trees) -> list[str]:
    found = []
    rows = {row[0]: row[1] for row in database.execute("SELECT chain_id, parent FROM layers")}
    for chain_id, parent in rows.items():
        name = chain_id.removeprefix("sha256:")
        directory = root / "layers" / name
        if parent is not None and parent not in rows:
            found.append(f"layer {name} lies on {parent}, which has no row")
        if not directory.is_dir():
            found.append(f"layer {name} has a row and no directory")
        elif trees.setdefault(name, now := tree_digest(directory)) != now:
            found.append(f"layer {name} does not hold what it held")
    return found


def tree_digest(top: Path) -> str:
    """A digest of names, kinds, modes, owners, sizes, times, attributes and contents of what is below ``top``."""
    hasher = hashlib.sha256()
    for path in [top, *sorted(top.rglob("*"))]:
        status = path.lstat()
        # Whiteouts, and directories that the archive only implies, have the time of their making.
        size, time = (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else (0, 0)
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        if stat.S_ISLNK(status.st_mode):
            content = os.fsencode(path.readlink())
        xattrs = sorted((key, os.getxattr(path, key, follow_symlinks=False)) for key in _xattrs(path))
        facts = (status.st_mode, status.st_uid, status.st_gid, status.st_rdev, time, size, xattrs)
        hasher.update(f"{path.relative_to(top)!r} {facts!r}\n".encode() + content)
    return hasher.hexdigest()


def listing(root: Path) -> list[str]:
    """Everything in a root by name, and how many rows each table has. Two roots that hold the same compare equal.

    What is random or tells of the past (ids of containers, generations) is left out, and so is what each start of a
    container makes again.
    """
    if not root.exists():
        return []
    found = set()
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if name.startswith(("containers/", "volumes/")):
            name = _RANDOM.sub("*", name)
        if not name.startswith("state.db-") and not _MADE_AT_START.match(name):
            found.add(name)
    return sorted(found) + _counted(root)


def _counted(root: Path) -> list[str]:
    if not (root / "state.db").exists():
        return []
    with contextlib.closing(sqlite3.connect(root / "state.db")) as database:
        return [f"{table}: {count}" for table, count in sorted(_rows(database).items())]


def _rows(database: sqlite3.Connection) -> Counter[str]:
    tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    counts: Counter[str] = Counter()
    for table in tables:
        if table not in _FORGOTTEN:
            counts[table] = database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    return counts


def let_time_pass(root: Path) -> None:
    """Ends the grace of every lease, as ten minutes would."""
    if (root / "state.db").exists():
        with (
            contextlib.closing(sqlite3.connect(root / "state.db")) as database,
            contextlib.suppress(sqlite3.OperationalError),  # killed before there was such a table
            database,
        ):
            database.execute("UPDATE leases SET holds_until = 0")


def mounted_below(root: Path) -> list[str]:
    """The mount points at or below ``root``."""
    points = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points if Path(point).is_relative_to(root) and Path(point) != root]


def _xattrs(path: Path) -> list[str]:
    return os.listxattr(path, follow_symlinks=False)


def _names(directory: Path) -> list[Any]:
    return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
