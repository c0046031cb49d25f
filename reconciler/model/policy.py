"""The rules that both the planner and the drivers go by: restarts, backoff, guards."""

from __future__ import annotations

from reconciler.value import dataclass

_FIRST_DELAY = 0.1
LONGEST_DELAY = 60.0
LONG_ENOUGH = 10.0
"""Seconds a service must have run for its next restart to be the first again."""


def restart_delay(streak: int) -> float:
    """Seconds between an exit and the next start, after ``streak`` restarts in a row: 0.1, 0.2, 0.4 ... 60."""
    return min(LONGEST_DELAY, _FIRST_DELAY * 2.0 ** min(streak, 30))


def next_streak(streak: int, ran_for: float) -> int:
    """The streak once a container that ran for ``ran_for`` seconds is started again."""
    return 1 if ran_for >= LONG_ENOUGH else streak + 1


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What the person or the loop that asks for a plan wants.

    ``asked`` is true when a person asked: failed jobs run once more and no backoff is waited for. Deletions above
    both ``PRUNE_COUNT`` and ``PRUNE_SHARE`` are refused unless ``max_deletes`` allows that many.
    """

    asked: bool = False
    max_deletes: int | None = None
    allow_empty: bool = False
    delete_volumes: bool = False


PRUNE_COUNT = 5
PRUNE_SHARE = 0.3


def too_many_deletes(deletes: int, total: int, options: PlanOptions) -> bool:
    """Whether the prune guard refuses ``deletes`` of ``total`` resources in one plan."""
    if options.max_deletes is not None:
        return deletes > options.max_deletes
    return deletes > PRUNE_COUNT and deletes > total * PRUNE_SHARE
