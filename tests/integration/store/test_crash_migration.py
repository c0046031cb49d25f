"""A root of any earlier version whose migration is killed or fails at any statement is the old one or the new."""

from __future__ import annotations

import errno
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.engine.embedded.state import SCHEMAS
from reconciler.store.database import FILE, Schema, WritableDatabase
from reconciler.testing import crash

EARLIER = [
    tuple(Schema(schema.name, schema.versions[:count]) for schema in SCHEMAS)
    for count in range(1, max(len(schema.versions) for schema in SCHEMAS))
]


def shape(root: Path) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(root / FILE)) as database:
        return sorted(database.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_master").fetchall())


@pytest.mark.parametrize("earlier", EARLIER, ids=lambda schemas: "+".join(str(len(item.versions)) for item in schemas))
@pytest.mark.parametrize("number", [None, errno.ENOSPC])
def test_s37_a_migration_cut_off_at_each_statement(
    tmp_path: Path, earlier: tuple[Schema, ...], number: int | None
) -> None:
    output = tmp_path / "output"

    def old(name: str) -> Path:
        root = tmp_path / name
        root.mkdir(0o700)
        WritableDatabase(root, earlier).close()
        return root

    def migrate(root: Path) -> int:
        WritableDatabase(root, SCHEMAS).close()
        return 0

    root = old("whole")
    before = shape(root)
    ended, spots = crash.listen(lambda: migrate(root), output)
    assert ended.code == 0, ended.printed
    after = shape(root)
    assert [spot.name for spot in spots if spot.phase == "before"][-1] == "database:commit"
    for at, spot in enumerate(spots):
        root = old(str(at))
        ended = crash.disturbed(lambda root=root: migrate(root), spot, number, output)
        assert ended.code == (crash.UNEXPECTED if number else -9), spot
        assert shape(root) == (after if (spot.phase, spot.name) == ("after", "database:commit") else before), spot
        migrate(root)
        assert shape(root) == after
