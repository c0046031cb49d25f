"""``reconciler status``: what this host has, and how it is. Writes nothing."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from reconciler.cli.context import Context
from reconciler.cli.mirror_states import MirrorState, mirror_states
from reconciler.cli.table import ago, span, table
from reconciler.model.observed import (
    Interest,
    Observed,
    ObservedContainer,
    ObservedFact,
    ObservedImage,
    ObservedNetwork,
    ObservedSync,
    ObservedTag,
)
from reconciler.printable import printable

if TYPE_CHECKING:
    from reconciler.daemon.conditions import DaemonStatus
    from reconciler.engine.port import Generation
    from reconciler.network.spec import PortMapping


def run(context: Context, options: argparse.Namespace) -> int:
    """Exits 0 whatever the state is: the state is what is printed."""
    from reconciler.daemon.conditions import read_status

    with context.engine() as engine:
        observed = engine.observe(Interest())
        generations = list(engine.generations())
        ports = engine.view().wiring.published_by_container()
        mirrors = list(mirror_states(observed, engine.view().state.mirror_health.all()))
        daemon = read_status(engine.run_directory)
    if options.output == "json":
        document = _document(context, observed, generations, ports, mirrors, daemon)
        context.print(json.dumps(document, indent=2, default=str))
        return 0
    for line in _text(context, observed, generations, ports, mirrors, daemon):
        context.print(line)
    return 0


def _text(
    context: Context,
    observed: Observed,
    generations: list[Generation],
    ports: dict[str, list[PortMapping]],
    mirrors: list[MirrorState],
    daemon: DaemonStatus | None,
) -> Iterator[str]:
    last = generations[-1] if generations else None
    when = f"generation {last.number}, {ago(observed.now - last.created_at)}" if last else "nothing applied yet"
    yield f"Root {context.root}: {when}."
    yield from _daemon_lines(daemon)
    containers = [item for item in observed.resources.values() if isinstance(item, ObservedContainer)]
    if containers:
        rows = [
            (item.address.name, describe(item, observed.now), item.image.short, _shown_ports(ports.get(item.id, [])))
            for item in sorted(containers, key=lambda item: item.address.name)
        ]
        yield ""
        yield table(("CONTAINER", "STATUS", "IMAGE", "PORTS"), rows)
    if mirrors:
        yield ""
        servers = [(item.registry, item.url, item.text(observed.now)) for item in mirrors]
        yield table(("MIRROR OF", "SERVER", "STATE"), servers)
    others = list(_others(observed))
    if others:
        yield ""
        yield table(("RESOURCE", "STATE"), others)


def _daemon_lines(daemon: DaemonStatus | None) -> Iterator[str]:
    if daemon is None:
        yield "No daemon runs: nothing restarts a container that ends. Apply again, or run `reconciler daemon`."
        return
    if not daemon.alive:
        yield f"The daemon (pid {daemon.pid}) ended without a word; start it again. Its last state follows."
    found = daemon.conditions
    revision = f" at {found.revision[:12]}" if found.revision else ""
    yield f"Daemon pid {daemon.pid} follows {printable(found.source)}{revision}: {found.result} since {found.since}."
    if found.bad is not None:
        held = "held back" if found.bad.refused else "not applied"
        named = f" {found.bad.revision[:12]}" if found.bad.revision else ""
        yield f"  Revision{named} is {held} since {found.bad.since}: {_inside(found.bad.message)}"
        if found.bad.hint:
            yield f"    hint: {printable(found.bad.hint)}"
    if found.error:
        yield f"  The last pass failed: {_inside(found.error)}"
    for failure in found.failures:
        again = f" (next try {failure.next_try})" if failure.next_try else ""
        yield f"  {failure.address}: {_inside(failure.message)}{again}"


def _inside(message: str) -> str:
    """A message of several lines, such as the problems of a spec, kept inside what it is told with."""
    return printable(message, keep="\n").replace("\n", "\n    ")


def describe(container: ObservedContainer, now: float) -> str:
    """A container's state in a few words: ``running for 3 minutes``, ``exited (1) 5 seconds ago``."""
    if container.status == "exited":
        code = "unknown" if container.exit_code is None else str(container.exit_code)
        oom = ", out of memory" if container.oom else ""
        return f"exited ({code}{oom}) {ago(now - (container.finished_at or now))}"
    if container.started_at is not None:
        since = ago(now - container.started_at)
        restarts = f", restart {container.streak}" if container.streak else ""
        return f"{container.status}, started {since}{restarts}"
    return container.status


