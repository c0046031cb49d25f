"""Rows of syncs: when one is due, and what a failure changes about that."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.engine.embedded.state import SCHEMAS
from reconciler.engine.embedded.syncs.rows import SyncTable
from reconciler.model.address import Address
from reconciler.store.database import WritableDatabase
from reconciler.testing.builders import digest

SYNC = Address("sync", "r.example.com/app")
HOUR = 3600.0


@pytest.fixture
def table(tmp_path: Path):
    database = WritableDatabase(tmp_path, SCHEMAS)
    yield SyncTable(database)
    database.close()


def test_a_sync_is_due_at_first_and_then_once_an_interval(table: SyncTable) -> None:
    table.set(SYNC, {"source": "x"}, "shop")
    assert table.all()[SYNC].is_due(0.0)
    table.looked(SYNC, 1000.0, HOUR, 5)
    row = table.all()[SYNC]
    assert (row.counted, row.checked_at, row.form, row.stack) == (5, 1000.0, {"source": "x"}, "shop")
    assert not row.is_due(1000.0 + HOUR - 1)
    assert row.is_due(1000.0 + HOUR)
    assert row.is_due(500.0)  # the clock was set back


def test_failures_make_it_due_sooner_and_then_ever_later(table: SyncTable) -> None:
    delays = []
    now = 1000.0
    for _ in range(9):
        table.looked(SYNC, now, HOUR, 5)
        for _ in range(3):  # several tags of one look are one failure
            table.failed(SYNC, now, HOUR, "1.0: it broke")
        due = table.all()[SYNC].due_at
        assert due is not None
        delays.append(due - now)
        now = due
    assert delays == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert table.all()[SYNC].error == "1.0: it broke"
    table.looked(SYNC, now, HOUR, 5)
    table.looked(SYNC, now, HOUR, 5)
    assert table.all()[SYNC].error == ""
    table.failed(SYNC, now, HOUR, "again")
    assert table.all()[SYNC].due_at == now + 30


def test_narrowed_indexes_are_kept_while_they_are_chosen(table: SyncTable) -> None:
    table.keep_narrowed(SYNC, "linux/amd64", {digest("a"): digest("A"), digest("b"): digest("B")})
    table.keep_narrowed(SYNC, "linux/amd64", {digest("b"): digest("B")})
    assert table.narrowed(SYNC, "linux/amd64") == {digest("b"): digest("B")}
    assert table.narrowed(SYNC, "linux/arm64") == {}
    assert not table.drop(SYNC)
    assert table.narrowed(SYNC, "linux/amd64") == {}
