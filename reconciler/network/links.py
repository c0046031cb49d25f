"""Bridges on the host and veth pairs between them and containers.

Every operation may be repeated after a kill at any step and then converges. Failures of the kernel are ``HostError``.
The kernel is changed through ``ip -batch``, and asked through pyroute2 only for whole tables (``iproute`` says why).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

from reconciler.errors import ConflictError, HostError
from reconciler.linux import namespaces
from reconciler.network import iproute, names, sysctl
from reconciler.network.addresses import mac_of
from reconciler.network.interfaces import default_route, find_interface
from reconciler.network.iproute import Link
from reconciler.network.rtnetlink import Rtnetlink
from reconciler.network.spec import BridgeSpec, EndpointSpec

_ETHERNET_MTU = 1500
_DEFAULT_ROUTE_INTERFACE = "eth0"
_LOOPBACK_UP = "link set dev lo up"


class Links:
    """The interfaces of one root. Threads may share it: nothing is held between operations."""

    def __init__(self, root_id: str) -> None:
        self._prefix = names.root_prefix(root_id)
        self._alias = names.alias(root_id)

    def host_routes(self) -> tuple[IPv4Network, ...]:
        """Where the host has routes to, without default routes: what a new subnet must not overlap."""
        with Rtnetlink() as kernel:
            found = set(kernel.destinations())
        return tuple(sorted(network for network in found if network.prefixlen))

    def inherited_mtu(self) -> int:
        """The MTU of the interface that the default route uses, else Ethernet's."""
        name = default_route()
        interface = find_interface(name) if name else None
        return interface.mtu if interface else _ETHERNET_MTU

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
        with _failing(f"set up the network {spec.name}"):
            link = self._find_own(spec.bridge)
            if link is None:
                # Without a MAC of its own it would change it as ports come and go, and peers' caches would be wrong.
                mac, mtu = mac_of(spec.gateway), self.inherited_mtu()
                iproute.change(f"link add name {spec.bridge} address {mac} mtu {mtu} type bridge")
            sysctl.prepare_bridge(spec.bridge)
            iproute.change(
                *_addressing(spec.bridge, _gateway(spec), link.addresses if link else ()),
                f'link set dev {spec.bridge} alias "{self._alias}" up',
            )

    def delete_bridge(self, bridge: str) -> None:
        """Deletes the bridge if it is there. Containers still on it lose the network."""
        with _failing(f"delete the bridge {bridge}"):
            self._delete(bridge)

    def attach(self, namespace: Path, endpoint: EndpointSpec) -> None:
        """Joins the namespace to the bridge: veth pair, address, loopback up and, for ``eth0``, the default route.

        A pair that already joins the two stays and loses no packet. Raises ``HostError`` when there is no bridge.
        """
        with _failing(f"join container {endpoint.container_id[:12]} to the network {endpoint.network.name}"):
            bridge = find_interface(endpoint.network.bridge)
            if bridge is None:
                raise OSError(f"there is no bridge {endpoint.network.bridge}")
            inside = self._joined(namespace, endpoint)
            if inside is None:
                self._delete(endpoint.host_interface)
            # The other end is born in the namespace: the host never has an interface of that name.
            make = (
                f"link add name {endpoint.host_interface} mtu {bridge.mtu} type veth"
                f' peer name {endpoint.interface} address {endpoint.mac} mtu {bridge.mtu} netns "{namespace}"'
            )
            iproute.change(
                *([make] if inside is None else []),
                f'link set dev {endpoint.host_interface} alias "{self._alias}" master {endpoint.network.bridge} up',
                # With br_netfilter a container's packets to its own published port are translated while still frames.
                f"link set dev {endpoint.host_interface} type bridge_slave hairpin on",
            )
            namespaces.run(namespace, lambda: _configure(endpoint, inside.addresses if inside else ()))

    def endpoint_drift(self, endpoint: EndpointSpec) -> tuple[str, ...]:
        """How the host's end differs from what ``attach`` made; empty when it does not. Writes nothing."""
        host = iproute.find_link(endpoint.host_interface)
        if host is None:
            return (f"the interface {endpoint.host_interface} is gone",)
        drift = [] if host.up else [f"the interface {host.name} is down"]
        if host.master != endpoint.network.bridge:
            drift.append(f"the interface {host.name} is not on the bridge {endpoint.network.bridge}")
        return tuple(drift)

    def detach(self, endpoint: EndpointSpec) -> None:
        """Takes a running container off one network. Deleting its namespace does the same, and faster, for all."""
        with _failing(f"take container {endpoint.container_id[:12]} off the network {endpoint.network.name}"):
            self._delete(endpoint.host_interface)

    def sweep(self, keep: Collection[str]) -> tuple[str, ...]:
        """Deletes every interface of this root that is not in ``keep``; returns their names."""
        with _failing("sweep network interfaces"):
            with Rtnetlink() as kernel:
                aliases = kernel.aliases()
            stale = tuple(name for name, alias in aliases.items() if name not in keep and self._owns(name, alias))
            if stale:
                iproute.delete(stale)
        return stale

    def _joined(self, namespace: Path, endpoint: EndpointSpec) -> Link | None:
        """The container's end of the pair that joins the two already."""
        host = self._find_own(endpoint.host_interface)
        if host is None:
            return None
        link = namespaces.run(namespace, lambda: iproute.find_link(endpoint.interface))
        joined = link is not None and (link.index, link.peer) == (host.peer, host.index) and link.mac == endpoint.mac
        return link if joined else None

    def _delete(self, name: str) -> None:
        if self._find_own(name) is not None:
            iproute.delete([name])

    def _find_own(self, name: str) -> Link | None:
        """An interface by name. Raises ``ConflictError`` when it is not this root's."""
        link = iproute.find_link(name)
        if link is not None and not self._owns(link.name, link.alias):
            raise ConflictError(
                f"the interface {name} belongs to something else ({link.alias or 'no alias'})",
                hint=f"remove it with: ip link delete {name}",
            )
        return link

    def _owns(self, name: str, alias: str) -> bool:
        # Without an alias it was made by us and the maker was killed before it could mark it.
        return name.startswith(self._prefix) and alias in ("", self._alias)


def raise_loopback(namespace: Path) -> None:
    """Brings loopback up in the namespace of a container that has no network. Raises ``HostError``."""
    with _failing(f"bring up loopback in {namespace}"):
        namespaces.run(namespace, lambda: iproute.change(_LOOPBACK_UP))


def _configure(endpoint: EndpointSpec, present: tuple[IPv4Interface, ...]) -> None:
    """Runs inside the namespace, where the interface has the addresses ``present``."""
    sysctl.disable_ipv6("default")
    sysctl.disable_ipv6(endpoint.interface)
    wanted = IPv4Interface((endpoint.address, endpoint.network.subnet.prefixlen))
    commands = [
        _LOOPBACK_UP,
        *_addressing(endpoint.interface, wanted, present),
        f"link set dev {endpoint.interface} up",
    ]
    if endpoint.interface == _DEFAULT_ROUTE_INTERFACE:
        commands.append(f"route replace default via {endpoint.network.gateway} dev {endpoint.interface}")
    iproute.change(*commands)


def _addressing(interface: str, wanted: IPv4Interface, present: tuple[IPv4Interface, ...]) -> list[str]:
    """The commands after which ``wanted`` is the interface's only IPv4 address."""
    stale = [f"address delete {address} dev {interface}" for address in present if address != wanted]
    return [*stale, f"address replace {wanted} broadcast {wanted.network.broadcast_address} dev {interface}"]


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
