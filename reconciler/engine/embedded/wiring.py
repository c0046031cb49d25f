"""The networks of this root and the containers on them: from rows to bridges, veth pairs and firewall rules."""

from __future__ import annotations

import socket
import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

from reconciler.engine.embedded.container_rows import ContainerRow
from reconciler.engine.embedded.records import NetworkRow
from reconciler.engine.embedded.state import State
from reconciler.errors import ConflictError, NotFoundError, RefusedError
from reconciler.linux import namespaces
from reconciler.model.address import Address
from reconciler.model.canonical import Form
from reconciler.model.observed import Drift
from reconciler.model.resources import Network, Port
from reconciler.network import hosts, names, sysctl
from reconciler.network.addresses import mac_of, pick_address, pick_subnet
from reconciler.network.firewall import Firewall
from reconciler.network.links import Links, raise_loopback
from reconciler.network.ports import port_in_use
from reconciler.network.spec import BridgeSpec, EndpointSpec, FirewallState, PortMapping

ADHOC_NETWORK = Address("network", "bridge")
"""The network of containers that belong to no stack."""


def without_stack(address: Address) -> Address:
    """What an external network or volume of a stack means: the one of that name that belongs to no stack."""
    return Address(address.kind, address.short)


def bridge_spec(row: NetworkRow) -> BridgeSpec:
    return BridgeSpec(row.address.name, row.bridge, row.subnet, row.gateway)


class Wiring:
    """Safe to use from several threads. Opens its netlink socket at the first use."""

    def __init__(self, state: State, *, may_set_sysctls: bool = True) -> None:
        self._state = state
        self._may_set_sysctls = may_set_sysctls
        self._lock = threading.RLock()
        self._links: Links | None = None
        self.firewall = Firewall(state.identity.id)

    @property
    def links(self) -> Links:
        with self._lock:
            if self._links is None:
                self._links = Links(self._state.identity.id)
            return self._links

    def close(self) -> None:
        if self._links is not None:
            self._links.close()

    # Networks

    def ensure(self, address: Address, network: Network, form: Form) -> bool:
        """Makes a network, or puts back what is missing of it. True when anything had to be done."""
        with self._lock:
            rows = self._state.networks.all()
            row = rows.get(address)
            wanted = self._row(address, network, form, rows) if row is None else replace(row, form=form)
            if row is None and self._is_forwarding_refused():
                raise RefusedError("the kernel does not forward packets", hint="set net.ipv4.ip_forward=1 on this host")
            changed = wanted != row
            if changed:
                self._state.networks.set(wanted)
            if self.links.bridge_drift(bridge_spec(wanted)):
                self.links.ensure_bridge(bridge_spec(wanted))
                changed = True
            if self._may_set_sysctls and not sysctl.enable_forwarding():
                changed = True
            wanted_rules = self.firewall_state()
            if self.firewall.observe(wanted_rules):
                self.firewall.apply(wanted_rules)
                changed = True
            return changed

    def remove(self, address: Address) -> bool:
        """Takes a network away. Raises ``ConflictError`` while containers are on it."""
        with self._lock:
            row = self._state.networks.all().get(address)
            if row is None:
                return False
            try:
                self._state.networks.drop(address)
            except sqlite3.IntegrityError:
                raise ConflictError(f"network {address.name} still has containers", hint="remove them first") from None
            self.links.delete_bridge(row.bridge)
            state = self.firewall_state()
            if state.networks:
                self.firewall.apply(state)
            else:
                self.firewall.destroy()
            return True

    def drift(self, row: NetworkRow, firewall_drift: Iterable[str]) -> tuple[Drift, ...]:
        """How a network's kernel side differs from what was made. Writes nothing."""
        found = [*self.links.bridge_drift(bridge_spec(row)), *firewall_drift]
        return tuple(Drift("kernel", "as made", text) for text in found)

    def _row(self, address: Address, network: Network, form: Form, rows: dict[Address, NetworkRow]) -> NetworkRow:
        taken = [*self.links.host_routes(), *(row.subnet for row in rows.values())]
        if network.subnet is not None:
            clash = next((other for other in taken if other.overlaps(network.subnet)), None)
            if clash is not None:
                raise ConflictError(
                    f"subnet {network.subnet} of {address} overlaps {clash}, which is in use on this host",
                    hint="choose another subnet, or leave it out",
                )
        subnet = network.subnet or pick_subnet(taken)
        return NetworkRow(address, form, subnet, names.bridge(self._state.identity.id, str(address)))

    def _is_forwarding_refused(self) -> bool:
        return not self._may_set_sysctls and not sysctl.forwarding()

    # Containers on networks

    def connect(self, row: ContainerRow) -> tuple[EndpointSpec, ...]:
        """A network namespace with an address on each of the container's networks. The bridges must be there."""
        namespace = self._state.netns(row.id)
        namespace.parent.mkdir(parents=True, exist_ok=True)
        namespaces.create(namespace)
        endpoints = tuple(
            self._endpoint(row, Address.parse(network), f"eth{index}")
            for index, network in enumerate(row.settings.networks)
        )
        if not endpoints:
            raise_loopback(namespace)
        for endpoint in endpoints:
            self.links.attach(namespace, endpoint)
        return endpoints

    def disconnect(self, container_id: str) -> None:
        """Takes away namespace, addresses and published ports; a no-op for a container that has none."""
        self.firewall.unpublish(self.published(container_id))
        namespaces.delete(self._state.netns(container_id))
        with self._state.database.transaction() as connection:
            connection.execute("DELETE FROM endpoints WHERE container = ?", (container_id,))
            connection.execute("DELETE FROM published WHERE container = ?", (container_id,))

    def publish(self, row: ContainerRow, endpoints: tuple[EndpointSpec, ...]) -> None:
        """Publishes the container's ports. Raises ``ConflictError`` naming who holds a port."""
        if not row.settings.ports or not endpoints:
            return
        with self._lock:
            mappings = [self._mapping(port, endpoints[0].address) for port in row.settings.ports]
            with self._state.database.transaction() as connection:
                connection.executemany(
                    "INSERT OR REPLACE INTO published VALUES (?, ?, ?, ?, ?, ?)",
                    [
                        (m.host_address, m.host_port, m.protocol, row.id, str(m.container_address), m.container_port)
                        for m in mappings
                    ],
                )
            self.firewall.publish(mappings)

    def published_by_container(self) -> dict[str, list[PortMapping]]:
        """The ports published now, by container id."""
        owners = {row["container"] for row in self._state.database.query("SELECT container FROM published")}
        return {owner: list(self.published(owner)) for owner in owners}

    def published(self, container_id: str | None = None) -> tuple[PortMapping, ...]:
        """The ports published now, of one container or of all."""
        rows = self._state.database.query(
            "SELECT * FROM published WHERE container = coalesce(?, container) ORDER BY container, host_port",
            (container_id,),
        )
        return tuple(
            PortMapping(
                row["host_address"],
                row["host_port"],
                IPv4Address(row["container_address"]),
                row["container_port"],
                row["protocol"],
            )
            for row in rows
        )

    def firewall_state(self) -> FirewallState:
        networks = tuple(bridge_spec(row) for row in self._state.networks.all().values())
        return FirewallState(networks, self.published())

    def addresses(self) -> dict[str, dict[str, IPv4Address]]:
        """Container id to network to address."""
        found: dict[str, dict[str, IPv4Address]] = {}
        for row in self._state.database.query("SELECT container, network, address FROM endpoints"):
            found.setdefault(row["container"], {})[row["network"]] = IPv4Address(row["address"])
        return found

    def _endpoint(self, row: ContainerRow, network: Address, interface: str) -> EndpointSpec:
        with self._lock, self._state.database.transaction() as connection:
            networks = self._state.networks.all()
            place = networks.get(network) or networks.get(without_stack(network))
            if place is None:
                raise NotFoundError(f"{network} of container {row.shown} is not there", hint="apply the specs again")
            network = place.address
            taken = {
                found["container"]: IPv4Address(found["address"])
                for found in connection.execute("SELECT * FROM endpoints WHERE network = ?", (str(network),))
            }
            address = taken.get(row.id) or pick_address(place.subnet, set(taken.values()), place.last_address)
            connection.execute(
                "INSERT OR REPLACE INTO endpoints VALUES (?, ?, ?, ?)", (row.id, str(network), str(address), interface)
            )
            self._state.networks.set(replace(place, last_address=address))
        return EndpointSpec(
            row.id,
            bridge_spec(place),
            interface,
            address,
            mac_of(address),
            names.endpoint(self._state.identity.id, str(network), row.id),
        )

    def _mapping(self, port: Port, address: IPv4Address) -> PortMapping:
        host_port = port.host_port or _free_port(port, {mapping.host_port for mapping in self.published()})
        holder = port_in_use(port.host_address, host_port, port.protocol)
        if holder is not None:
            raise ConflictError(
                f"port {host_port}/{port.protocol} of this host is in use by {holder}", hint="publish on another port"
            )
        return PortMapping(port.host_address, host_port, address, port.container_port, port.protocol)


