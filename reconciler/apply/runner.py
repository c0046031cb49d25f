"""The scheduler: the one thread pool, and the rule that a step runs once all it needs are done."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from reconciler.apply.report import Status, StepResult
from reconciler.engine.port import Engine, Outcome, Progress
from reconciler.errors import ReconcilerError
from reconciler.log import Logger
from reconciler.model.action import StartContainer, StopContainer
from reconciler.model.address import Address
from reconciler.plan.plan import Step

_log = Logger("apply")

# Steps wait for registries and for runc more than they compute, so a few per core keep both busy.
WORKERS = max(4, 2 * (os.cpu_count() or 1))

Listener = Callable[[Step, StepResult | None], None]
"""Called when a step starts (None) and when it ends; from the scheduling thread only."""


def run(
    steps: Sequence[Step],
    engine: Engine,
    *,
    done: Collection[str],
    progress: Progress,
    listener: Listener,
    stop: threading.Event,
    workers: int = WORKERS,
) -> list[StepResult]:
    """Performs every step whose needs are met, and returns one result for each of ``steps``, in order of ending.

    ``done`` are ids of steps that were carried out before. A need that is neither there nor among ``steps`` blocks
    its step. When ``stop`` is set, what runs is finished and nothing new begins, but for a container that was stopped
    to make room for its successor: that one is started first. Our own errors become results; anything else is a bug:
    it is raised once the running steps have ended.
    """
    return _Run(steps, engine, set(done), progress, listener, stop).go(workers)


class _Run:
    def __init__(
        self,
        steps: Sequence[Step],
        engine: Engine,
        done: set[str],
        progress: Progress,
        listener: Listener,
        stop: threading.Event,
    ) -> None:
        self._pending = {step.id: step for step in steps}
        self._engine, self._progress, self._listener, self._stop = engine, progress, listener, stop
        self._done = done
        self._lost: set[str] = set()
        self._handed_over: set[Address] = set()
        self._running: dict[Future[StepResult], Step] = {}
        self._results: list[StepResult] = []

    def go(self, workers: int) -> list[StepResult]:
        with ThreadPoolExecutor(workers, thread_name_prefix="step") as pool:
            while self._pending or self._running:
                self._start_ready(pool, workers)
                if not self._running:
                    break
                finished, _ = wait(self._running, return_when=FIRST_COMPLETED)
                for future in finished:
                    self._finish(self._running.pop(future), future)
        for step in self._pending.values():
            self._end(step, StepResult(step.id, step.action.address, step.action.verb, "stopped"))
        return self._results

    def _start_ready(self, pool: ThreadPoolExecutor, workers: int) -> None:
        for step in list(self._pending.values()):
            if self._stop.is_set() and not self._completes_a_handover(step):
                continue
            missing = [need for need in step.needs if need not in self._done]
            lost = next((need for need in missing if need in self._lost or not self._is_coming(need)), None)
            if lost is not None:
                del self._pending[step.id]
                self._lost.add(step.id)
                address, verb = step.action.address, step.action.verb
                self._end(step, StepResult(step.id, address, verb, "blocked", blocked_by=lost))
            elif not missing and len(self._running) < workers:
                del self._pending[step.id]
                self._listener(step, None)
                self._running[pool.submit(self._perform, step)] = step

    def _completes_a_handover(self, step: Step) -> bool:
        return isinstance(step.action, StartContainer) and step.action.address in self._handed_over

    def _is_coming(self, step_id: str) -> bool:
        return step_id in self._pending or any(step.id == step_id for step in self._running.values())

    def _finish(self, step: Step, future: Future[StepResult]) -> None:
        try:
            result = future.result()
        except BaseException:
            self._stop.set()
            raise
        (self._lost if result.status == "failed" else self._done).add(step.id)
        if isinstance(step.action, StopContainer) and result.status == "done":
            self._handed_over.add(step.action.address)
        self._end(step, result)

    def _end(self, step: Step, result: StepResult) -> None:
        self._results.append(result)
        self._listener(step, result)

    def _perform(self, step: Step) -> StepResult:
        begun = time.monotonic()
        action = step.action
        outcome: Outcome | None = None
        failure: ReconcilerError | None = None
        try:
            outcome = self._engine.perform(action, self._progress)
        except ReconcilerError as error:
            failure = error
            _log.info("step-failed", step=step.id, error=str(error))
        status: Status = "failed" if outcome is None else "done" if outcome.changed else "unchanged"
        return StepResult(
            step.id,
            action.address,
            action.verb,
            status,
            outcome,
            failure,
            seconds=time.monotonic() - begun,
            begun=begun,
        )
