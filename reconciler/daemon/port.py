"""What the loop asks of the rest."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from reconciler.apply.report import StepResult
from reconciler.model.address import Address
from reconciler.model.desired import Desired
from reconciler.plan.plan import Plan
from reconciler.value import dataclass


@dataclass(frozen=True, slots=True)
class PassReport:
    """One pass as the loop sees it. ``plan`` is the last one made: what is in it has not converged.

    ``settled`` says that nothing was left to run; ``waiting`` that something runs whose end matters. ``next_try`` is
    in how many seconds the pass has to be repeated although nothing wakes the loop, or None.
    """

    plan: Plan
    performed: tuple[StepResult, ...] = ()
    settled: bool = True
    waiting: bool = False
    next_try: float | None = None


class Converger(Protocol):
    """Brings the host nearer to what is desired."""

    def converge_once(
        self, desired: Desired, *, asked: bool, exclude: Collection[Address], export: Callable[[], None]
    ) -> PassReport:
        """Observes, plans, and carries out what can be done now, but for the addresses to ``exclude``.

        ``export`` is called first, with the right to write. What fails is in the report. Raises ``RefusedError`` when
        a guard forbids the plan and ``InvalidError`` when there is none for these specs (both before anything was
        changed), ``LockedError`` when another writer is at work, another ``ReconcilerError`` when it cannot plan.
        """
