"""Laws of planning, on the engine in memory: for any specs, any change of them, and any single failure.

``--hypothesis-profile=long`` tries many more examples, and reduces what fails to its least.
"""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from ipaddress import IPv4Network

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from reconciler.clock import ManualClock
from reconciler.engine.memory import MemoryEngine
from reconciler.errors import HostError
from reconciler.model.action import Action
from reconciler.model.address import Address, in_stack
from reconciler.model.desired import Desired
from reconciler.model.observed import Interest, Observed, ObservedContainer
from reconciler.model.policy import PlanOptions
from reconciler.model.resources import (
    Auth,
    ConfigChanges,
    Dependency,
    Endpoint,
    FileContent,
    FileMount,
    Image,
    Import,
    Load,
    Mirror,
    Mount,
    Network,
    Port,
    Prune,
    Pull,
    Registry,
    Resource,
    Restart,
    Retention,
    Sensitive,
    Sync,
    Tag,
    Volume,
)
from reconciler.model.resources import Commit as CommitSource
from reconciler.model.resources import Container as ContainerSpec
from reconciler.model.selection import TagSelection
from reconciler.oci.platform import Platform
from reconciler.oci.reference import Reference
from reconciler.plan.json import document
from reconciler.plan.planner import plan
from reconciler.plan.text import render
from reconciler.reconcile import Session, look, prepare
from reconciler.testing.builders import Stack, digest

# Reducing an example takes minutes, so the short run only remembers it: the long run begins with what is remembered.
SHORT = settings(max_examples=40, phases=[Phase.explicit, Phase.reuse, Phase.generate])
LONG = settings.get_current_profile_name() == "long"
BOUNDED = settings(None if LONG else SHORT, deadline=None, suppress_health_check=[HealthCheck.too_slow])
OPTIONS = PlanOptions(max_deletes=1000, allow_empty=True)
REFERENCES = ("busybox:1", "app:1", "app:2", "db:15")
TARGETS = st.sampled_from(["/a", "/b", "/c"])
NAMES = st.sampled_from(["A", "B", "b.c"])
WORDS = st.sampled_from(["one", "two", ""])
TEXTS = WORDS | WORDS.map(Sensitive)
PAIRS = st.dictionaries(NAMES, WORDS, max_size=2).map(lambda pairs: tuple(pairs.items()))
COMMANDS = st.none() | st.lists(WORDS, max_size=2).map(tuple)
CONFIG = st.builds(
    ConfigChanges,
    cmd=COMMANDS,
    entrypoint=COMMANDS,
    environment=PAIRS,
    user=st.none() | WORDS,
    working_dir=st.none() | WORDS,
    stop_signal=st.none() | WORDS,
    labels=PAIRS,
    exposed_ports=st.sampled_from([(), ("80/tcp",), ("53/udp", "80/tcp")]),
)
ARCHIVES = st.sampled_from(["x", "y"]).map(lambda text: FileContent(f"/{text}", digest(text).hex, 1))
PLATFORMS = st.none() | st.sampled_from([Platform("linux", "amd64"), Platform("linux", "arm64")])
POLICIES = st.sampled_from(["missing", "always", "newer"])
REGISTRIES = st.builds(
    Registry,
    host=st.just("r.example.com"),
    plain_http=st.booleans(),
    auth=st.none() | st.builds(Auth, WORDS, WORDS, WORDS, WORDS),
    ca=WORDS,
    certificate=WORDS,
    key=WORDS,
)
ENDPOINTS = st.builds(Endpoint, st.sampled_from(["http://a", "http://b"]), st.sampled_from(["first", "fallback"]))
RETENTIONS = st.builds(Retention, st.none() | st.just(3), st.none() | st.just(1.0), st.none() | st.just(2.0))
MOUNTS = st.builds(
    Mount, st.just("bind"), st.sampled_from(["/srv/x", "/srv/y"]), TARGETS, st.booleans(), st.sampled_from(["", "abc"])
) | st.builds(Mount, st.sampled_from(["volume", "tmpfs"]), st.just(""), TARGETS)
FILES = st.builds(
    FileMount, NAMES, TARGETS, TEXTS, st.sampled_from([0o400, 0o444]), st.sampled_from([0, 7]), st.sampled_from([0, 8])
)
RESTARTS = st.builds(Restart, st.sampled_from(["no", "always", "unless-stopped"])) | st.builds(
    Restart, st.just("on-failure"), st.none() | st.just(3)
)


