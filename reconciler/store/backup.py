"""ROOT/state.db.backup: the database as it was at the last recorded apply.

Read when the database itself is lost, and by nothing else. It is made by SQLite's own backup (case S34): a copy of the
file alone would miss what is still in the log.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import TYPE_CHECKING

from reconciler.errors import HostError
from reconciler.linux import durable
from reconciler.store.database import FILE, connect, translated

if TYPE_CHECKING:
    from pathlib import Path

BACKUP = f"{FILE}.backup"
_POINT = "database.backup"


def query_backup(root: Path, sql: str) -> list[sqlite3.Row]:
    """All rows of one SELECT on the backup; none when there is no backup that can be read."""
    try:
        with contextlib.closing(connect(f"{(root / BACKUP).absolute().as_uri()}?mode=ro&immutable=1")) as backup:
            return backup.execute(sql).fetchall()
    except sqlite3.DatabaseError:
        return []


def back_up(root: Path) -> None:
    """Replaces the backup by the database as it is now. Needs the root's lock. Raises ``HostError``."""
    temporary = root / f".{BACKUP}.{os.urandom(4).hex()}.tmp"
    try:
        os.close(durable.create(temporary, point=_POINT))
        with (
            translated(temporary),
            contextlib.closing(connect(f"{(root / FILE).absolute().as_uri()}?mode=ro")) as source,
            contextlib.closing(connect(f"{temporary.absolute().as_uri()}?mode=rw")) as target,
        ):
            source.backup(target)
            # Readable as it is, without files beside it.
            target.execute("PRAGMA journal_mode = DELETE")
        durable.publish(temporary, root / BACKUP, point=_POINT)
    except BaseException:
        with contextlib.suppress(HostError):
            durable.unlink(temporary, point=_POINT, sync=False)
        raise
