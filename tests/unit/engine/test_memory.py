"""The reference engine refuses what a real one refuses, so that laws mean something."""

from __future__ import annotations

import pytest

from reconciler.engine.memory import MemoryEngine
from reconciler.errors import ConflictError, NotFoundError, ReconcilerError, RegistryError
from reconciler.model.action import PushTag, RemoveNetwork, StartContainer
from reconciler.model.address import Address
from reconciler.model.policy import PlanOptions
from reconciler.model.resources import Tag
from reconciler.reconcile import look, prepare
from reconciler.testing.builders import Stack, digest


def _applied(stack: Stack) -> MemoryEngine:
    engine = MemoryEngine()
    engine.registry.publish("app:1")
    for step in look(prepare(stack.desired(), engine), engine, PlanOptions())[1].steps:
        engine.perform(step.action, lambda _: None)
    return engine


def _stack(**container: object) -> Stack:
    stack = Stack()
    stack.pull("app", "app:1")
    stack.network("front")
    stack.container("web", "app", networks=["front"], **container)  # type: ignore[arg-type]
    return stack


def _refused(engine: MemoryEngine, action: object, error: type[ReconcilerError]) -> None:
    with pytest.raises(error):
        engine.perform(action, lambda _: None)  # type: ignore[arg-type]


def test_a_network_in_use_is_not_removed() -> None:
    _refused(_applied(_stack()), RemoveNetwork(Address("network", "shop/front")), ConflictError)


def test_a_port_is_published_once() -> None:
    stack = _stack(ports=[(80, 80)])
    engine = _applied(stack)
    other = Stack("blog")
    other.pull("app", "app:1")
    other.container("web", "app", ports=[(80, 80)], state="stopped")
    for step in look(prepare(other.desired(), engine), engine, PlanOptions())[1].steps:
        engine.perform(step.action, lambda _: None)
    _refused(engine, StartContainer(Address("container", "blog/web")), ConflictError)


def test_a_container_that_is_not_there_does_not_start() -> None:
    _refused(_applied(_stack()), StartContainer(Address("container", "shop/none")), NotFoundError)


def test_a_push_wants_the_tag_as_it_was_planned() -> None:
    stack = _stack()
    address = stack.tag("r.example.com/app:1", "app", "owned")
    engine = _applied(stack)
    tag = stack.resources[address]
    assert isinstance(tag, Tag)
    engine.registry.tags["r.example.com/app:1"] = digest("theirs")
    mine = engine.registry.publish("app:1")
    _refused(engine, PushTag(address, tag, mine, mine), ConflictError)
    del engine.registry.tags["r.example.com/app:1"]
    _refused(engine, PushTag(address, tag, mine, mine), ConflictError)
    engine.registry.down.add("r.example.com")
    _refused(engine, PushTag(address, tag, mine, mine), RegistryError)
