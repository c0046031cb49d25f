"""Bridges on the host and veth pairs between them and containers.

Every operation may be repeated after a kill at any step and then converges. Failures of the kernel are ``HostError``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

from reconciler.errors import ConflictError, HostError
from reconciler.linux import namespaces
from reconciler.network import names, rtnetlink, sysctl
from reconciler.network.addresses import mac_of
from reconciler.network.netlink import Netlink
from reconciler.network.spec import BridgeSpec, EndpointSpec

_ETHERNET_MTU = 1500
_DEFAULT_ROUTE_INTERFACE = "eth0"


class Links:
    """The interfaces of one root, over one kept netlink socket. Threads may share it. Close it after use."""

    def __init__(self, root_id: str) -> None:
        self._prefix = names.root_prefix(root_id)
        self._alias = names.alias(root_id)
        self._netlink = Netlink()

    def __enter__(self) -> Links:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._netlink.close()

    def host_routes(self) -> tuple[IPv4Network, ...]:
        """Where the host has routes to, without default routes: what a new subnet must not overlap."""
        found = {route.destination for route in rtnetlink.routes(self._netlink)}
        return tuple(sorted(network for network in found if network.prefixlen))

    def inherited_mtu(self) -> int:
        """The MTU of the interface that the default route uses, else Ethernet's."""
        defaults = [route for route in rtnetlink.routes(self._netlink) if not route.destination.prefixlen and route.out]
        if not defaults:
            return _ETHERNET_MTU
        best = min(defaults, key=lambda route: route.metric)
        return rtnetlink.link_at(self._netlink, best.out).mtu

    def bridge_drift(self, spec: BridgeSpec) -> tuple[str, ...]:
        """How the bridge differs from its spec, one short sentence each; empty when it is right. Writes nothing."""
        link = rtnetlink.find_link(self._netlink, spec.bridge)
        if link is None:
            return (f"the bridge {spec.bridge} is gone",)
        drift = [] if link.up else [f"the bridge {spec.bridge} is down"]
        if rtnetlink.addresses(self._netlink, link.index) != [_gateway(spec)]:
            drift.append(f"the address of the bridge {spec.bridge} is not {_gateway(spec)}")
        if not sysctl.routes_localnet(spec.bridge):
            drift.append(f"route_localnet of the bridge {spec.bridge} is off")
        return tuple(drift)

    def ensure_bridge(self, spec: BridgeSpec) -> None:
        """Makes the bridge exist, up, with exactly the gateway's address; repairs what differs.

        A new bridge takes the MTU of the default route. Raises ``ConflictError`` when an interface of that name
        belongs to another root.
        """
        with _kernel(f"set up the network {spec.name}"):
            link = rtnetlink.find_link(self._netlink, spec.bridge)
            if link is None:
                rtnetlink.add_bridge(self._netlink, spec.bridge, mac_of(spec.gateway), self.inherited_mtu())
                link = rtnetlink.find_link(self._netlink, spec.bridge)
                if link is None:
                    raise OSError(errno.ENODEV, "the bridge vanished at once")
            self._must_own(link)
            for address in rtnetlink.addresses(self._netlink, link.index):
                if address != _gateway(spec):
                    rtnetlink.delete_address(self._netlink, link.index, address)
            sysctl.prepare_bridge(spec.bridge)
            rtnetlink.add_address(self._netlink, link.index, _gateway(spec))
            rtnetlink.set_link(self._netlink, link.index, up=True, alias=self._alias)

    def delete_bridge(self, bridge: str) -> None:
        """Deletes the bridge if it is there. Containers still on it lose the network."""
        with _kernel(f"delete the bridge {bridge}"):
            self._delete(bridge)

    def attach(self, namespace: Path, endpoint: EndpointSpec) -> None:
        """Joins the namespace to the bridge: veth pair, address, loopback up and, for ``eth0``, the default route.

        A pair that already joins the two stays and loses no packet. Raises ``HostError`` when there is no bridge.
        """
        with _kernel(f"join container {endpoint.container_id[:12]} to the network {endpoint.network.name}"):
            bridge = rtnetlink.find_link(self._netlink, endpoint.network.bridge)
            if bridge is None:
                raise OSError(errno.ENODEV, f"there is no bridge {endpoint.network.bridge}")
            host = rtnetlink.find_link(self._netlink, endpoint.host_interface)
            if host is not None and not self._joined(namespace, endpoint, host):
                self._delete(endpoint.host_interface)
                host = None
            if host is None:
                host = self._add_veth(namespace, endpoint, bridge.mtu)
            rtnetlink.set_link(self._netlink, host.index, up=True, master=bridge.index, alias=self._alias)
            # With br_netfilter a container's packets to its own published port are translated while still frames.
            rtnetlink.set_hairpin(self._netlink, host.index)
            namespaces.run(namespace, lambda: _configure(endpoint))

    def endpoint_drift(self, endpoint: EndpointSpec) -> tuple[str, ...]:
        """How the host's end differs from what ``attach`` made; empty when it does not. Writes nothing."""
        host = rtnetlink.find_link(self._netlink, endpoint.host_interface)
        if host is None:
            return (f"the interface {endpoint.host_interface} is gone",)
        bridge = rtnetlink.find_link(self._netlink, endpoint.network.bridge)
        drift = [] if host.up else [f"the interface {host.name} is down"]
        if bridge is None or host.master != bridge.index:
            drift.append(f"the interface {host.name} is not on the bridge {endpoint.network.bridge}")
        return tuple(drift)

    def detach(self, endpoint: EndpointSpec) -> None:
        """Takes a running container off one network. Deleting its namespace does the same, and faster, for all."""
        with _kernel(f"take container {endpoint.container_id[:12]} off the network {endpoint.network.name}"):
            self._delete(endpoint.host_interface)

    def sweep(self, keep: Collection[str]) -> tuple[str, ...]:
        """Deletes every interface of this root that is not in ``keep``; returns their names."""
        with _kernel("sweep network interfaces"):
            stale = [link for link in rtnetlink.links(self._netlink) if link.name not in keep and self._owns(link)]
            for link in stale:
                rtnetlink.delete_link(self._netlink, link.name)
        return tuple(link.name for link in stale)

    def _add_veth(self, namespace: Path, endpoint: EndpointSpec, mtu: int) -> rtnetlink.Link:
        descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            rtnetlink.add_veth(
                self._netlink, endpoint.host_interface, endpoint.interface, endpoint.mac, descriptor, mtu
            )
        finally:
            os.close(descriptor)
        host = rtnetlink.find_link(self._netlink, endpoint.host_interface)
        if host is None:
            raise OSError(errno.ENODEV, f"{endpoint.host_interface} vanished at once")
        return host

    def _joined(self, namespace: Path, endpoint: EndpointSpec, host: rtnetlink.Link) -> bool:
        def inside() -> rtnetlink.Link | None:
            with Netlink() as netlink:
                return rtnetlink.find_link(netlink, endpoint.interface)

        link = namespaces.run(namespace, inside)
        return link is not None and (link.index, link.peer) == (host.peer, host.index) and link.mac == endpoint.mac

    def _delete(self, name: str) -> None:
        link = rtnetlink.find_link(self._netlink, name)
        if link is not None:
            self._must_own(link)
            rtnetlink.delete_link(self._netlink, name)

    def _owns(self, link: rtnetlink.Link) -> bool:
        # Without an alias it was made by us and the maker was killed before it could mark it.
        return link.name.startswith(self._prefix) and link.alias in ("", self._alias)

    def _must_own(self, link: rtnetlink.Link) -> None:
        if not self._owns(link):
            raise ConflictError(
                f"the interface {link.name} belongs to something else ({link.alias or 'no alias'})",
                hint=f"remove it with: ip link delete {link.name}",
            )


