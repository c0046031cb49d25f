"""Checks across resources: dependency cycles and ports that two containers ask for."""

from __future__ import annotations

from collections import defaultdict

from reconciler.model.address import Address
from reconciler.model.resources import Commit, Container, Image, Port
from reconciler.spec.build import Build
from reconciler.spec.ports import overlap, port_text


def check_cycles(build: Build) -> None:
    """A container must not wait for itself, directly or through others or an image committed from one."""
    needs = {address: _needs(build, address) for address in build.resources if address.kind == "container"}
    done: set[Address] = set()
    for start in sorted(needs):
        trail: list[Address] = []
        pending = [(start, iter(needs[start]))] if start not in done else []
        while pending:
            address, rest = pending[-1]
            if not trail or trail[-1] != address:
                trail.append(address)
            following = next(rest, None)
            if following is None:
                done.add(trail.pop())
                pending.pop()
            elif following in trail:
                _report_cycle(build, trail[trail.index(following) :])
            elif following not in done:
                pending.append((following, iter(needs.get(following, ()))))


def _needs(build: Build, address: Address) -> list[Address]:
    container = build.resources[address]
    assert isinstance(container, Container)
    found = {dependency.container for dependency in container.depends_on}
    image = build.resources.get(container.image)
    if isinstance(image, Image) and isinstance(image.source, Commit):
        found.add(image.source.container)
    return sorted(found)


def _report_cycle(build: Build, cycle: list[Address]) -> None:
    first = cycle.index(min(cycle))
    names = [address.short for address in cycle[first:] + cycle[:first]]
    build.problems.add(
        build.locations[min(cycle)],
        f"containers wait for each other: {' -> '.join([*names, names[0]])}",
        "remove one of these dependencies",
    )


def check_ports(build: Build) -> None:
    """No two containers, of whatever stack, publish the same port of the host."""
    taken: dict[tuple[int | None, str], list[tuple[Port, Address]]] = defaultdict(list)
    for address in sorted(build.resources):
        container = build.resources[address]
        if not isinstance(container, Container):
            continue
        for port in container.ports:
            if port.host_port is None:
                continue
            others = taken[port.host_port, port.protocol]
            for other, owner in others:
                if overlap(port, other):
                    build.problems.add(
                        build.locations[address],
                        f"{address} publishes {port_text(port)}, but {owner} at {build.locations[owner]} "
                        f"publishes {port_text(other)}",
                        "choose another host port",
                    )
                    break
            others.append((port, address))
