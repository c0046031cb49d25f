"""One pass, shared by the command line and the daemon: observe, plan, run what can run now.

An apply is passes until nothing is left. A step that needs to know something only the machine can tell (that a job
has ended, which digest a commit gave) is deferred, and comes again, exact, in a later pass; nothing is ever carried
out on a guess. The right to write is held for a pass and released while waiting.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import field, replace

from reconciler.apply.report import Report, StepResult
from reconciler.apply.runner import Listener, run
from reconciler.engine.port import Engine, Generation, GenerationEntry, HostFacts, Progress
from reconciler.errors import LockedError, ReconcilerError, RefusedError
from reconciler.model.action import RemoveContainer, StartContainer
from reconciler.model.address import Address
from reconciler.model.canonical import form
from reconciler.model.desired import Desired, Resolution
from reconciler.model.observed import Interest, Observed, ObservedContainer, ObservedImage
from reconciler.model.policy import PlanOptions
from reconciler.model.resources import Container
from reconciler.plan.interest import host_facts, interest_of, pulls_of
from reconciler.plan.plan import Plan, Step
from reconciler.plan.planner import plan as make_plan
from reconciler.value import dataclass

# Seconds to wait for a job at a time, and how often before looking again: this bounds only an event that was missed.
_LISTEN = 1.0
_LOOKS = 5


def prepare(desired: Desired, engine: Engine, pins: Mapping[Address, Resolution] | None = None) -> Desired:
    """Seals what is sensitive, takes over the host's own mirrors where a stack says so, and pins every tag: the
    ``Desired`` that planning takes. Writes nothing.

    ``pins`` are taken as they are when given (a saved plan is carried out with its own).
    """
    sealed = desired.sealed(engine.seal)
    if sealed.from_host:
        sealed = sealed.with_host_mirrors(engine.host_mirrors())
    return sealed.pinned(engine.resolve(pulls_of(sealed), HostFacts(*host_facts(sealed))) if pins is None else pins)


def look(
    desired: Desired,
    engine: Engine,
    options: PlanOptions,
    due: Collection[Address] = (),
    *,
    sizes: bool = False,
    exclude: Collection[Address] = (),
    refused: Callable[[Observed], None] = lambda _observed: None,
) -> tuple[Observed, Plan]:
    """Observes and plans. ``desired`` must come from ``prepare``. Writes nothing.

    Syncs are asked about when a person asks or they are due, but for those to ``exclude``. When a guard forbids the
    plan, ``refused`` hears what was observed before the ``RefusedError`` is raised.

    With ``sizes`` the plan tells how much it discards. Only those containers are measured, in a second look.
    """
    interest, facts = _interest(desired, options, exclude), HostFacts(*host_facts(desired))
    observed = engine.observe(interest, facts)
    try:
        made = make_plan(desired, observed, engine.capabilities, options, due)
    except RefusedError:
        refused(observed)
        raise
    removed = frozenset(step.action.address for step in made.steps if isinstance(step.action, RemoveContainer))
    if sizes and removed:
        observed = engine.observe(replace(interest, sizes=removed), facts)
        made = make_plan(desired, observed, engine.capabilities, options, due)
    return observed, made


def remember(
    desired: Desired,
    engine: Engine,
    options: PlanOptions,
    observed: Observed,
    timeout: float | None,
    *,
    refused: bool = False,
) -> None:
    """Keeps what a look without a pass saw of tags and syncs: without that, no tag would ever be old enough.

    It takes the turn only where something was asked that counts later; whoever else has it for so long looks and
    remembers too. ``desired`` and ``observed`` are those of the look, after which a guard ``refused`` the plan.
    """
    tracks = (pull.picks for pull in pulls_of(desired).values())
    interest = _interest(desired, options, ())
    if interest.syncs or any(track is not None and track.min_age is not None for track in tracks):
        with suppress(LockedError), engine.turn(timeout):
            engine.note(interest, observed, interest.syncs.keys() if refused else ())


@dataclass(frozen=True, slots=True)
class PassReport:
    """One pass. ``settled`` when no step was left to run and nothing is being waited for."""

    plan: Plan
    performed: tuple[StepResult, ...]
    settled: bool

    @property
    def waiting(self) -> bool:
        return bool(self.plan.waiting)


@dataclass(slots=True)
class Session:
    """Passes over one prepared ``Desired``. Each step is performed at most once in a session, so it always ends.

    ``approved`` limits the steps to those that somebody saw and agreed to; None allows all. ``due`` are the containers
    whose start was planned and is still to come.
    """

    desired: Desired
    engine: Engine
    options: PlanOptions
    progress: Progress
    listener: Listener
    stop: threading.Event = field(default_factory=threading.Event)
    lock_timeout: float | None = None
    approved: frozenset[str] | None = None
    results: list[StepResult] = field(default_factory=list)
    generation: int | None = None
    due: frozenset[Address] = frozenset()

    def one_pass(self, exclude: Collection[Address] = ()) -> PassReport:
        """Takes the turn, observes, plans, and runs what can run now. ``exclude`` leaves addresses for later."""
        with self.engine.turn(self.lock_timeout):
            # The first turn of a new root made its key: what was sealed before was sealed with nothing.
            self.desired = self.desired.sealed(self.engine.seal)
            options = self._options()
            interest = _interest(self.desired, options, exclude)

            def refused(observed: Observed) -> None:
                self.engine.note(interest, observed, interest.syncs.keys())

            observed, plan = look(self.desired, self.engine, options, self.due, exclude=exclude, refused=refused)
            self.engine.note(interest, observed, {step.action.address for step in plan.steps})
            ready = self._ready(plan, exclude)
            performed = run(
                ready,
                self.engine,
                done=self._done(),
                progress=self.progress,
                listener=self.listener,
                stop=self.stop,
            )
            self.results.extend(performed)
            self.due = self._due(plan)
            settled = not ready and not plan.waiting
            if not ready and self._worth_recording(plan) and not is_recorded(self.engine, self.desired, observed):
                self.generation = self.engine.record(_generation(self.desired, observed))
        return PassReport(plan, tuple(performed), settled)

    def converge(self, first: Plan) -> Report:
        """Passes until settled or stopped; ``first`` is the plan that was shown.

        Raises what the first pass raises. Once steps were carried out, an error is in the report that tells of them.
        """
        last = first
        failure: ReconcilerError | None = None
        try:
            while not self.stop.is_set():
                report = self.one_pass()
                last = report.plan
                if report.settled:
                    break
                if not report.performed and report.waiting:
                    self._wait()
        except ReconcilerError as error:
            if not self.results:
                raise
            failure = error
        return Report(first, last, tuple(self.results), self.generation, self.stop.is_set(), failure)

    def _wait(self) -> None:
        """Until a container ends, but not for ever; whoever sets ``stop`` is heard within a second."""
        for _ in range(_LOOKS):
            if self.engine.wait(_LISTEN) or self.stop.is_set():
                return

    def _options(self) -> PlanOptions:
        # A failed job runs once more when a person asks, not once more in every pass.
        if not self.results:
            return self.options
        return PlanOptions(
            asked=False,
            max_deletes=self.options.max_deletes,
            allow_empty=self.options.allow_empty,
            delete_volumes=self.options.delete_volumes,
        )

    def _ready(self, plan: Plan, exclude: Collection[Address]) -> list[Step]:
        """The steps to run in this pass: what waits for a deferred or excluded step is left for a later one."""
        tried = {result.step_id for result in self.results}
        reachable = set(tried)
        ready = []
        for step in plan.steps:
            allowed = self.approved is None or step.id in self.approved
            if step.deferred or step.id in tried or step.action.address in exclude or not allowed:
                continue
            if reachable.issuperset(step.needs):
                reachable.add(step.id)
                ready.append(step)
        return ready

    def _due(self, plan: Plan) -> frozenset[Address]:
        tried = {result.step_id for result in self.results}
        starts = (step for step in plan.steps if isinstance(step.action, StartContainer))
        return frozenset(step.action.address for step in starts if step.id not in tried)

    def _done(self) -> set[str]:
        return {result.step_id for result in self.results if result.status in ("done", "unchanged")}

    def _worth_recording(self, plan: Plan) -> bool:
        changed = any(result.status == "done" for result in self.results)
        failed = any(result.status in ("failed", "blocked") for result in self.results)
        return (changed or bool(self.desired.resources)) and not failed and plan.empty and not plan.errored


def _interest(desired: Desired, options: PlanOptions, exclude: Collection[Address]) -> Interest:
    interest = interest_of(desired)
    syncs = {address: sync for address, sync in interest.syncs.items() if address not in exclude}
    return replace(interest, syncs=syncs, only_due=not options.asked)


def is_recorded(engine: Engine, desired: Desired, observed: Observed) -> bool:
    """Whether the last generation of this source or its stacks says what is there now, given that the plan is empty.

    It does not when an apply was killed after its last step, when the specs moved to another source, or when the
    stacks were destroyed meanwhile.
    """
    now = _generation(desired, observed)
    related = (item for item in reversed(engine.generations()) if item.source == now.source or item.stacks & now.stacks)
    last = next(related, None)
    same = last is not None and (last.source, last.stacks) == (now.source, now.stacks)
    return last is not None and same and dict(last.entries) == dict(now.entries)


def _generation(desired: Desired, observed: Observed) -> Generation:
    entries: dict[Address, GenerationEntry] = {}
    for address, resource in desired.resources.items():
        seen = observed.resources.get(address)
        if isinstance(seen, ObservedContainer) and isinstance(resource, Container):
            entries[address] = GenerationEntry(seen.form, seen.image)
        else:
            digest = seen.digest if isinstance(seen, ObservedImage) else None
            entries[address] = GenerationEntry(form(resource), digest)
    return Generation(desired.stacks, desired.source, desired.revision, entries)
