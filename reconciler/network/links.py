"""Bridges on the host and veth pairs between them and containers.

Every operation may be repeated after a kill at any step and then converges. Failures of the kernel are ``HostError``.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

from reconciler.errors import ConflictError, HostError
from reconciler.linux import namespaces
from reconciler.network import names, sysctl
from reconciler.network.addresses import mac_of
from reconciler.network.interfaces import find_interface
from reconciler.network.rtnetlink import LOOPBACK, Link, Rtnetlink
from reconciler.network.spec import BridgeSpec, EndpointSpec

_ETHERNET_MTU = 1500
_DEFAULT_ROUTE_INTERFACE = "eth0"


def preload() -> None:
    """Imports pyroute2 and opens nothing.

    The import takes a seventh of a second: a caller that waits for something else can have it done meanwhile, in a
    thread.
    """
    import pyroute2  # noqa: F401


class Links:
    """The interfaces of one root. Threads may share it.

    Each operation opens a netlink socket of its own, in the network namespace of the thread that calls it.
    """

    def __init__(self, root_id: str) -> None:
        self._prefix = names.root_prefix(root_id)
        self._alias = names.alias(root_id)

    def __enter__(self) -> Links:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the use. Nothing is held between operations, so nothing is left to do."""

    def host_routes(self) -> tuple[IPv4Network, ...]:
        """Where the host has routes to, without default routes: what a new subnet must not overlap."""
        with Rtnetlink() as kernel:
            found = {route.destination for route in kernel.routes()}
        return tuple(sorted(network for network in found if network.prefixlen))

    def inherited_mtu(self) -> int:
        """The MTU of the interface that the default route uses, else Ethernet's."""
        with Rtnetlink() as kernel:
            return _inherited_mtu(kernel)

    def bridge_drift(self, spec: BridgeSpec) -> tuple[str, ...]:
        """How the bridge differs from its spec, one short sentence each; empty when it is right. Writes nothing."""
        bridge = find_interface(spec.bridge)
        if bridge is None:
            return (f"the bridge {spec.bridge} is gone",)
        drift = [] if bridge.up else [f"the bridge {spec.bridge} is down"]
        if bridge.addresses != (_gateway(spec),):
            drift.append(f"the address of the bridge {spec.bridge} is not {_gateway(spec)}")
        if not sysctl.routes_localnet(spec.bridge):
            drift.append(f"route_localnet of the bridge {spec.bridge} is off")
        return tuple(drift)

    def ensure_bridge(self, spec: BridgeSpec) -> None:
        """Makes the bridge exist, up, with exactly the gateway's address; repairs what differs.

        A new bridge takes the MTU of the default route. Raises ``ConflictError`` when an interface of that name
        belongs to another root.
        """
        with _failing(f"set up the network {spec.name}"), Rtnetlink() as kernel:
            link = kernel.find_link(spec.bridge)
            if link is None:
                kernel.add_bridge(spec.bridge, mac_of(spec.gateway), _inherited_mtu(kernel))
                link = kernel.link_at(socket.if_nametoindex(spec.bridge))
            self._must_own(link)
            for address in kernel.addresses(link.index):
                if address != _gateway(spec):
                    kernel.delete_address(link.index, address)
            sysctl.prepare_bridge(spec.bridge)
            kernel.add_address(link.index, _gateway(spec))
            kernel.raise_link(link.index, self._alias)

    def delete_bridge(self, bridge: str) -> None:
        """Deletes the bridge if it is there. Containers still on it lose the network."""
        with _failing(f"delete the bridge {bridge}"), Rtnetlink() as kernel:
            self._delete(kernel, bridge)

    def attach(self, namespace: Path, endpoint: EndpointSpec) -> None:
        """Joins the namespace to the bridge: veth pair, address, loopback up and, for ``eth0``, the default route.

        A pair that already joins the two stays and loses no packet. Raises ``HostError`` when there is no bridge.
        """
        doing = f"join container {endpoint.container_id[:12]} to the network {endpoint.network.name}"
        with _failing(doing), Rtnetlink() as kernel:
            bridge = kernel.find_link(endpoint.network.bridge)
            if bridge is None:
                raise OSError(errno.ENODEV, f"there is no bridge {endpoint.network.bridge}")
            host = kernel.find_link(endpoint.host_interface)
            if host is not None and not _joined(namespace, endpoint, host):
                self._delete(kernel, host.name)
                host = None
            if host is None:
                _add_veth(kernel, namespace, endpoint, bridge.mtu)
            kernel.join(socket.if_nametoindex(endpoint.host_interface), bridge.index, self._alias)
            namespaces.run(namespace, lambda: _configure(endpoint))

    def endpoint_drift(self, endpoint: EndpointSpec) -> tuple[str, ...]:
        """How the host's end differs from what ``attach`` made; empty when it does not. Writes nothing."""
        with Rtnetlink() as kernel:
            host = kernel.find_link(endpoint.host_interface)
            bridge = kernel.find_link(endpoint.network.bridge)
        if host is None:
            return (f"the interface {endpoint.host_interface} is gone",)
        drift = [] if host.up else [f"the interface {host.name} is down"]
        if bridge is None or host.master != bridge.index:
            drift.append(f"the interface {host.name} is not on the bridge {endpoint.network.bridge}")
        return tuple(drift)

    def detach(self, endpoint: EndpointSpec) -> None:
        """Takes a running container off one network. Deleting its namespace does the same, and faster, for all."""
        doing = f"take container {endpoint.container_id[:12]} off the network {endpoint.network.name}"
        with _failing(doing), Rtnetlink() as kernel:
            self._delete(kernel, endpoint.host_interface)

    def sweep(self, keep: Collection[str]) -> tuple[str, ...]:
        """Deletes every interface of this root that is not in ``keep``; returns their names."""
        with _failing("sweep network interfaces"), Rtnetlink() as kernel:
            stale = [link for link in kernel.links() if link.name not in keep and self._owns(link)]
            for link in stale:
                kernel.delete_link(link.name)
        return tuple(link.name for link in stale)

    def _delete(self, kernel: Rtnetlink, name: str) -> None:
        link = kernel.find_link(name)
        if link is not None:
            self._must_own(link)
            kernel.delete_link(name)

    def _owns(self, link: Link) -> bool:
        # Without an alias it was made by us and the maker was killed before it could mark it.
        return link.name.startswith(self._prefix) and link.alias in ("", self._alias)

    def _must_own(self, link: Link) -> None:
        if not self._owns(link):
            raise ConflictError(
                f"the interface {link.name} belongs to something else ({link.alias or 'no alias'})",
                hint=f"remove it with: ip link delete {link.name}",
            )


