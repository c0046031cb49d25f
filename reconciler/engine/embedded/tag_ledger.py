"""When this root first saw a tag with the digest that it has: what a minimum age is counted from."""

from __future__ import annotations

from collections.abc import Mapping

from reconciler.engine.embedded.upkeep.ages import ClockTable, Moment
from reconciler.oci.digest import Digest
from reconciler.store.database import Database


class TagLedger:
    """Tags of repositories (``registry/repository``), each with the digest it was last seen with.

    A tag that moves is new again, also when it moves back. Only time that this root saw pass makes a tag older.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._clock = ClockTable(database)

    def first_seen(self, repository: str, digests: Mapping[str, Digest], now: float) -> dict[str, float]:
        """For each tag that was seen before with this digest, ``now`` less its age. Both are since the epoch."""
        ages = self._clock.ages(Moment.now())
        rows = self._database.query("SELECT tag, digest, seen_at FROM tag_ledger WHERE repository = ?", (repository,))
        return {row["tag"]: now - ages.of(row["seen_at"]) for row in rows if digests.get(row["tag"]) == row["digest"]}

    def known(self, repository: str) -> dict[str, tuple[Digest, float]]:
        """The digest that each tag was last seen with, and for how many seconds it has had it."""
        ages = self._clock.ages(Moment.now())
        rows = self._database.query("SELECT tag, digest, seen_at FROM tag_ledger WHERE repository = ?", (repository,))
        return {row["tag"]: (Digest(row["digest"]), ages.of(row["seen_at"])) for row in rows}

    def note(self, repository: str, digests: Mapping[str, Digest], now: float) -> None:
        """Notes what tags are now. Those already known with their digest keep their date."""
        rows = self._database.query("SELECT tag, digest FROM tag_ledger WHERE repository = ?", (repository,))
        known = {row["tag"]: row["digest"] for row in rows}
        new = [(repository, tag, digest, now) for tag, digest in digests.items() if known.get(tag) != digest]
        if new:
            with self._database.transaction() as connection:
                connection.executemany("INSERT OR REPLACE INTO tag_ledger VALUES (?, ?, ?, ?)", new)