def _free_port(port: Port, taken: set[int]) -> int:
    """A port that the kernel would give to a listener now, and that we have not published."""
    kind = socket.SOCK_STREAM if port.protocol == "tcp" else socket.SOCK_DGRAM
    for _ in range(100):
        with socket.socket(socket.AF_INET, kind) as probe:
            probe.bind((port.host_address, 0))
            number = int(probe.getsockname()[1])
        if number not in taken:
            return number
    raise ConflictError("no free host port was found", hint="write the host port in the spec")


def write_name_files(directory: Path, row: ContainerRow, own: Iterable[IPv4Address]) -> None:
    """The hosts, resolv.conf and hostname files of a container; ``refresh_hosts`` adds the peers."""
    directory.mkdir(mode=0o755, exist_ok=True)
    upstream = Path(hosts.SYSTEMD_RESOLVED)
    resolv = hosts.resolv_conf(_text(Path("/etc/resolv.conf")), _text(upstream))
    (directory / "resolv.conf").write_text(resolv)
    (directory / "hostname").write_text(hosts.hostname_file(row.settings.hostname))
    (directory / "hosts").write_text(hosts.hosts(row.settings.hostname, list(own)))


def refresh_hosts(state: State, wiring: Wiring, networks: Iterable[str]) -> None:
    """Rewrites /etc/hosts of every running container on ``networks``, so that peers know each other by name.

    In place: the files are bind-mounted, and a renamed file would not be seen inside.
    """
    touched = set(networks)
    placed = wiring.addresses()
    rows = {row.id: row for row in state.containers.all() if row.id in placed}
    for container_id, row in rows.items():
        mine = placed[container_id]
        if not touched & set(mine):
            continue
        peers = [
            (name, address)
            for other_id, other in rows.items()
            if other_id != container_id
            for network, address in placed[other_id].items()
            if network in mine
            for name in _peer_names(other)
        ]
        path = state.container_dir(container_id) / "names" / "hosts"
        if path.parent.is_dir():
            path.write_text(hosts.hosts(row.settings.hostname, list(mine.values()), peers))


def _peer_names(row: ContainerRow) -> list[str]:
    if row.name is None:
        return []
    return [row.address.short if row.address else row.name]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