def raise_loopback(namespace: Path) -> None:
    """Brings loopback up in the namespace of a container that has no network. Raises ``HostError``."""

    def inside() -> None:
        with Rtnetlink() as kernel:
            kernel.raise_link(LOOPBACK)

    with _failing(f"bring up loopback in {namespace}"):
        namespaces.run(namespace, inside)


def _add_veth(kernel: Rtnetlink, namespace: Path, endpoint: EndpointSpec, mtu: int) -> None:
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        kernel.add_veth(endpoint.host_interface, endpoint.interface, endpoint.mac, descriptor, mtu)
    finally:
        os.close(descriptor)


def _joined(namespace: Path, endpoint: EndpointSpec, host: Link) -> bool:
    def inside() -> Link | None:
        with Rtnetlink() as kernel:
            return kernel.find_link(endpoint.interface)

    link = namespaces.run(namespace, inside)
    return link is not None and (link.index, link.peer) == (host.peer, host.index) and link.mac == endpoint.mac


def _configure(endpoint: EndpointSpec) -> None:
    """Runs inside the namespace."""
    sysctl.disable_ipv6("default")
    sysctl.disable_ipv6(endpoint.interface)
    index = socket.if_nametoindex(endpoint.interface)
    wanted = IPv4Interface((endpoint.address, endpoint.network.subnet.prefixlen))
    with Rtnetlink() as kernel:
        for address in kernel.addresses(index):
            if address != wanted:
                kernel.delete_address(index, address)
        kernel.raise_link(LOOPBACK)
        kernel.add_address(index, wanted)
        kernel.raise_link(index)
        if endpoint.interface == _DEFAULT_ROUTE_INTERFACE:
            kernel.set_default_route(index, endpoint.network.gateway)


def _inherited_mtu(kernel: Rtnetlink) -> int:
    defaults = [route for route in kernel.routes() if not route.destination.prefixlen and route.out]
    if not defaults:
        return _ETHERNET_MTU
    return kernel.link_at(min(defaults, key=lambda route: route.metric).out).mtu


def _gateway(spec: BridgeSpec) -> IPv4Interface:
    return IPv4Interface((spec.gateway, spec.subnet.prefixlen))


@contextmanager
def _failing(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HostError(
            f"cannot {doing}: {error.strerror or error}", hint="run as root on a kernel with bridge and veth devices"
        ) from error