@st.composite
def stacks(draw: st.DrawFn, name: str = "shop") -> Stack:
    """A stack of any resources that fit each other. Containers are c0, c1, ...; each may need those before it."""
    stack = Stack(name, source=f"/specs/{name}")
    if draw(st.booleans()):
        stack.add(Address("registry", "r.example.com"), draw(REGISTRIES))
    if draw(st.booleans()):
        endpoints = draw(st.lists(ENDPOINTS, min_size=1, max_size=2))
        stack.add(Address("mirror", "docker.io"), Mirror("docker.io", tuple(endpoints)))
    if draw(st.booleans()):
        stack.add(Address("retention", name), draw(RETENTIONS))
    networks = draw(st.lists(st.sampled_from(["front", "back"]), unique=True))
    for index, network in enumerate(networks):
        subnet = draw(st.none() | st.sampled_from([f"10.{index}.0.0/24", f"10.{index}.1.0/24"]).map(IPv4Network))
        stack.add(in_stack("network", name, network), Network(subnet, labels=draw(PAIRS)))
    volumes = draw(st.lists(st.sampled_from(["data", "cache"]), unique=True))
    for volume in volumes:
        stack.add(in_stack("volume", name, volume), Volume(labels=draw(PAIRS)))
    images = draw(st.lists(st.sampled_from(["i0", "i1", "i2"]), unique=True))
    for image in images:
        stack.add(in_stack("image", name, image), Image(draw(_sources())))
    jobs: list[str] = []
    running: list[str] = []
    slots = draw(st.permutations(range(3)))
    for index in range(draw(st.integers(0, 3)) if images else 0):
        container = draw(_containers(name, images, networks, volumes, running, jobs, index, slots[index]))
        stack.add(in_stack("container", name, f"c{index}"), container)
        if container.state == "running":
            running.append(f"c{index}")
        if container.restart.is_job and container.state == "running":
            jobs.append(f"c{index}")
            if draw(st.booleans()):
                source = CommitSource(
                    in_stack("container", name, f"c{index}"), draw(WORDS), draw(WORDS), config=draw(CONFIG)
                )
                stack.add(in_stack("image", name, f"made{index}"), Image(source))
                images = [*images, f"made{index}"]
    for index, image in enumerate(images):
        if draw(st.booleans()):
            reference = Reference.parse(f"r.example.com/{name}/{image}:{index}")
            push = draw(st.sampled_from([None, "owned", "always"]))
            stack.add(Address("tag", str(reference)), Tag(reference, in_stack("image", name, image), push))
    if draw(st.booleans()):
        stack.add(Address("sync", f"r.example.com/mirror/{name}"), draw(_syncs(name)))
    return stack


@st.composite
def _syncs(draw: st.DrawFn, name: str) -> Sync:
    patterns = st.sampled_from([(), ("1",), (".*",)])
    selection = st.builds(
        TagSelection,
        allow=patterns,
        deny=st.sampled_from([(), ("2",)]),
        semver=st.sampled_from(["", ">=1", "<2"]),
        newest=st.sampled_from([None, 1]),
        min_age=st.sampled_from([None, 0.0]),
    )
    return Sync(
        f"r.example.com/mirror/{name}",
        "docker.io/library/app",
        draw(selection),
        draw(st.sampled_from([(), (Platform("linux", "amd64"),)])),
        draw(st.booleans()),
        draw(st.none() | st.builds(Prune, patterns, st.sampled_from([0.0, 1.0]))),
        draw(st.sampled_from([60.0, 3600.0])),
    )


