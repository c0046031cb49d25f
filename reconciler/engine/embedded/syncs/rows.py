"""Rows of syncs: what is declared, how the last look went, and what indexes that were narrowed came to."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

from reconciler.engine.embedded.records import dump
from reconciler.model.address import Address
from reconciler.model.canonical import Form
from reconciler.oci.digest import Digest
from reconciler.store.database import Database
from reconciler.value import dataclass

_FIRST_RETRY = 30.0
_MOST_DOUBLINGS = 20


@dataclass(frozen=True, slots=True)
class SyncRow:
    """A sync that was declared or looked at; ``stack`` is "" until it is recorded. Times are since the epoch."""

    form: Form
    stack: str
    checked_at: float | None = None
    due_at: float | None = None
    counted: int = 0
    error: str = ""

    def is_due(self, now: float) -> bool:
        """Whether it is time to ask its registries; a clock that was set back makes it so."""
        return self.due_at is None or now >= self.due_at or (self.checked_at is not None and self.checked_at > now)


class SyncTable:
    """The syncs of this root, by address. Safe to use from several threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> dict[Address, SyncRow]:
        return {
            Address.parse(row["address"]): SyncRow(
                json.loads(row["form"]),
                row["stack"],
                row["checked_at"],
                row["due_at"],
                row["counted"],
                row["error"],
            )
            for row in self._database.query("SELECT * FROM syncs")
        }

    def set(self, address: Address, form: Form, stack: str) -> None:
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO syncs (address, form, stack) VALUES (?, ?, ?) ON CONFLICT (address)"
                " DO UPDATE SET form = excluded.form, stack = excluded.stack",
                (str(address), dump(form), stack),
            )

    def drop(self, address: Address) -> bool:
        """Forgets a sync; False when there was none."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM narrowed WHERE sync = ?", (str(address),))
            connection.execute("DELETE FROM sync_parts WHERE sync = ?", (str(address),))
            return connection.execute("DELETE FROM syncs WHERE address = ?", (str(address),)).rowcount > 0

    def looked(self, address: Address, now: float, interval: float, counted: int) -> None:
        """Its registries answered at ``now``. What failed before counts until a look after which nothing failed."""
        with self._database.transaction() as connection:
            self._require(connection, address)
            connection.execute(
                "UPDATE syncs SET failures = CASE WHEN failed THEN failures ELSE 0 END, failed = 0, error = '',"
                " checked_at = ?, due_at = ?, counted = ? WHERE address = ?",
                (now, now + interval, counted, str(address)),
            )

    def failed(self, address: Address, now: float, interval: float, error: str) -> None:
        """Something went wrong: it is due again sooner than its interval, later each time. One look fails once."""
        with self._database.transaction() as connection:
            self._require(connection, address)
            connection.execute(
                "UPDATE syncs SET failures = CASE WHEN failed THEN failures ELSE failures + 1 END, failed = 1,"
                " error = ?, checked_at = coalesce(checked_at, ?) WHERE address = ?",
                (error, now, str(address)),
            )
            (failures,) = connection.execute("SELECT failures FROM syncs WHERE address = ?", (str(address),)).fetchone()
            delay = min(interval, _FIRST_RETRY * 2.0 ** min(failures - 1, _MOST_DOUBLINGS))
            connection.execute("UPDATE syncs SET due_at = ? WHERE address = ?", (now + delay, str(address)))

    def _require(self, connection: object, address: Address) -> None:
        connection.execute(  # type: ignore[attr-defined]
            "INSERT OR IGNORE INTO syncs (address, form, stack) VALUES (?, '{}', '')", (str(address),)
        )

    def narrowed(self, address: Address, platforms: str) -> dict[Digest, Digest]:
        """What indexes of the sync's source came to when they were narrowed to ``platforms``."""
        rows = self._database.query(
            "SELECT source, digest FROM narrowed WHERE sync = ? AND platforms = ?", (str(address), platforms)
        )
        return {Digest(row["source"]): Digest(row["digest"]) for row in rows}

    def keep_narrowed(self, address: Address, platforms: str, found: Mapping[Digest, Digest]) -> None:
        """Replaces what is known of narrowed indexes: those that are chosen no more are forgotten."""
        if self.narrowed(address, platforms) == dict(found):
            return
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM narrowed WHERE sync = ?", (str(address),))
            connection.executemany(
                "INSERT INTO narrowed VALUES (?, ?, ?, ?)",
                [(str(address), source, platforms, digest) for source, digest in found.items()],
            )

    def parts(self, address: Address) -> dict[Digest, tuple[Digest, ...]]:
        """What the manifests that the last look went into consist of: nothing for what is no index."""
        rows = self._database.query("SELECT digest, parts FROM sync_parts WHERE sync = ?", (str(address),))
        return {Digest(row["digest"]): tuple(map(Digest, row["parts"].split())) for row in rows}

    def keep_parts(self, address: Address, found: Mapping[Digest, tuple[Digest, ...]]) -> None:
        """Replaces what is known of them."""
        if self.parts(address) == dict(found):
            return
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM sync_parts WHERE sync = ?", (str(address),))
            connection.executemany(
                "INSERT INTO sync_parts VALUES (?, ?, ?)",
                [(str(address), digest, " ".join(parts)) for digest, parts in found.items()],
            )


def platforms_key(platforms: Collection[object]) -> str:
    """One text for a set of platforms."""
    return " ".join(sorted(map(str, platforms)))
