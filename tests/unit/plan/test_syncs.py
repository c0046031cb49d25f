"""The bound of a sync's deletions, where it is just reached."""

from __future__ import annotations

import pytest

from reconciler.engine.memory import MemoryEngine
from reconciler.errors import RefusedError
from reconciler.model.policy import PlanOptions
from reconciler.model.resources import Prune
from reconciler.model.selection import TagSelection
from reconciler.plan.plan import Plan
from reconciler.reconcile import look, prepare
from reconciler.testing.builders import Stack


def planned(stay: int, go: int, share: float, **options: int) -> Plan:
    """The plan of a sync whose target has so many tags to keep, and so many to delete."""
    engine = MemoryEngine()
    for number in range(stay):
        for repository in ("up.example.com/app", "r.example.com/app"):
            engine.registry.publish(f"{repository}:v{number}", (f"{number}", 1))
    for number in range(go):
        engine.registry.publish(f"r.example.com/app:x{number}", (f"x{number}", 1))
    stack = Stack()
    stack.sync("r.example.com/app", "up.example.com/app", tags=TagSelection(allow=("v.*",)), prune=Prune((), share))
    return look(prepare(stack.desired(), engine), engine, PlanOptions(asked=True, **options))[1]


@pytest.mark.parametrize(
    ("stay", "go", "share"),
    [(14, 6, 0.3), (71, 29, 0.29), (1, 5, 0.0), (3, 7, 0.7), (1, 99, 0.99), (10, 90, 1.0)],
)
def test_so_many_as_the_share_may_go(stay, go, share):
    assert len(planned(stay, go, share).steps) == go + 1


@pytest.mark.parametrize(("stay", "go", "share"), [(14, 7, 0.3), (71, 30, 0.29), (1, 6, 0.0)])
def test_one_more_is_refused_unless_somebody_allows_it(stay, go, share):
    with pytest.raises(RefusedError, match=rf"would delete {go} tags? of the {stay + go} at its target"):
        planned(stay, go, share)
    assert len(planned(stay, go, share, max_deletes=go).steps) == go + 1