@st.composite
def _sources(draw: st.DrawFn) -> Pull | Import | Load:
    pulled = st.builds(Pull, st.sampled_from(REFERENCES).map(Reference.parse), POLICIES, PLATFORMS)
    imported = st.builds(Import, ARCHIVES, CONFIG, PLATFORMS)
    return draw(pulled | imported | st.builds(Load, ARCHIVES, WORDS))


@st.composite
def _containers(
    draw: st.DrawFn,
    stack: str,
    images: list[str],
    networks: list[str],
    volumes: list[str],
    running: list[str],
    jobs: list[str],
    index: int,
    slot: int,
) -> ContainerSpec:
    mounts = draw(st.lists(MOUNTS, max_size=2, unique_by=lambda mount: mount.target))
    mounts += [Mount("volume", str(in_stack("volume", stack, volume)), f"/{volume}") for volume in volumes[:index]]
    dependencies = [Dependency(in_stack("container", stack, other)) for other in running if draw(st.booleans())]
    if jobs and draw(st.booleans()):
        dependencies.append(Dependency(in_stack("container", stack, jobs[0]), "service_completed_successfully"))
    ports = draw(st.lists(st.sampled_from([None, 8000, 9000]), max_size=2, unique=True))
    offset = slot + (100 if stack == "shop" else 0)
    return ContainerSpec(
        image=in_stack("image", stack, draw(st.sampled_from(images))),
        command=draw(COMMANDS),
        entrypoint=draw(COMMANDS),
        environment=tuple(draw(st.dictionaries(NAMES, TEXTS, max_size=2)).items()),
        user=draw(WORDS),
        working_dir=draw(WORDS),
        ports=tuple(
            Port(
                80,
                port and port + offset,
                draw(st.sampled_from(["", "127.0.0.1"])),
                draw(st.sampled_from(["tcp", "udp"])),
            )
            for port in ports
        ),
        mounts=tuple(mounts),
        networks=tuple(in_stack("network", stack, network) for network in networks if draw(st.booleans())),
        secrets=tuple(draw(st.lists(FILES, max_size=1))),
        configs=tuple(draw(st.lists(FILES, max_size=1))),
        restart=draw(RESTARTS),
        depends_on=tuple(dependencies),
        stop_signal=draw(WORDS),
        stop_grace_period=draw(st.sampled_from([10.0, 3.5])),
        init=draw(st.booleans()),
        labels=draw(PAIRS),
        mem_limit=draw(st.none() | st.just(64 << 20)),
        state=draw(st.sampled_from(["running", "running", "stopped"])),
    )


def _engine() -> MemoryEngine:
    engine = MemoryEngine(clock=ManualClock())
    for reference in REFERENCES:
        engine.registry.publish(reference, ("base", 100), (reference, 10))
    return engine


def _apply(desired: Desired, engine: MemoryEngine) -> Session:
    """An apply as a person makes it, with time passing where something is waited for."""
    session = Session(
        prepare(desired, engine),
        engine,
        replace(OPTIONS, asked=True),
        lambda _: None,
        lambda *_: None,
        threading.Event(),
    )
    for _ in range(40):
        report = session.one_pass()
        if report.settled:
            break
        if not report.performed:
            engine.wait(0)
    return session


def _check_converged(desired: Desired, engine: MemoryEngine) -> None:
    result = look(prepare(desired, engine), engine, replace(OPTIONS, asked=True))[1]
    assert (result.changes, result.steps, result.blocked) == ((), (), ()), render(result)


def _all(engine: MemoryEngine) -> Observed:
    return engine.observe(Interest())


@BOUNDED
@given(stacks())
def test_apply_then_plan_is_empty(stack: Stack) -> None:
    engine = _engine()
    _apply(stack.desired(), engine)
    _check_converged(stack.desired(), engine)


@BOUNDED
@given(stacks(), stacks())
def test_any_change_converges(before: Stack, after: Stack) -> None:
    engine = _engine()
    _apply(before.desired(), engine)
    _apply(after.desired(), engine)
    _check_converged(after.desired(), engine)