def _others(observed: Observed) -> Iterator[tuple[str, str]]:
    for address, item in sorted(observed.resources.items()):
        if isinstance(item, ObservedImage):
            state = f"{item.digest.short}" + ("" if item.complete else ", incomplete")
            yield str(address), state + (f", tracks {item.picked}" if item.picked else "")
        elif isinstance(item, ObservedTag):
            pushed = f", pushed {item.pushed.short}" if item.pushed else ""
            yield str(address), (item.local.short if item.local else "missing here") + pushed
        elif isinstance(item, ObservedNetwork):
            yield str(address), "; ".join(drift.actual for drift in item.drift) or "up"
        elif isinstance(item, ObservedSync):
            yield str(address), _sync(item, observed.now)
        elif isinstance(item, ObservedFact):
            yield str(address), _fact(item)


def _fact(fact: ObservedFact) -> str:
    """``recorded``; for what a file of the host says, with that file."""
    if not (file := fact.form.get("from_file")):
        return "recorded"
    return f"blocked by {file}" if fact.form.get("blocked") else f"recorded from {file}"


def _sync(sync: ObservedSync, now: float) -> str:
    """How a sync is: ``5 tags, checked 2 minutes ago, next check in 58 minutes``."""
    if sync.checked_at is None:
        return "recorded, not checked yet"
    left = (sync.due_at or now) - now
    due = f"next check in {span(left)}" if left > 0 else "next check is due"
    failed = f", failed: {sync.error}" if sync.error else ""
    return f"{sync.counted} tag{'s' * (sync.counted != 1)}, checked {ago(now - sync.checked_at)}, {due}{failed}"


def _shown_ports(ports: list[PortMapping]) -> str:
    return ", ".join(
        f"{port.host_address or '0.0.0.0'}:{port.host_port}->{port.container_port}/{port.protocol}" for port in ports
    )


def _document(
    context: Context,
    observed: Observed,
    generations: list[Generation],
    ports: dict[str, list[PortMapping]],
    mirrors: list[MirrorState],
    daemon: DaemonStatus | None,
) -> dict[str, Any]:
    containers = [
        {
            "address": str(item.address),
            "id": item.id,
            "status": item.status,
            "exit_code": item.exit_code,
            "oom": item.oom,
            "image": item.image,
            "run": item.run,
            "restarts": item.streak,
            "started_at": item.started_at,
            "finished_at": item.finished_at,
            "ports": [dataclasses.asdict(port) for port in ports.get(item.id, [])],
        }
        for item in observed.resources.values()
        if isinstance(item, ObservedContainer)
    ]
    last = generations[-1] if generations else None
    return {
        "root": str(context.root),
        "root_id": observed.root_id,
        "now": time.time(),
        "generation": last.number if last else None,
        "containers": containers,
        "syncs": [
            {
                "address": str(address),
                "source": item.form.get("source"),
                "tags": item.counted,
                "checked_at": item.checked_at,
                "next_check_at": item.due_at,
                "error": item.error,
            }
            for address, item in sorted(observed.resources.items())
            if isinstance(item, ObservedSync)
        ],
        "mirrors": [item.document(observed.now) for item in mirrors],
        "resources": [{"address": address, "state": state} for address, state in _others(observed)],
        "daemon": dataclasses.asdict(daemon) if daemon else None,
    }
