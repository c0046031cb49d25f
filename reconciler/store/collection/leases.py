"""Leases: what is being made must not be collected before something refers to it.

    with leases.take("pull docker.io/library/debian", [manifest]) as lease:
        lease.add(blobs)
        ...                      # fetch, unpack, record the image

A lease holds while its owner lives, and for ``GRACE`` seconds after it was taken when the owner was killed, so that
the next attempt finds the parts. Time is the kernel's boot-time clock, which nobody can set: a wall clock that jumps
ends no lease (case S23). A reboot ends them all, as it ended their owners.
"""

from __future__ import annotations

import itertools
import os
import time
from typing import TYPE_CHECKING, Self

from reconciler.linux.processes import ProcessId, boot_id
from reconciler.value import dataclass

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable
    from types import TracebackType

    from reconciler.oci.digest import Digest
    from reconciler.store.database import Database

GRACE = 600.0


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A lease that holds: ``age`` in seconds; ``alive`` says whether process ``pid``, which took it, still runs."""

    purpose: str
    pid: int
    alive: bool
    age: float
    items: tuple[str, ...]


class LeaseTable:
    """The leases on a store."""

    def __init__(self, database: Database, *, grace: float = GRACE) -> None:
        self._database = database
        self._grace = grace

    def take(self, purpose: str, items: Iterable[Digest] = ()) -> Lease:
        """Protects ``items``: digests of blobs, chain IDs with their parents, recorded images with all they need.

        Once this returns, nothing of them that is on disk is collected until the lease ends. Raises ``HostError``.
        """
        id_ = os.urandom(8).hex()
        owner = ProcessId.of(os.getpid())
        assert owner is not None
        row = (id_, purpose, owner.boot_id, owner.pid, owner.start_time, _boot_time() + self._grace)
        with self._database.transaction() as connection:
            connection.execute("INSERT INTO leases VALUES (?, ?, ?, ?, ?, ?)", row)
            lease = Lease(self._database, id_)
            lease.add(items)
        return lease

    def list(self) -> tuple[HeldLease, ...]:
        """The leases that hold."""
        rows = self._database.query("SELECT * FROM leases LEFT JOIN lease_items ON lease = id ORDER BY id, item")
        found = []
        for _, items in itertools.groupby(rows, key=lambda row: row["id"]):
            first, *rest = items
            if _holds(first):
                age = _boot_time() - (first["holds_until"] - self._grace)
                held = tuple(row["item"] for row in (first, *rest) if row["item"])
                found.append(HeldLease(first["purpose"], first["owner_pid"], _owner(first).alive(), age, held))
        return tuple(found)

    def held(self) -> dict[str, str]:
        """Every item under a lease that holds, with the purpose of one such lease."""
        return {item: lease.purpose for lease in self.list() for item in lease.items}

    def ended(self) -> tuple[str, ...]:
        """The ids of the leases that no longer hold: ``sweep`` deletes them."""
        rows = self._database.query("SELECT * FROM leases ORDER BY id")
        return tuple(row["id"] for row in rows if not _holds(row))

    def sweep(self) -> int:
        """Deletes the leases that no longer hold, and says how many."""
        with self._database.transaction() as connection:
            ended = [(row["id"],) for row in connection.execute("SELECT * FROM leases").fetchall() if not _holds(row)]
            connection.executemany("DELETE FROM leases WHERE id = ?", ended)
        return len(ended)


class Lease:
    """One lease in force. It ends with ``release`` or with the ``with`` block over it."""

    def __init__(self, database: Database, id_: str) -> None:
        self._database = database
        self._id = id_

    def add(self, items: Iterable[Digest]) -> None:
        """Protects more. Before the first byte of them is written, or the check that they are there already."""
        with self._database.transaction() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO lease_items VALUES (?, ?)", [(self._id, str(item)) for item in items]
            )

    def release(self) -> None:
        """Ends the lease; a no-op the second time."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM leases WHERE id = ?", (self._id,))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _boot_time() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _holds(row: sqlite3.Row) -> bool:
    if row["boot_id"] != boot_id():
        return False
    return _boot_time() < row["holds_until"] or _owner(row).alive()


def _owner(row: sqlite3.Row) -> ProcessId:
    return ProcessId(row["owner_pid"], row["owner_start"], row["boot_id"])
