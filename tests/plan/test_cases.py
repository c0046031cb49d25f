"""Plan cases as data: what was applied before, what happened since, what is desired now, and the plan as it reads.

Each file of ``cases/`` is about one topic. A case applies ``before`` to an engine in memory (``same``: what is desired
now), lets ``world`` happen, plans ``desired``, and compares the text. Then the plan is carried out, and planning again
must give ``No changes.``, or the text under ``after``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
import yaml

from reconciler.clock import ManualClock
from reconciler.engine.memory import MemoryEngine
from reconciler.errors import HostError, RefusedError
from reconciler.model.action import Action
from reconciler.model.address import Address
from reconciler.model.desired import Desired, HostMirrors, Location, Unsupported
from reconciler.model.observed import Drift
from reconciler.model.policy import PlanOptions
from reconciler.model.resources import (
    Auth,
    Endpoint,
    FileMount,
    Mirror,
    Mount,
    Port,
    Prune,
    Registry,
    Retention,
    Sensitive,
)
from reconciler.model.selection import TagSelection
from reconciler.oci.companion import referrers_tag
from reconciler.oci.digest import Digest
from reconciler.oci.platform import Platform
from reconciler.oci.reference import Reference
from reconciler.plan.text import render
from reconciler.reconcile import Session, look, prepare
from reconciler.testing.builders import Stack, together

CASES = Path(__file__).parent / "cases"


def _cases() -> Iterator[Any]:
    for path in sorted(CASES.glob("*.yaml")):
        for case in yaml.safe_load(path.read_text()):
            yield pytest.param(case, id=f"{path.stem}: {case['name']}")


@pytest.mark.parametrize("case", list(_cases()))
def test_the_plan_reads_as_expected_and_converges(case: Mapping[str, Any]) -> None:
    engine = _engine()
    engine.host_files = _host_files(case.get("host_files", {}))
    _apply_before(case, engine)
    for event in _events(case.get("world", [])):
        _happen(event, engine)
    options = PlanOptions(**case.get("options", {}))
    desired = _desired(case["desired"])
    assert _plan_text(desired, engine, options) == case["plan"]
    if "refused" in case["plan"]:
        return
    _apply(desired, engine, options)
    assert _plan_text(desired, engine, PlanOptions(options.asked, allow_empty=options.allow_empty)) == case.get(
        "after", "No changes.\n"
    )


def test_there_are_enough_cases_and_their_names_differ() -> None:
    names = [param.id for param in _cases()]
    assert len(names) >= 100
    assert len(names) == len(set(names))


def _engine() -> MemoryEngine:
    engine = MemoryEngine(clock=ManualClock())
    engine.forwarding = "on"
    for reference, layers in {
        "busybox:1": [("busybox", 800_000)],
        "app:1": [("debian", 30_000_000), ("app-1", 4_000_000)],
        "app:2": [("debian", 30_000_000), ("app-2", 4_500_000)],
        "db:15": [("debian", 30_000_000), ("db", 90_000_000)],
    }.items():
        engine.registry.publish(reference, *layers)
    return engine


def _apply_before(case: Mapping[str, Any], engine: MemoryEngine) -> None:
    before = case.get("before")
    if before is not None:
        _apply(_desired(case["desired"] if before == "same" else before), engine, PlanOptions())


def _plan_text(desired: Desired, engine: MemoryEngine, options: PlanOptions) -> str:
    try:
        return render(look(prepare(desired, engine), engine, options)[1])
    except RefusedError as error:
        return f"refused: {error}\n{error.hint}\n"


def _apply(desired: Desired, engine: MemoryEngine, options: PlanOptions) -> None:
    session = Session(prepare(desired, engine), engine, options, lambda _: None, lambda *_: None, threading.Event())
    session.converge(look(session.desired, engine, options)[1])


def _events(world: list[Any]) -> Iterator[Mapping[str, Any]]:
    """The events in order; a list among them is one of events that several cases have."""
    for item in world:
        yield from _events(item) if isinstance(item, list) else [item]


def _happen(event: Mapping[str, Any], engine: MemoryEngine) -> None:
    """One thing that happens to the host, or to the world around it."""
    ((what, value),) = event.items()
    match what:
        case "apply":
            _apply(_desired(value), engine, PlanOptions())
        case "interrupted":
            _interrupt(_desired(value["apply"]), engine, value["before"])
        case "publish":
            for reference, layers in value.items():
                engine.registry.publish(reference, *((name, size) for name, size in layers.items()))
        case "move":
            for reference, seed in value.items():
                digest = Digest.of(seed.encode())
                engine.registry.manifests[digest] = ()
                engine.registry.tags[str(Reference.parse(reference))] = digest
        case "index":
            for reference, parts in value.items():
                made = engine.registry.publish(reference, *((part, 1000) for part in parts))
                engine.registry.indexes[made] = tuple(
                    engine.registry.tags[str(Reference.parse(part))] for part in parts
                )
        case "sign":
            for reference, suffixes in value.items():
                image = Reference.parse(reference)
                digest = engine.registry.tags[str(image)]
                for suffix in suffixes:
                    name = f"{image.name}:{referrers_tag(digest)}{suffix}"
                    made = engine.registry.publish(name, (f"signature{suffix}", 100))
                    if not suffix.startswith("."):  # not by a tag, but in the registry's own list
                        del engine.registry.tags[name]
                        engine.registry.refer(image.name, digest, made)
        case "unpublish":
            del engine.registry.tags[str(Reference.parse(value))]
        case "down":
            engine.registry.down.add(value)
        case "exit_codes":
            engine.exit_codes = {_container(name): code for name, code in value.items()}
        case "end":
            for name, code in value.items():
                engine.containers.end(_container(name), code)
        case "out_of_memory":
            engine.containers.end(_container(value), 137, oom=True)
        case "remove":
            engine.containers.remove(engine.containers.at(_container(value)).id)
        case "pause":
            engine.containers.pause(_container(value))
        case "drift":
            for name, drift in value.items():
                address = Address.parse(name)
                drifting = engine.drift_network if address.kind == "network" else engine.containers.drift
                drifting(address, Drift(*drift))
        case "lose":
            engine.lose_image(Address.parse(value))
        case "forwarding":
            engine.forwarding = value
        case "host_files":
            engine.host_files = _host_files(value)
        case "external":
            engine.external.add(Address.parse(value))
        case "tag":
            engine.tag_by_hand(Address.parse(value["tag"]), Digest.of(value["seed"].encode()))
        case "advance":
            assert isinstance(engine.clock, ManualClock)
            engine.clock.advance(value)
        case "clock_back":
            assert isinstance(engine.clock, ManualClock)
            engine.clock.advance(-value)
        case _:
            raise AssertionError(f"no such event: {what}")


def _interrupt(desired: Desired, engine: MemoryEngine, step_id: str) -> None:
    """An apply that ends before one step, named by how its id begins."""

    def fault(action: Action, moment: str) -> None:
        if action.step_id.startswith(step_id) and moment == "before":
            raise HostError("interrupted")

    engine.fault = fault
    _apply(desired, engine, PlanOptions())
    engine.fault = None


def _container(name: str) -> Address:
    return Address("container", name if "/" in name else f"shop/{name}")


def _desired(document: Mapping[str, Any] | list[Mapping[str, Any]]) -> Desired:
    documents = document if isinstance(document, list) else [document]
    desired = together(*(_stack(item) for item in documents))
    unsupported = [
        Unsupported(address, field, Location("shop.yaml", 99, 5))
        for item in documents
        for address, field in item.get("unsupported", {}).items()
    ]
    return Desired(
        desired.resources,
        desired.stacks,
        desired.source,
        locations=desired.locations,
        owners=desired.owners,
        unsupported=tuple(unsupported),
        from_host={
            item.get("stack", "shop"): Location("shop.yaml", 5, 3) for item in documents if item.get("from_host")
        },
    )


def _host_files(document: Mapping[str, Any]) -> HostMirrors:
    """What files of the host say: the endpoints of each registry, or that it is ``blocked``; and its notes."""
    file = document.get("file", "/etc/containers/registries.conf")
    mirrors = tuple(
        Mirror(host, (), True, file)
        if said == "blocked"
        else Mirror(host, tuple(Endpoint(url, "first") for url in said), from_file=file)
        for host, said in document.get("mirrors", {}).items()
    )
    registries = tuple(Registry(host, ca=ca, from_file=file) for host, ca in document.get("ca", {}).items())
    return HostMirrors(registries, mirrors, tuple(document.get("notes", ())))


def _stack(document: Mapping[str, Any]) -> Stack:
    stack = Stack(document.get("stack", "shop"), source=document.get("source", ""))
    for host, registry in document.get("registries", {}).items():
        auth = Auth(**registry["auth"]) if "auth" in registry else None
        fact = Registry(host, plain_http=registry.get("plain_http", False), auth=auth)
        stack.add(Address("registry", host), fact)
    for host, urls in document.get("mirrors", {}).items():
        stack.add(Address("mirror", host), Mirror(host, tuple(Endpoint(url) for url in urls)))
    if "retention" in document:
        stack.add(Address("retention", stack.name), Retention(**document["retention"]))
    for name, fields in document.get("networks", {}).items():
        subnet = IPv4Network(fields["subnet"]) if "subnet" in fields else None
        stack.network(name, **{**fields, "labels": _pairs(fields.get("labels")), "subnet": subnet})
    for name, fields in document.get("volumes", {}).items():
        stack.volume(name, **{**fields, "labels": _pairs(fields.get("labels"))})
    for name, source in document.get("images", {}).items():
        _image(stack, name, source)
    for reference, tag in document.get("tags", {}).items():
        image, push = (tag, None) if isinstance(tag, str) else (tag["image"], tag["push"])
        stack.tag(reference, image, push)
    for target, fields in document.get("syncs", {}).items():
        _add_sync(stack, target, dict(fields))
    for name, fields in document.get("containers", {}).items():
        _add_container(stack, name, dict(fields))
    return stack


def _image(stack: Stack, name: str, source: Any) -> None:
    if isinstance(source, str):
        stack.pull(name, source)
    elif "pull" in source:
        track = {
            key: tuple(value) if isinstance(value, list) else value for key, value in source.get("track", {}).items()
        }
        stack.pull(name, source["pull"], source.get("policy", "missing"), **track)
    elif "import" in source:
        stack.import_(name, source["import"])
    else:
        stack.commit(name, source["commit"], source.get("author", ""), source.get("message", ""))


def _add_sync(stack: Stack, target: str, fields: dict[str, Any]) -> None:
    tags = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.pop("tags", {}).items()}
    platforms = tuple(Platform.parse(text) for text in fields.pop("platforms", ()))
    prune = fields.pop("prune", None)
    protect = tuple((prune or {}).get("protect", ()))
    stack.sync(
        target,
        fields.pop("from"),
        tags=TagSelection(**tags),
        platforms=platforms,
        prune=None if prune is None else Prune(**{**prune, "protect": protect}),
        **fields,
    )


def _add_container(stack: Stack, name: str, fields: dict[str, Any]) -> None:
    for key in ("command", "entrypoint"):
        if key in fields:
            fields[key] = tuple(fields[key])
    fields["labels"] = _pairs(fields.get("labels"))
    fields["environment"] = {
        key: Sensitive(text["secret"]) if isinstance(text, dict) else text
        for key, text in fields.get("environment", {}).items()
    }
    for section in ("secrets", "configs"):
        wrap = Sensitive if section == "secrets" else str
        files = fields.get(section, {})
        fields[section] = tuple(FileMount(file, f"/run/{section}/{file}", wrap(text)) for file, text in files.items())
    ports = [str(port).split(":") for port in fields.pop("ports", [])]
    binds = fields.pop("binds", {})
    address = stack.container(name, fields.pop("image"), **fields)
    container: Any = stack.resources[address]
    bound = tuple(
        Mount("bind", source, target.removesuffix(":ro"), target.endswith(":ro")) for target, source in binds.items()
    )
    published = tuple(Port(int(inside), int(outside), ":".join(rest)) for *rest, outside, inside in ports)
    stack.add(address, replace(container, ports=published, mounts=(*container.mounts, *bound)))


def _pairs(mapping: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    return tuple((mapping or {}).items())
