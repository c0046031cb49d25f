"""Syncs of the embedded engine between registries with manners of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from reconciler.errors import RegistryError
from reconciler.model.resources import Prune
from reconciler.model.selection import TagSelection
from reconciler.testing.scripted_registry import Step
from reconciler.testing.served_registry import ServedRegistry
from reconciler.testing.sync_world import SyncWorld, fields, said

pytestmark = pytest.mark.root
EVERY = TagSelection(allow=(".*",))


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


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (405, "does not allow deletions (405 UNSUPPORTED"),
        (404, "does not allow deletions (404 UNSUPPORTED"),
        (403, "403 DENIED"),
        (400, "400 UNKNOWN"),
        (410, "410 UNKNOWN"),
    ],
)
def test_a_registry_that_refuses_deletions_keeps_back_nothing_else(world, status, message):
    made = world(None, ServedRegistry(deletes=status), tags=EVERY, prune=Prune())
    made.source.image("app", "1.0", b"one")
    made.target.image("app", "old", b"old")
    assert fields(made.plan()).keys() == {"tags[1.0]", "tags[old]"}
    report = made.apply()
    assert report.exit_code == 4
    (failure,) = report.failures
    assert isinstance(failure.error, RegistryError)
    assert message in str(failure.error)
    assert made.target.tags["app"].keys() == {"1.0", "old"}
    asked = made.target.count("DELETE ")
    for _ in range(3):  # a daemon's passes before the next look is due
        again = made.one_pass()
        assert not again.performed
        assert f"what failed last is tried again later: old: {failure.error}" in said(again.plan)
    assert made.target.count("DELETE ") == asked == 1


def test_a_deletion_that_is_not_made_is_no_success(world):
    made = world(tags=EVERY, prune=Prune())
    made.source.image("app", "1.0", b"one")
    made.target.image("app", "old", b"old")
    made.target.on("DELETE ", Step(404, b"{}", times=9))
    report = made.apply()
    assert "says that there is no" in str(report.failures[0].error)
    assert report.exit_code == 4
