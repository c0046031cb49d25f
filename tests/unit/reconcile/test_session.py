"""Sessions: what is recorded, what is approved, and how an apply that could not finish ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import pytest

from reconciler.apply.report import Report
from reconciler.clock import ManualClock
from reconciler.engine.memory import MemoryEngine
from reconciler.engine.port import Event, Generation, HostFacts
from reconciler.errors import HostError, LockedError, RefusedError
from reconciler.model.address import Address
from reconciler.model.desired import Desired
from reconciler.model.observed import Interest, Observed
from reconciler.model.policy import PlanOptions
from reconciler.model.resources import Prune
from reconciler.model.selection import TagSelection
from reconciler.plan.plan import Plan
from reconciler.reconcile import Session, look, prepare, remember
from reconciler.testing.builders import Stack

ASKED = PlanOptions(asked=True)
NO_FACTS = HostFacts()


class Engine(MemoryEngine):
    """The reference engine, whose turns and records can be made to fail."""

    def __init__(self) -> None:
        super().__init__(clock=ManualClock())
        self.registry.publish("app:1")
        self.before_turn: Callable[[int], None] = lambda _number: None
        self.killed = False
        self.turns = 0

    def turn(self, timeout: float | None) -> AbstractContextManager[None]:
        self.turns += 1
        self.before_turn(self.turns)
        return super().turn(timeout)

    def record(self, generation: Generation) -> int:
        if self.killed:
            raise KeyboardInterrupt
        return super().record(generation)


def stack(source: str = "dir:/specs", *, names: Sequence[str] = ("web",), **fields: object) -> Stack:
    made = Stack(source=source)
    made.pull("app", "app:1")
    for name in names:
        made.container(name, "app", **fields)  # type: ignore[arg-type]
    return made


def apply(engine: Engine, wanted: Stack, stop: threading.Event | None = None) -> Report:
    desired = prepare(wanted.desired(), engine)
    first = look(desired, engine, ASKED)[1]
    session = Session(
        desired,
        engine,
        ASKED,
        lambda _: None,
        lambda *_: None,
        stop or threading.Event(),
        approved=frozenset(step.id for step in first.steps),
    )
    return session.converge(first)


def test_an_apply_is_recorded_once() -> None:
    engine = Engine()
    assert apply(engine, stack()).generation == 1
    again = apply(engine, stack())
    assert (again.generation, again.exit_code) == (None, 0)
    assert len(engine.generations()) == 1


def test_a_stack_made_again_after_it_was_destroyed_is_a_generation_of_its_own() -> None:
    engine = Engine()
    all_may_go = PlanOptions(asked=True, allow_empty=True, max_deletes=9)
    for number in (1, 3):
        assert apply(engine, stack()).generation == number
        gone = prepare(Desired({}, frozenset({"shop"}), source=""), engine)
        session = Session(gone, engine, all_may_go, lambda _: None, lambda *_: None)
        assert session.converge(look(gone, engine, all_may_go)[1]).generation == number + 1


def test_an_apply_killed_before_it_was_recorded_is_recorded_by_the_next() -> None:
    engine = Engine()
    engine.killed = True
    with pytest.raises(KeyboardInterrupt):
        apply(engine, stack())
    engine.killed = False
    assert apply(engine, stack()).generation == 1


def test_specs_that_moved_to_another_source_are_recorded_for_it() -> None:
    engine = Engine()
    apply(engine, stack("dir:/old"))
    assert apply(engine, stack("dir:/new")).generation == 2


def test_an_error_between_passes_does_not_lose_what_was_done() -> None:
    engine = Engine()

    def locked(number: int) -> None:
        if number == 2:
            raise LockedError("another writer", hint="wait")

    engine.before_turn = locked
    report = apply(engine, stack())
    assert [result.verb for result in report.applied] == ["pull", "create", "start"]
    assert isinstance(report.error, LockedError)
    assert (report.exit_code, report.generation) == (4, None)


def test_an_error_before_anything_was_done_is_raised() -> None:
    engine = Engine()

    def locked(_number: int) -> None:
        raise LockedError("another writer", hint="wait")

    engine.before_turn = locked
    with pytest.raises(LockedError):
        apply(engine, stack())


def test_only_what_was_approved_is_done() -> None:
    engine = Engine()
    desired = prepare(stack(names=("web", "db")).desired(), engine)
    first = look(desired, engine, ASKED)[1]
    approved = frozenset(step.id for step in first.steps if "db" not in step.id)
    session = Session(desired, engine, ASKED, lambda _: None, lambda *_: None, threading.Event(), approved=approved)
    report = session.converge(first)
    assert {str(result.address) for result in report.applied} == {"image/shop/app", "container/shop/web"}
    assert (report.exit_code, report.generation) == (4, None)


def test_nothing_applied_exits_1_and_something_4() -> None:
    for failing, code in (("pull", 1), ("start", 4)):
        engine = Engine()

        def fail(action: object, when: str, failing: str = failing) -> None:
            if when == "before" and getattr(action, "verb", "") == failing:
                raise HostError("no")

        engine.fault = fail
        report = apply(engine, stack())
        assert (report.exit_code, report.generation) == (code, None)


def test_an_interrupted_apply_says_so_and_the_next_goes_on() -> None:
    engine, stop = Engine(), threading.Event()

    def interrupt(action: object, when: str) -> None:
        if when == "after" and getattr(action, "verb", "") == "create":
            stop.set()

    engine.fault = interrupt
    report = apply(engine, stack(), stop)
    assert (report.exit_code, report.interrupted) == (130, True)
    assert [result.status for result in report.results if result.verb == "start"] == ["stopped"]
    engine.fault = None
    assert apply(engine, stack()).exit_code == 0


def test_a_signal_is_heard_while_a_job_is_waited_for() -> None:
    engine, stop = Engine(), threading.Event()
    wanted = stack(names=("job",), restart="no")
    wanted.commit("made", "job")
    waits: list[float] = []

    def wait(timeout: float) -> Sequence[Event]:
        waits.append(timeout)
        stop.set()
        return ()

    engine.wait = wait  # type: ignore[method-assign]
    report = apply(engine, wanted, stop)
    assert report.interrupted
    assert waits == [1.0]


def test_a_failed_job_that_a_person_asks_for_runs_once_more_also_when_it_must_wait() -> None:
    engine = Engine()
    job, first = Address("container", "shop/job"), Address("container", "shop/first")

    def jobs(command: str) -> Stack:
        made = stack(names=("first",), restart="no", command=(command,))
        made.container("job", "app", restart="no", after={"first": "completed"})
        return made

    engine.exit_codes[job] = 1
    apply(engine, jobs("one"))
    engine.wait(0)
    engine.performed.clear()
    apply(engine, jobs("two"))
    assert [action.address for action in engine.performed if action.verb == "start"] == [first, job]


def test_only_what_a_plan_discards_is_measured_and_only_when_asked() -> None:
    asked: list[frozenset[Address]] = []

    class Measuring(Engine):
        def observe(self, interest: Interest, hosts: HostFacts = NO_FACTS) -> Observed:
            asked.append(interest.sizes)
            return super().observe(interest, hosts)

    engine = Measuring()
    apply(engine, stack(names=("web", "db")))
    assert set(asked) == {frozenset()}
    asked.clear()
    desired = prepare(stack(names=("db",)).desired(), engine)
    look(desired, engine, ASKED)
    look(desired, engine, ASKED, sizes=True)
    assert asked == [frozenset(), frozenset(), frozenset({Address("container", "shop/web")})]


def syncing(**fields: object) -> Stack:
    made = Stack("shop", source="dir:/specs")
    made.sync("r.example.com/app", "up.example.com/app", **fields)
    return made


def aged(engine: Engine) -> Plan:
    engine.clock.advance(7200)  # type: ignore[attr-defined]
    wanted = syncing(tags=TagSelection(allow=("1.*",), min_age=3600.0))
    return look(prepare(wanted.desired(), engine), engine, ASKED)[1]


def test_a_look_that_is_not_followed_by_a_pass_is_remembered() -> None:
    engine = Engine()
    engine.registry.publish("up.example.com/app:1.0")
    wanted = prepare(syncing(tags=TagSelection(allow=("1.*",), min_age=3600.0)).desired(), engine)
    observed, first = look(wanted, engine, ASKED)
    assert [step.id for step in first.steps] == ["set sync/r.example.com/app"]
    assert [step.action.verb for step in aged(engine).steps] == ["set"], "a plan remembers nothing"
    remember(wanted, engine, ASKED, observed, None)
    assert [step.action.verb for step in aged(engine).steps] == ["set", "copy"]


def test_to_remember_is_nothing_to_fail_for() -> None:
    engine = Engine()
    engine.registry.publish("up.example.com/app:1.0")
    wanted = prepare(syncing().desired(), engine)
    observed, _ = look(wanted, engine, ASKED)

    def locked(_number: int) -> None:
        raise LockedError("a daemon works", hint="wait")

    engine.before_turn = locked
    remember(wanted, engine, ASKED, observed, None)
    assert engine.turns == 1


@pytest.mark.parametrize("refused", [False, True])
def test_after_a_refusal_a_daemon_looks_at_once(refused: bool) -> None:
    engine = Engine()
    engine.registry.publish("up.example.com/app:1.0")
    wanted = prepare(syncing().desired(), engine)
    apply(engine, syncing())
    engine.registry.publish("up.example.com/app:1.1")
    remember(wanted, engine, ASKED, look(wanted, engine, ASKED)[0], None, refused=refused)
    daemon = look(wanted, engine, PlanOptions())[1]
    assert [step.action.verb for step in daemon.steps] == (["copy"] if refused else [])


def test_what_was_seen_counts_also_when_a_guard_forbids_the_plan() -> None:
    engine = Engine()
    engine.registry.publish("up.example.com/app:1.0")
    for tag in "abcdef":
        engine.registry.publish(f"r.example.com/app:{tag}", (tag, 1))
    wanted = syncing(tags=TagSelection(allow=("1.*",), min_age=3600.0), prune=Prune())
    with pytest.raises(RefusedError):
        session(engine, wanted).one_pass()
    assert [step.action.verb for step in aged(engine).steps] == ["set", "copy"]


def test_what_was_seen_counts_also_when_the_plan_is_partly_in_error() -> None:
    engine = Engine()
    engine.registry.publish("up.example.com/app:1.0")
    wanted = syncing(tags=TagSelection(names=("1.0", "1.O"), min_age=3600.0))
    assert session(engine, wanted).one_pass().plan.errored
    assert "copy" in [step.action.verb for step in aged(engine).steps]


def session(engine: Engine, wanted: Stack) -> Session:
    desired = prepare(wanted.desired(), engine)
    return Session(desired, engine, ASKED, lambda _: None, lambda *_: None, threading.Event())
