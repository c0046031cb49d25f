"""How each mirror is, as ``status`` tells it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from reconciler.cli.table import span
from reconciler.clock import rfc3339
from reconciler.model.observed import Observed, ObservedFact
from reconciler.value import dataclass

if TYPE_CHECKING:
    from reconciler.registry.health import EndpointHealth


@dataclass(frozen=True, slots=True)
class MirrorState:
    """One mirror of one registry; ``health`` is None while nobody asked it. ``from_file`` is as for ``Mirror``."""

    registry: str
    url: str
    resolve: str
    from_file: str
    health: EndpointHealth | None

    def text(self, now: float) -> str:
        """``answering``, ``not asked yet``, or since when it fails, how often, when it is tried again, and why."""
        health = self.health
        if health is None:
            return "not asked yet"
        if not health.failures:
            return "answering"
        from urllib.parse import urlsplit

        rest = health.rest(datetime.fromtimestamp(now, UTC))
        times = f"{health.failures} failure{'s' * (health.failures != 1)}"
        again = f"next try in {span(rest)}" if rest else "next try is due"
        error = health.last_error.removeprefix(f"{self.url}: ").removeprefix(f"{urlsplit(self.url).netloc}: ")
        return f"failing for {span(now - health.since.timestamp())}, {times}, {again}: {error}"

    def document(self, now: float) -> dict[str, Any]:
        health = self.health
        failing = health is not None and health.failures > 0
        rests = health is not None and health.rest(datetime.fromtimestamp(now, UTC)) > 0
        return {
            "registry": self.registry,
            "url": self.url,
            "resolve": self.resolve,
            "from_file": self.from_file or None,
            "state": "unknown" if health is None else "failing" if failing else "answering",
            "since": rfc3339(health.since) if health else None,
            "failures": health.failures if health else 0,
            "next_try": rfc3339(health.next_try) if health and health.next_try and rests else None,
            "error": health.last_error if health and failing else "",
        }


def mirror_states(observed: Observed, known: Mapping[str, EndpointHealth]) -> Iterator[MirrorState]:
    """The mirrors that are recorded, by registry, in the order in which they are asked."""
    for address, fact in sorted(observed.resources.items()):
        if address.kind != "mirror" or not isinstance(fact, ObservedFact):
            continue
        for item in fact.form["endpoints"]:
            url = item if isinstance(item, str) else item["url"]
            resolve = "fallback" if isinstance(item, str) else item.get("resolve", "fallback")
            yield MirrorState(address.name, url, resolve, fact.form.get("from_file", ""), known.get(url))