def _configure(endpoint: EndpointSpec) -> None:
    """Runs inside the namespace."""
    sysctl.disable_ipv6("default")
    with Netlink() as netlink:
        loopback, link = rtnetlink.find_link(netlink, "lo"), rtnetlink.find_link(netlink, endpoint.interface)
        if loopback is None or link is None:
            raise OSError(errno.ENODEV, f"{endpoint.interface} vanished from the namespace")
        sysctl.disable_ipv6(endpoint.interface)
        wanted = IPv4Interface((endpoint.address, endpoint.network.subnet.prefixlen))
        for address in rtnetlink.addresses(netlink, link.index):
            if address != wanted:
                rtnetlink.delete_address(netlink, link.index, address)
        rtnetlink.set_link(netlink, loopback.index, up=True)
        rtnetlink.add_address(netlink, link.index, wanted)
        rtnetlink.set_link(netlink, link.index, up=True)
        if endpoint.interface == _DEFAULT_ROUTE_INTERFACE:
            rtnetlink.set_default_route(netlink, link.index, endpoint.network.gateway)


def raise_loopback(namespace: Path) -> None:
    """Brings loopback up in the namespace of a container that has no network. Raises ``HostError``."""

    def inside() -> None:
        with Netlink() as netlink:
            loopback = rtnetlink.find_link(netlink, "lo")
            if loopback is not None:
                rtnetlink.set_link(netlink, loopback.index, up=True)

    with _kernel(f"bring up loopback in {namespace}"):
        namespaces.run(namespace, inside)


def _gateway(spec: BridgeSpec) -> IPv4Interface:
    return IPv4Interface((spec.gateway, spec.subnet.prefixlen))


@contextmanager
def _kernel(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HostError(
            f"cannot {doing}: {error.strerror}", hint="run as root on a kernel with bridge and veth devices"
        ) from error
