"""Networks and ports that pass from one container to another, where the one who holds them waits for the other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from reconciler.engine.memory import MemoryEngine
from reconciler.errors import HostError
from reconciler.model.action import Action
from reconciler.model.address import in_stack
from reconciler.model.observed import Interest
from reconciler.model.policy import PlanOptions
from reconciler.model.resources import Container
from reconciler.reconcile import Session, look, prepare
from reconciler.testing.builders import Stack

ONE, TWO = "10.0.0.0/24", "10.1.0.0/24"


def _a_job_on_the_network(stack: Stack, new: bool) -> None:
    stack.network("front", subnet=IPv4Network(TWO if new else ONE))
    stack.container("job", "app", restart="no", networks=["front"])
    stack.container("web", "app", networks=["front"], after={"job": "completed"})


def _a_job_on_the_network_of_one_that_stays_as_it_is(stack: Stack, new: bool) -> None:
    stack.pull("other", "app:1")
    stack.network("front", subnet=IPv4Network(TWO if new else ONE))
    stack.container("job", "app", restart="no", networks=["front"])
    stack.container("web", "other", networks=["front"], after={"job": "completed"})


def _a_job_on_the_network_that_a_dependency_waits_for(stack: Stack, new: bool) -> None:
    stack.network("front", subnet=IPv4Network(TWO if new else ONE))
    stack.container("job", "app", restart="no", networks=["front"])
    stack.container("side", "app", after={"job": "completed"})
    stack.container("web", "app", networks=["front"], after={"side": "started"})


def _an_image_committed_on_the_network(stack: Stack, new: bool) -> None:
    stack.network("front", subnet=IPv4Network(TWO if new else ONE))
    stack.container("job", "app", restart="no", networks=["front"])
    stack.commit("made", "job")
    stack.container("web", "made", networks=["front"])


def _a_job_takes_the_port(stack: Stack, new: bool) -> None:
    stack.container("job", "app", restart="no", ports=[(80, 80)] if new else [])
    stack.container("web", "app", ports=[] if new else [(80, 80)], after={"job": "completed"})


def _a_committed_job_takes_the_port(stack: Stack, new: bool) -> None:
    stack.container("job", "app", restart="no", ports=[(80, 80)] if new else [])
    stack.commit("made", "job")
    stack.container("web", "made", ports=[] if new else [(80, 80)])


def _two_that_wait_for_each_others_jobs(stack: Stack, new: bool) -> None:
    stack.container("job", "app", restart="no", ports=[(81, 80)] if new else [])
    stack.container("other", "app", restart="no", ports=[(80, 80)] if new else [])
    stack.container("side", "app", ports=[] if new else [(81, 80)], after={"other": "completed"})
    stack.container("web", "app", ports=[] if new else [(80, 80)], after={"job": "completed"})


RINGS = [
    _a_job_on_the_network,
    _a_job_on_the_network_of_one_that_stays_as_it_is,
    _a_job_on_the_network_that_a_dependency_waits_for,
    _an_image_committed_on_the_network,
    _a_job_takes_the_port,
    _a_committed_job_takes_the_port,
    _two_that_wait_for_each_others_jobs,
]


@pytest.mark.parametrize("ring", RINGS)
def test_who_waits_for_a_job_gives_it_the_network_or_the_port_first(ring: Callable[[Stack, bool], None]) -> None:
    engine = _engine()
    _apply(_stack(ring, new=False), engine)
    engine.performed.clear()
    after = _stack(ring, new=True)
    _apply(after, engine)
    done = [" ".join(action.step_id.split()[:2]) for action in engine.performed]
    order = ["pull image/shop/app", "stop container/shop/web", "start container/shop/job", "start container/shop/web"]
    assert [step for step in done if step in order] == order
    last = look(prepare(after.desired(), engine), engine, PlanOptions())[1]
    assert (last.changes, last.steps, last.blocked) == ((), (), ())


@pytest.mark.parametrize("ring", RINGS)
def test_nobody_stops_for_a_job_whose_image_cannot_be_had(ring: Callable[[Stack, bool], None]) -> None:
    engine = _engine()
    _apply(_stack(ring, new=False), engine)
    engine.performed.clear()
    engine.fault = _power_loss("pull ")
    _apply(_stack(ring, new=True), engine)
    assert engine.performed == []


@pytest.mark.parametrize("ring", RINGS)
def test_nobody_stops_for_a_job_whose_image_is_known_after_apply(ring: Callable[[Stack, bool], None]) -> None:
    engine = _engine()
    _apply(_stack(ring, new=False), engine)
    after = _stack(ring, new=True)
    after.import_("app", "content")
    result = look(prepare(after.desired(), engine), engine, PlanOptions())[1]
    stops = [step for step in result.steps if step.action.verb == "stop"]
    assert stops
    assert all(stop.deferred == "the digest of image/shop/app is known after apply" for stop in stops)


def test_who_waits_for_a_job_that_can_run_meanwhile_runs_on() -> None:
    engine = _engine()
    for new in (False, True):
        engine.performed.clear()
        stack = Stack()
        stack.pull("app", "app:2" if new else "app:1")
        stack.network("front", subnet=IPv4Network(TWO if new else ONE))
        stack.container("job", "app", restart="no")
        stack.container("web", "app", networks=["front"], after={"job": "completed"})
        _apply(stack, engine)
    done = [" ".join(action.step_id.split()[:2]) for action in engine.performed]
    assert done.index("start container/shop/job") < done.index("stop container/shop/web")
    assert engine.performed[-1].step_id.startswith("remove container/shop/web")


def test_no_container_stops_for_a_new_network_before_all_on_it_can() -> None:
    engine = _engine()
    for new in (False, True):
        engine.performed.clear()
        stack = Stack()
        stack.pull("app", "app:1")
        stack.pull("web", "app:2" if new else "app:1")
        stack.network("front", subnet=IPv4Network(TWO if new else ONE))
        stack.container("db", "app", networks=["front"])
        stack.container("web", "web", networks=["front"])
        engine.fault = _power_loss("pull ") if new else None
        _apply(stack, engine)
    assert engine.performed == []


@pytest.mark.parametrize("ring", RINGS)
def test_what_an_interrupted_replacement_left_gives_way_too(ring: Callable[[Stack, bool], None]) -> None:
    engine = _engine()
    _apply(_stack(ring, new=False), engine)
    interrupted = _stack(ring, new=False)
    web = in_stack("container", "shop", "web")
    changed = interrupted.resources[web]
    assert isinstance(changed, Container)
    interrupted.add(web, replace(changed, user="another"))
    engine.fault = _power_loss("stop ")
    _apply(interrupted, engine)
    engine.fault = None
    assert [found.address for found in engine.observe(Interest()).leftovers] == [web]
    after = _stack(ring, new=True)
    _apply(after, engine)
    last = look(prepare(after.desired(), engine), engine, PlanOptions())[1]
    assert (last.changes, last.steps, last.blocked) == ((), (), ())


def _engine() -> MemoryEngine:
    engine = MemoryEngine()
    for reference in ("app:1", "app:2"):
        engine.registry.publish(reference)
    return engine


def _stack(fill: Callable[[Stack, bool], None], *, new: bool) -> Stack:
    stack = Stack()
    stack.pull("app", "app:2" if new else "app:1")
    fill(stack, new)
    return stack


def _apply(stack: Stack, engine: MemoryEngine) -> None:
    session = Session(
        prepare(stack.desired(), engine), engine, PlanOptions(), lambda _: None, lambda *_: None, threading.Event()
    )
    session.converge(look(session.desired, engine, PlanOptions())[1])


def _power_loss(step: str) -> Callable[[Action, str], None]:
    def fault(action: Action, moment: str) -> None:
        if action.step_id.startswith(step) and moment == "before":
            raise HostError("power loss")

    return fault
