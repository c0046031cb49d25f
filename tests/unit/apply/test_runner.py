"""The scheduler: order, failures that block only what depends on them, stopping, and bugs that are not hidden."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import cast

import pytest

from reconciler.apply.report import Report, StepResult
from reconciler.apply.runner import run
from reconciler.engine.port import Engine, Outcome, Progress
from reconciler.errors import HostError
from reconciler.model.action import Action, RemoveNetwork, StartContainer, StopContainer
from reconciler.model.address import Address
from reconciler.plan.plan import Plan, Step


class Doer:
    """Performs by calling ``act``, and remembers in which order."""

    def __init__(self, act: Callable[[Action], None] = lambda _: None) -> None:
        self.act = act
        self.order: list[str] = []

    def perform(self, action: Action, progress: Progress) -> Outcome:
        self.act(action)
        self.order.append(action.step_id)
        return Outcome(changed=not action.address.name.endswith("same"))


def step(name: str, *needs: str) -> Step:
    return Step(RemoveNetwork(Address("network", name)), tuple(f"remove network/{need}" for need in needs))


def go(doer: Doer, steps: Sequence[Step], stop: threading.Event | None = None, workers: int = 4) -> list[StepResult]:
    return run(
        steps,
        cast("Engine", doer),
        done=(),
        progress=lambda _: None,
        listener=lambda *_: None,
        stop=stop or threading.Event(),
        workers=workers,
    )


def statuses(results: list[StepResult]) -> dict[str, str]:
    return {result.address.name: result.status for result in results}


def test_steps_run_after_those_they_need() -> None:
    doer = Doer()
    go(doer, [step("c", "b"), step("b", "a"), step("a")])
    assert doer.order == [f"remove network/{name}" for name in "abc"]


def test_a_failure_blocks_only_what_depends_on_it_and_says_which() -> None:
    def act(action: Action) -> None:
        if action.address.name == "a":
            raise HostError("no")

    results = go(Doer(act), [step("a"), step("b", "a"), step("c", "b"), step("same")])
    assert statuses(results) == {"a": "failed", "b": "blocked", "c": "blocked", "same": "unchanged"}
    assert {result.address.name: result.blocked_by for result in results if result.blocked_by} == {
        "b": "remove network/a",
        "c": "remove network/b",
    }


def test_a_need_that_nobody_will_meet_blocks() -> None:
    assert statuses(go(Doer(), [step("a", "elsewhere")])) == {"a": "blocked"}


def test_independent_steps_run_side_by_side() -> None:
    both = threading.Barrier(2, timeout=10)
    results = go(Doer(lambda _: cast("None", both.wait())), [step("a"), step("b")])
    assert statuses(results) == {"a": "done", "b": "done"}


def test_no_more_run_at_once_than_there_are_workers() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def act(_action: Action) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        with lock:
            running -= 1

    go(Doer(act), [step(str(number)) for number in range(20)], workers=2)
    assert most <= 2


def test_stopping_finishes_what_runs_and_begins_nothing() -> None:
    stop = threading.Event()
    results = go(Doer(lambda _: stop.set()), [step("a"), step("b", "a")], stop)
    assert statuses(results) == {"a": "done", "b": "stopped"}


def test_a_container_stopped_for_its_successor_is_succeeded_before_stopping() -> None:
    stop = threading.Event()
    address = Address("container", "shop/web")
    old, new = StopContainer(address, "old"), StartContainer(address)
    results = go(Doer(lambda _: stop.set()), [Step(old), Step(new, (old.step_id,)), step("other")], stop, workers=1)
    assert [(result.verb, result.status) for result in results] == [
        ("stop", "done"),
        ("start", "done"),
        ("remove", "stopped"),
    ]


def test_a_bug_is_raised_once_the_running_steps_have_ended() -> None:
    ended = threading.Event()
    release = threading.Event()

    def act(action: Action) -> None:
        if action.address.name == "bug":
            release.set()
            raise ZeroDivisionError
        assert release.wait(10)
        ended.set()

    with pytest.raises(ZeroDivisionError):
        go(Doer(act), [step("slow"), step("bug")])
    assert ended.is_set()


def result(status: str, name: str = "a") -> StepResult:
    return StepResult(name, Address("network", name), "ensure", status)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("report", "code"),
    [
        (Report(Plan(), Plan()), 0),
        (Report(Plan(), Plan(), (result("done"),)), 0),
        (Report(Plan(), Plan(), (result("failed"),)), 1),
        (Report(Plan(), Plan(), (result("done", "b"), result("failed"))), 4),
        (Report(Plan(), Plan(), (result("done"),), interrupted=True), 130),
        (Report(Plan(), Plan(), (result("done"),), error=HostError("no")), 4),
        (Report(Plan(), Plan(), (result("unchanged"),), error=HostError("no")), 1),
    ],
)
def test_exit_codes_of_reports(report: Report, code: int) -> None:
    assert report.exit_code == code
