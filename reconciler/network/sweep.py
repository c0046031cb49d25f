"""Clearing away what a killed process left behind."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from reconciler.linux import namespaces
from reconciler.network.firewall import Firewall
from reconciler.network.links import Links
from reconciler.network.spec import EndpointSpec, FirewallState
from reconciler.value import dataclass


@dataclass(frozen=True, slots=True)
class Swept:
    """What nobody owned and is gone now, and how the firewall had differed."""

    namespaces: tuple[str, ...]
    interfaces: tuple[str, ...]
    firewall: tuple[str, ...]


def sweep(
    links: Links,
    firewall: Firewall,
    directory: Path,
    *,
    containers: Collection[str],
    endpoints: Iterable[EndpointSpec],
    state: FirewallState,
) -> Swept:
    """Removes this root's namespaces, interfaces and rules that nothing here names. Idempotent.

    ``directory`` holds one namespace per container id; ``containers`` are the ids to keep, ``endpoints`` and ``state``
    what their network should be. Nothing missing is made, except rules. Call it under the root's lock.
    """
    gone = namespaces.sweep(directory, containers)
    keep = {endpoint.host_interface for endpoint in endpoints} | {network.bridge for network in state.networks}
    interfaces = links.sweep(keep)
    drift = firewall.observe(state)
    if drift and (state.networks or state.ports):
        firewall.apply(state)
    elif not state.networks and not state.ports:
        firewall.destroy()
    return Swept(gone, interfaces, drift)