@BOUNDED
@given(stacks(), stacks(), st.integers(0, 12), st.sampled_from(["before", "after"]))
def test_an_apply_that_fails_anywhere_converges_next_time(before: Stack, after: Stack, at: int, when: str) -> None:
    engine = _engine()
    _apply(before.desired(), engine)
    count = 0

    def fault(action: Action, moment: str) -> None:
        nonlocal count
        count += moment == when
        if moment == when and count > at:
            raise HostError("power loss")

    engine.fault = fault
    _apply(after.desired(), engine)
    engine.fault = None
    _apply(after.desired(), engine)
    _check_converged(after.desired(), engine)


@BOUNDED
@given(stacks(), stacks(), st.randoms(use_true_random=False))
def test_planning_is_independent_of_order(before: Stack, after: Stack, randomness: random.Random) -> None:
    engine = _engine()
    _apply(before.desired(), engine)
    desired = prepare(after.desired(), engine)
    observed, first = look(desired, engine, OPTIONS)
    shuffled = replace(
        desired,
        resources=_shuffled(desired.resources, randomness),
        pins=_shuffled(desired.pins, randomness),
        owners=_shuffled(desired.owners, randomness),
    )
    seen = replace(
        observed,
        resources=_shuffled(observed.resources, randomness),
        other_stacks=_shuffled(observed.other_stacks, randomness),
    )
    assert document(plan(shuffled, seen, engine.capabilities, OPTIONS)) == document(first)


@BOUNDED
@given(stacks(), stacks(name="blog"))
def test_nothing_outside_the_stack_is_touched(mine: Stack, other: Stack) -> None:
    engine = _engine()
    _apply(other.desired(), engine)
    engine.wait(0)  # its jobs have ended, so that nothing changes by itself meanwhile
    before = {a: found for a, found in _all(engine).resources.items() if _belongs_to(a, found, "blog")}
    engine.performed.clear()
    _apply(mine.desired(), engine)
    _apply(Desired({}, frozenset({"shop"}), source=mine.source), engine)
    after = {a: found for a, found in _all(engine).resources.items() if _belongs_to(a, found, "blog")}
    assert after == before
    touched = {action.address for action in engine.performed}
    assert not {a for a in touched & before.keys() if a.kind in ("network", "volume", "image", "container", "tag")}


@BOUNDED
@given(stacks(), stacks(), st.floats(0, 1e9))
def test_a_plan_depends_on_time_only_where_a_next_try_is_due(before: Stack, after: Stack, later: float) -> None:
    engine = _engine()
    _apply(before.desired(), engine)
    desired = prepare(after.desired(), engine)
    observed, first = look(desired, engine, OPTIONS)
    assert not any(_backs_off(found) for found in observed.resources.values())
    moved = replace(observed, now=observed.now + later)
    assert document(plan(desired, moved, engine.capabilities, OPTIONS)) == document(first)


@BOUNDED
@given(stacks())
def test_the_old_container_stops_only_when_the_new_one_is_there(stack: Stack) -> None:
    engine = _engine()
    _apply(stack.desired(), engine)
    changed: dict[Address, Resource] = {
        address: replace(item, user="another") if isinstance(item, ContainerSpec) else item
        for address, item in stack.resources.items()
    }
    engine.performed.clear()
    _apply(replace(stack.desired(), resources=changed), engine)
    order = [(action.verb, action.address) for action in engine.performed]
    for position, (verb, address) in enumerate(order):
        if verb == "stop":
            assert ("create", address) in order[:position]


def _shuffled(mapping: object, randomness: random.Random) -> dict[object, object]:
    items = list(mapping.items())  # type: ignore[attr-defined]
    randomness.shuffle(items)
    return dict(items)


def _belongs_to(address: Address, found: object, stack: str) -> bool:
    return address.name.startswith(f"{stack}/") or getattr(found, "stack", "") == stack


def _backs_off(found: object) -> bool:
    return isinstance(found, ObservedContainer) and found.status == "exited" and not found.succeeded
