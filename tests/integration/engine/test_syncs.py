"""Syncs of the embedded engine between registries with manners of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from reconciler.testing.sync_world import SyncWorld, fields, said

pytestmark = pytest.mark.root


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Callable[..., SyncWorld]]:
    with ExitStack() as held:
        yield lambda *registries, **options: held.enter_context(SyncWorld(tmp_path, *registries, **options))


def test_a_plain_sync(world):
    made = world()
    made.source.image("app", "1.0", b"layer")
    assert fields(made.plan()).keys() == {"tags[1.0]"}
    report = made.apply()
    assert report.converged, said(report.last)
    assert made.target.tags == made.source.tags
