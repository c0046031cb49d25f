"""The order of steps, what is asked of an observation, and how long planning takes."""

from __future__ import annotations

import time
from dataclasses import replace
from ipaddress import IPv4Network

from reconciler.engine.memory import MemoryEngine
from reconciler.model.address import Address, in_stack
from reconciler.model.capabilities import Capabilities
from reconciler.model.desired import Desired, Pin
from reconciler.model.facts import Unknown
from reconciler.model.policy import PlanOptions
from reconciler.model.resources import Mirror, Registry
from reconciler.plan.interest import host_facts, interest_of, pulls_of
from reconciler.plan.plan import Plan
from reconciler.plan.planner import plan
from reconciler.reconcile import look, prepare
from reconciler.testing.builders import Stack, digest


def _engine() -> MemoryEngine:
    engine = MemoryEngine()
    for reference in ("app:1", "app:2"):
        engine.registry.publish(reference)
    return engine


def _planned(stack: Stack, engine: MemoryEngine, options: PlanOptions | None = None) -> Plan:
    return look(prepare(stack.desired(), engine), engine, options or PlanOptions())[1]


def _apply(stack: Stack, engine: MemoryEngine) -> None:
    for step in _planned(stack, engine).steps:
        engine.perform(step.action, lambda _: None)


def _web(image: str = "app:1", **fields: object) -> Stack:
    stack = Stack()
    stack.pull("app", image)
    stack.network("front", subnet=IPv4Network(str(fields.pop("subnet", "10.0.0.0/24"))))
    stack.container("web", "app", networks=["front"], **fields)  # type: ignore[arg-type]
    return stack


def _ids(result: Plan) -> list[str]:
    return [" ".join(step.id.split()[:2]) for step in result.steps]


def test_a_replacement_creates_then_stops_then_starts_then_removes() -> None:
    engine = _engine()
    _apply(_web(), engine)
    assert _ids(_planned(_web("app:2"), engine)) == [
        "pull image/shop/app",
        "create container/shop/web",
        "stop container/shop/web",
        "start container/shop/web",
        "remove container/shop/web",
    ]


def test_a_network_is_replaced_between_the_stop_and_the_create() -> None:
    engine = _engine()
    _apply(_web(), engine)
    result = _planned(_web("app:2", subnet="10.9.0.0/24"), engine)
    assert _ids(result) == [
        "pull image/shop/app",
        "stop container/shop/web",
        "remove network/shop/front",
        "ensure network/shop/front",
        "create container/shop/web",
        "start container/shop/web",
        "remove container/shop/web",
    ]


def test_facts_come_before_the_pulls_they_are_for() -> None:
    stack = _web("r.example.com/app:1")
    stack.add(Address("registry", "r.example.com"), Registry("r.example.com", plain_http=True))
    stack.add(Address("registry", "other.example.com"), Registry("other.example.com"))
    engine = _engine()
    engine.registry.publish("r.example.com/app:1")
    pull = next(step for step in _planned(stack, engine).steps if step.id.startswith("pull"))
    assert pull.needs == ("set registry/r.example.com",)


def test_what_a_deferred_step_feeds_is_deferred_and_nothing_of_its_container_begins() -> None:
    engine = _engine()
    stack = _web()
    stack.container("job", "app", restart="no")
    _apply(stack, engine)
    changed = _web("app:2", after={"job": "completed"})
    changed.container("job", "app", restart="no")
    steps = {
        step.id.rsplit(" ", 1)[0] if step.id.startswith("remove") else step.id: step
        for step in _planned(changed, engine).steps
    }
    web = [step for step in steps.values() if step.action.address.name == "shop/web"]
    job = [step for step in steps.values() if step.action.address.name == "shop/job"]
    assert len(web) == len(job) == 4
    assert all(step.deferred for step in web)
    assert not any(step.deferred for step in job)


def test_every_need_is_a_step_of_the_plan() -> None:
    engine = _engine()
    _apply(_web(), engine)
    result = _planned(_web("app:2", subnet="10.9.0.0/24"), engine)
    ids = {step.id for step in result.steps}
    assert all(ids.issuperset(step.needs) for step in result.steps)


def test_waiting_names_the_jobs_that_others_wait_for() -> None:
    engine = _engine()
    stack = Stack()
    stack.pull("app", "app:1")
    stack.container("job", "app", restart="no")
    stack.container("idle", "app", restart="no")
    _apply(stack, engine)
    stack.commit("made", "job")
    assert _planned(stack, engine).waiting == {Address("container", "shop/job")}


