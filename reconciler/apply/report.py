"""What an apply did, as values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from reconciler.engine.port import Outcome
from reconciler.errors import ReconcilerError
from reconciler.model.address import Address
from reconciler.plan.plan import Plan
from reconciler.value import dataclass

Status = Literal["done", "unchanged", "failed", "blocked", "stopped"]


@dataclass(frozen=True, slots=True)
class StepResult:
    """How one step ended: ``blocked`` when a step it needs failed, ``stopped`` when the apply ended before it.

    ``begun`` is when, in monotonic seconds; it ran for ``seconds``.
    """

    step_id: str
    address: Address
    verb: str
    status: Status
    outcome: Outcome | None = None
    error: ReconcilerError | None = None
    blocked_by: str = ""
    seconds: float = 0.0
    begun: float = 0.0


@dataclass(frozen=True, slots=True)
class Moved:
    """What steps that were done moved over the network, blobs only, and what they did not have to: layers that
    were there already, and those that a registry mounted from another repository. ``pull_seconds`` is how long
    anything was being pulled."""

    pulled_bytes: int = 0
    pushed_bytes: int = 0
    there_layers: int = 0
    there_bytes: int = 0
    mounted_layers: int = 0
    mounted_bytes: int = 0
    pull_seconds: float = 0.0

    @classmethod
    def of(cls, results: Iterable[StepResult]) -> Moved:
        """The sum of what the steps moved."""
        done = [(result, result.outcome) for result in results if result.outcome is not None]
        outcomes = [outcome for _, outcome in done]
        pulls = [(result.begun, result.begun + result.seconds) for result, outcome in done if outcome.bytes_pulled]
        return cls(
            sum(outcome.bytes_pulled for outcome in outcomes),
            sum(outcome.bytes_pushed for outcome in outcomes),
            sum(outcome.layers_there for outcome in outcomes),
            sum(outcome.bytes_there for outcome in outcomes),
            sum(outcome.layers_mounted for outcome in outcomes),
            sum(outcome.bytes_mounted for outcome in outcomes),
            _covered(pulls),
        )


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """How much time the spans cover together."""
    covered, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        covered += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return covered


@dataclass(frozen=True, slots=True)
class Report:
    """One apply, from its first plan to its last.

    ``plan`` is what was approved, ``last`` the plan after the final pass: what is in there did not converge.
    ``generation`` is the number recorded, or None when nothing was (it was recorded before, or something failed).
    ``error`` is what ended the apply before its time, after some steps had been carried out.
    """

    plan: Plan
    last: Plan
    results: tuple[StepResult, ...] = ()
    generation: int | None = None
    interrupted: bool = False
    error: ReconcilerError | None = None

    @property
    def applied(self) -> tuple[StepResult, ...]:
        return tuple(result for result in self.results if result.status == "done")

    @property
    def failures(self) -> tuple[StepResult, ...]:
        return tuple(result for result in self.results if result.status == "failed")

    @property
    def moved(self) -> Moved:
        """What was moved in all."""
        return Moved.of(self.results)

    @property
    def converged(self) -> bool:
        """Whether everything asked for is so, and stayed so while we looked."""
        restarted = {result.address for result in self.results if result.verb == "start"}
        died = any(item.address in restarted for item in self.last.blocked)
        ended_early = self.interrupted or self.error is not None
        return not (self.failures or self.last.changes or self.last.errored or ended_early or died)

    @property
    def exit_code(self) -> int:
        """0 converged; 4 something was applied and something was not; 1 nothing was applied; 130 interrupted."""
        if self.interrupted:
            return 130
        if self.converged:
            return 0
        return 4 if self.applied else 1
