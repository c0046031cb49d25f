"""How mirrors did, from the rows of one process to the words of another."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from reconciler.cli.mirror_states import MirrorState, mirror_states
from reconciler.engine.embedded.mirror_health import keep
from reconciler.engine.embedded.state import SCHEMAS, WriterState
from reconciler.model.address import Address
from reconciler.model.canonical import form
from reconciler.model.observed import Observed, ObservedFact
from reconciler.model.resources import Endpoint, Mirror
from reconciler.registry.health import EndpointHealth
from reconciler.store.database import WritableDatabase
from reconciler.store.identity import claim_identity

NOW = datetime(2026, 1, 1, tzinfo=UTC)
URL = "http://127.0.0.1:5001"
GOOD = EndpointHealth(URL, "good", NOW)
FAILING = EndpointHealth(
    URL,
    "resting",
    NOW - timedelta(minutes=3),
    failures=3,
    failed_at=NOW,
    next_try=NOW + timedelta(seconds=120),
    last_error="127.0.0.1:5001: cannot connect: Connection refused",
)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[WriterState]:
    root = tmp_path / "root"
    root.mkdir(0o700)
    opened = WriterState(claim_identity(root, run=tmp_path / "run"), WritableDatabase(root, SCHEMAS))
    record(opened, URL)
    yield opened
    opened.close()


def record(state: WriterState, *urls: str) -> None:
    state.facts.set(Address("mirror", "a.io"), form(Mirror("a.io", tuple(Endpoint(url) for url in urls))), ["shop"])


@pytest.mark.parametrize("health", [GOOD, FAILING], ids=["good", "failing"])
def test_what_was_seen_is_read_as_it_was(state: WriterState, health: EndpointHealth) -> None:
    keep([health], state)
    assert state.mirror_health.all() == {URL: health}


def test_only_recorded_mirrors_are_kept_and_those_that_left_are_forgotten(state: WriterState) -> None:
    other = EndpointHealth("https://m.io", "good", NOW)
    keep([GOOD, other], state)
    assert list(state.mirror_health.all()) == [URL]
    record(state, "https://m.io")
    keep([other], state)
    assert list(state.mirror_health.all()) == ["https://m.io"]


def test_nothing_new_writes_nothing(state: WriterState) -> None:
    keep([GOOD], state)
    state.close_pass()
    before = (state.root / "state.db").read_bytes()
    keep([], state)
    assert not (state.root / "state.db-wal").exists() or (state.root / "state.db-wal").stat().st_size == 0
    assert (state.root / "state.db").read_bytes() == before


@pytest.mark.parametrize(
    ("health", "after", "text"),
    [
        (None, 0, "not asked yet"),
        (GOOD, 0, "answering"),
        (FAILING, 12, "failing for 3 minutes, 3 failures, next try in 108 seconds: cannot connect: Connection refused"),
        (FAILING, 121, "failing for 5 minutes, 3 failures, next try is due: cannot connect: Connection refused"),
        (FAILING, -3600, "failing for 0 seconds, 3 failures, next try is due: cannot connect: Connection refused"),
    ],
    ids=["unknown", "good", "resting", "due", "the clock was set back"],
)
def test_a_mirror_in_words(health: EndpointHealth | None, after: int, text: str) -> None:
    now = (NOW + timedelta(seconds=after)).timestamp()
    assert MirrorState("a.io", URL, "first", "", health).text(now) == text


def test_a_mirror_as_data() -> None:
    mirror = Mirror("a.io", (Endpoint(URL, "first"), Endpoint("https://m.io")), from_file="/etc/x.conf")
    observed = Observed("", NOW.timestamp(), {Address("mirror", "a.io"): ObservedFact(form(mirror), frozenset())})
    first, second = (item.document(NOW.timestamp()) for item in mirror_states(observed, {URL: FAILING}))
    assert first == {
        "registry": "a.io",
        "url": URL,
        "resolve": "first",
        "from_file": "/etc/x.conf",
        "state": "failing",
        "since": "2025-12-31T23:57:00Z",
        "failures": 3,
        "next_try": "2026-01-01T00:02:00Z",
        "error": FAILING.last_error,
    }
    assert (second["url"], second["resolve"], second["state"], second["next_try"]) == (
        "https://m.io",
        "fallback",
        "unknown",
        None,
    )
