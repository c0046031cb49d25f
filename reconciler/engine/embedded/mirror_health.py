"""How mirrors did, kept from one process to the next: whoever comes next leaves a failing one alone as well."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from reconciler.errors import HostError
from reconciler.log import Logger
from reconciler.store.database import Database

if TYPE_CHECKING:
    from reconciler.engine.embedded.state import State
    from reconciler.registry.health import EndpointHealth

_log = Logger("engine")


class MirrorHealth:
    """The mirrors that are recorded, by URL, as somebody saw them last."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> dict[str, EndpointHealth]:
        rows = self._database.query("SELECT * FROM mirror_health ORDER BY url")
        if not rows:
            return {}
        from reconciler.registry.health import EndpointHealth

        return {
            row["url"]: EndpointHealth(
                row["url"],
                "resting" if row["failures"] else "good",
                _moment(row["since"]),
                row["failures"],
                _moment(row["failed_at"]) if row["failures"] else None,
                _moment(row["next_try"]) if row["failures"] else None,
                row["error"],
            )
            for row in rows
        }

    def keep(self, news: Iterable[EndpointHealth], urls: Collection[str]) -> None:
        """Keeps what was seen, of the mirrors at ``urls`` alone: the others are not recorded any more."""
        known = [item for item in news if item.name in urls]
        gone = [url for url in self.all() if url not in urls]
        if not known and not gone:
            return
        with self._database.transaction() as connection:
            connection.executemany("DELETE FROM mirror_health WHERE url = ?", [(url,) for url in gone])
            connection.executemany(
                "INSERT OR REPLACE INTO mirror_health VALUES (?, ?, ?, ?, ?, ?)", [_row(item) for item in known]
            )


def keep(news: Iterable[EndpointHealth], state: State) -> None:
    """Keeps what was seen of the mirrors that are recorded. It is not worth failing for."""
    from reconciler.engine.embedded.registries import recorded_facts

    mirrors = recorded_facts(state.facts.all()).mirrors
    try:
        state.mirror_health.keep(news, {end.url for mirror in mirrors for end in mirror.endpoints})
    except HostError as error:
        _log.warning("mirror-health-not-kept", error=str(error), hint=error.hint)


def _row(item: EndpointHealth) -> tuple[object, ...]:
    failed_at = item.failed_at.timestamp() if item.failed_at else None
    next_try = item.next_try.timestamp() if item.next_try else None
    return item.name, item.since.timestamp(), item.failures, failed_at, next_try, item.last_error


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