def test_retry_at_is_when_the_first_service_is_due() -> None:
    engine = _engine()
    _apply(_web(), engine)
    engine.containers.end(Address("container", "shop/web"), 1)
    result = _planned(_web(), engine)
    assert result.retry_at is not None
    assert result.retry_at > engine.clock.now().timestamp()
    assert not result.errored


def test_a_field_that_the_engine_cannot_honour_is_an_error() -> None:
    engine = MemoryEngine(capabilities=Capabilities(unsupported=frozenset({"container.init"})))
    engine.registry.publish("app:1")
    result = _planned(_web(init=True), engine)
    assert [(str(item.address), item.reason.code) for item in result.blocked] == [("container/shop/web", "unsupported")]
    assert result.errored


def test_an_unmonitored_container_is_left_running() -> None:
    engine = _engine()
    _apply(_web(), engine)
    desired = prepare(_web().desired(), engine)
    observed, _ = look(desired, engine, PlanOptions())
    web = Address("container", "shop/web")
    found = replace(observed.resources[web], status="unmonitored")  # type: ignore[call-arg]
    assert plan(desired, replace(observed, resources={**observed.resources, web: found})).empty


def test_a_name_that_is_not_declared_blocks_its_user() -> None:
    stack = Stack()
    stack.container("web", "nothing")
    (blocked,) = _planned(stack, _engine()).blocked
    assert blocked.reason.message == "it names image/shop/nothing, which is not declared"


def test_an_index_that_is_narrowed_by_a_push_is_noted() -> None:
    engine = _engine()
    stack = Stack()
    image = stack.pull("app", "app:1")
    stack.tag("r.example.com/app:1", "app", "owned")
    desired = prepare(stack.desired(), engine)
    pin = desired.pins[image]
    assert isinstance(pin, Pin)
    desired = desired.pinned({image: replace(pin, index=digest("index"))})
    (note,) = look(desired, engine, PlanOptions())[1].notes
    assert note.startswith("tag/r.example.com/app:1: pushes this platform's manifest, not the whole index")


def test_interest_names_what_a_plan_looks_at() -> None:
    stack = Stack(source="/specs")
    stack.pull("app", "app:1")
    stack.container("job", "app", restart="no")
    stack.commit("made", "job")
    pushed = stack.tag("r.example.com/a:1", "made", "owned")
    stack.tag("r.example.com/a:2", "made")
    desired = prepare(stack.desired(), _engine())
    interest = interest_of(desired)
    assert (interest.stacks, interest.source) == ({"shop"}, "/specs")
    assert interest.remote_tags == {pushed}
    assert interest.fingerprints == {in_stack("container", "shop", "job")}
    assert len(interest.blobs) == 1
    assert list(pulls_of(desired)) == [in_stack("image", "shop", "app")]


def test_host_facts_are_those_declared_by_host() -> None:
    b, a, mirror = Registry("b"), Registry("a"), Mirror("*", ())
    resources = {Address("registry", "b"): b, Address("registry", "a"): a, Address("mirror", "*"): mirror}
    assert host_facts(Desired(resources, frozenset({"shop"}))) == ((a, b), (mirror,), False)


def test_a_thousand_containers_are_planned_in_a_third_of_a_second() -> None:
    engine = _engine()
    stack = Stack()
    stack.pull("app", "app:1")
    stack.network("front")
    for index in range(1000):
        after = {f"c{index - 1}": "started"} if index % 10 else {}
        stack.container(f"c{index}", "app", ports=[(8000 + index, 80)], networks=["front"], after=after)
    desired = prepare(stack.desired(), engine)
    observed = engine.observe(interest_of(desired))
    best = min(_timed(desired, observed) for _ in range(5))
    assert best < 0.3


def _timed(desired: Desired, observed: object) -> float:
    begun = time.process_time()
    plan(desired, observed)  # type: ignore[arg-type]
    return time.process_time() - begun


def test_a_plan_says_what_to_do_about_an_image_that_nobody_could_tell_of() -> None:
    engine, image = MemoryEngine(), Address("image", "shop/app")
    pins = {image: Unknown("login required", "run `reconciler login registry.example.com`")}
    result = look(prepare(_web().desired(), engine, pins), engine, PlanOptions())[1]
    hints = {item.address: item.hint for item in result.blocked}
    assert hints[image] == "run `reconciler login registry.example.com`"
