"""When tags were first seen."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from reconciler.engine.embedded.state import SCHEMAS
from reconciler.engine.embedded.tag_ledger import TagLedger
from reconciler.engine.embedded.upkeep.ages import ClockTable, Moment
from reconciler.store.database import WritableDatabase
from reconciler.testing.builders import digest

REPOSITORY = "r.example.com/app"
DAY = 86400.0


@pytest.fixture
def ledger(tmp_path: Path):
    database = WritableDatabase(tmp_path, SCHEMAS)
    now = Moment.now()
    # The root has seen ten days pass.
    ClockTable(database).note(Moment(now.wall - 10 * DAY, now.boot_time - 10 * DAY, now.boot))
    yield TagLedger(database)
    database.close()


def test_a_tag_keeps_its_date_while_it_keeps_its_digest(ledger: TagLedger) -> None:
    now = time.time()
    ledger.note(REPOSITORY, {"1": digest("one"), "2": digest("two")}, now - 5 * DAY)
    ledger.note(REPOSITORY, {"1": digest("one"), "2": digest("moved")}, now - 2 * DAY)
    seen = ledger.first_seen(REPOSITORY, {"1": digest("one"), "2": digest("moved"), "3": digest("x")}, now)
    assert {tag: round((now - at) / DAY) for tag, at in seen.items()} == {"1": 5, "2": 2}


def test_a_tag_that_moved_or_is_elsewhere_was_not_seen(ledger: TagLedger) -> None:
    now = time.time()
    ledger.note(REPOSITORY, {"1": digest("one")}, now - DAY)
    assert ledger.first_seen(REPOSITORY, {"1": digest("other")}, now) == {}
    assert ledger.first_seen("r.example.com/other", {"1": digest("one")}, now) == {}
