"""How old things on record are, when the wall clock that dated them may have jumped since.

Only time that was seen to pass counts: on the kernel's boot-time clock, which nobody can set, summed up over boots.
The table ``clock`` relates it to the wall clock: a row for each boot and for each time the wall clock was moved. So a
clock that jumps makes nothing old before its time (case S23), and time while the host was off makes nothing older.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from reconciler.errors import HostError
from reconciler.linux.processes import boot_id
from reconciler.log import Logger
from reconciler.store.database import Database
from reconciler.value import dataclass

_log = Logger("engine")

# Clocks drift and are slewed; less than this is not worth a row.
_JUMP = 60.0
# Seeing that time passed costs a write. This much of it may be lost at a reboot.
_SEEN_EVERY = 3600.0
_ROWS = 200


@dataclass(frozen=True, slots=True)
class Moment:
    """One moment on both clocks, in seconds: since the epoch, and since the boot ``boot``."""

    wall: float
    boot_time: float
    boot: str

    @classmethod
    def now(cls) -> Moment:
        return cls(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), boot_id())


@dataclass(frozen=True, slots=True)
class Stretch:
    """From ``start`` on, the wall clock was at ``start.wall`` when ``elapsed`` seconds had passed in all.

    ``seen`` is how many had passed when somebody looked last.
    """

    start: Moment
    elapsed: float
    seen: float

    def passed(self, now: Moment) -> float:
        """How many seconds have passed in all, as far as is certain."""
        if now.boot == self.start.boot:
            return self.elapsed + max(0.0, now.boot_time - self.start.boot_time)
        return self.seen + now.boot_time

    def is_continued(self, now: Moment) -> bool:
        """Whether both clocks went on together."""
        moved = (now.wall - self.start.wall) - (now.boot_time - self.start.boot_time)
        return now.boot == self.start.boot and abs(moved) < _JUMP


class ClockTable:
    """The stretches of time that this root has seen."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def look(self) -> None:
        """Notes the time at the start of a turn. If that fails (a full disk), only ages come out too young."""
        try:
            self.note(Moment.now())
        except HostError as error:
            _log.warning("time-not-noted", error=str(error), hint=error.hint)

    def note(self, now: Moment) -> None:
        """Notes that time passed, if there is something to note."""
        rows = self._database.query("SELECT * FROM clock ORDER BY number DESC LIMIT 1")
        last = _stretch(rows[0]) if rows else None
        if last is not None and last.is_continued(now):
            passed = last.passed(now)
            if passed - last.seen > _SEEN_EVERY:
                with self._database.transaction() as connection:
                    connection.execute("UPDATE clock SET seen = ? WHERE number = ?", (passed, rows[0]["number"]))
            return
        passed = last.passed(now) if last is not None else 0.0
        with self._database.transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO clock (boot_id, boot_time, wall, elapsed, seen) VALUES (?, ?, ?, ?, ?)",
                (now.boot, now.boot_time, now.wall, passed, passed),
            )
            connection.execute("DELETE FROM clock WHERE number <= ?", ((cursor.lastrowid or 0) - _ROWS,))

    def ages(self, now: Moment | None = None) -> Ages:
        """What tells ages at this moment."""
        now = now or Moment.now()
        stretches = [_stretch(row) for row in self._database.query("SELECT * FROM clock ORDER BY number")]
        if stretches and not stretches[-1].is_continued(now):
            passed = stretches[-1].passed(now)
            stretches.append(Stretch(now, passed, passed))
        return Ages(stretches or [Stretch(now, 0.0, 0.0)], now)


class Ages:
    """Ages of moments of the wall clock."""

    def __init__(self, stretches: Sequence[Stretch], now: Moment) -> None:
        self._stretches = stretches
        self._now = stretches[-1].passed(now)

    def of(self, wall: float) -> float:
        """How many seconds ago the wall clock showed ``wall``: the last time, if it did so more than once."""
        certain = [elapsed for elapsed, missed in self._readings(wall) if missed <= _JUMP]
        if certain:
            return max(0.0, self._now - max(certain))
        elapsed, _ = min(reversed(list(self._readings(wall))), key=lambda reading: reading[1])
        return max(0.0, self._now - elapsed)

    def _readings(self, wall: float) -> Iterator[tuple[float, float]]:
        """When each stretch says that it was, kept within the stretch, and by how many seconds that is wrong."""
        for at, stretch in enumerate(self._stretches):
            # What was before the first is believed. A clock was moved some time between two looks at it.
            first = self._stretches[at - 1].seen if at else float("-inf")
            last = self._stretches[at + 1].elapsed if at + 1 < len(self._stretches) else self._now
            elapsed = stretch.elapsed + wall - stretch.start.wall
            kept = min(max(elapsed, first), last)
            yield kept, abs(elapsed - kept)


def _stretch(row: object) -> Stretch:
    boot, boot_time, wall, elapsed, seen = (row[name] for name in ("boot_id", "boot_time", "wall", "elapsed", "seen"))  # type: ignore[index]
    return Stretch(Moment(wall, boot_time, boot), elapsed, seen)
