"""The networks of this root and the containers on them: from rows to bridges, veth pairs and firewall rules."""

from __future__ import annotations

import socket
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from reconciler.engine.embedded.containers.rows import ContainerRow
from reconciler.engine.embedded.records import NetworkRow
from reconciler.engine.embedded.state import State
from reconciler.errors import ConflictError, HostError, NotFoundError, RefusedError
from reconciler.linux import namespaces
from reconciler.model.address import Address
from reconciler.model.canonical import Form
from reconciler.model.resources import Network, Port
from reconciler.network import names, ruleset, sysctl
from reconciler.network.addresses import mac_of, pick_address, pick_subnet
from reconciler.network.firewall import Firewall
from reconciler.network.links import Links, raise_loopback
from reconciler.network.ports import port_in_use
from reconciler.network.spec import BridgeSpec, EndpointSpec, FirewallState, PortMapping

if TYPE_CHECKING:
    from reconciler.model.observed import Drift

ADHOC_NETWORK = Address("network", "bridge")
"""The network of containers that belong to no stack."""


def without_stack(address: Address) -> Address:
    """What an external network or volume of a stack means: the one of that name that belongs to no stack."""
    return Address(address.kind, address.short)


def bridge_spec(row: NetworkRow) -> BridgeSpec:
    return BridgeSpec(row.address.name, row.bridge, row.subnet, row.gateway)


class Wiring:
    """Safe to use from several threads."""

    def __init__(self, state: State, *, may_set_sysctls: bool = True) -> None:
        self._state = state
        self._may_set_sysctls = may_set_sysctls
        self._lock = threading.RLock()
        self.links = Links(state.identity.id)
        self.firewall = Firewall(state.identity.id)

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
            if self._state.database.query("SELECT 1 FROM endpoints WHERE network = ?", (str(address),)):
                raise ConflictError(f"network {address.name} still has containers", hint="remove them first")
            # The row goes last: as long as anything is left, there is something that names it.
            self.links.delete_bridge(row.bridge)
            state = self.firewall_state(without=address)
            if state.networks:
                self.firewall.apply(state)
            else:
                self.firewall.destroy()
            self._state.networks.drop(address)
            return True

    def sweep(self, containers: Collection[str]) -> None:
        """Takes away what this root has in the kernel and no row names; ``containers`` are the ids of all rows."""
        from reconciler.network.sweep import sweep

        with self._lock:
            sweep(
                self.links,
                self.firewall,
                self._state.run / "netns",
                containers=containers,
                endpoints=self._endpoints(),
                state=self.firewall_state(),
            )

    def drift(self, row: NetworkRow, firewall_drift: Iterable[str]) -> tuple[Drift, ...]:
        """How a network's kernel side differs from what was made. Writes nothing."""
        from reconciler.model.observed import Drift

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

    def place(self, row: ContainerRow) -> tuple[EndpointSpec, ...]:
        """A network namespace, and an address on each of the container's networks: what ``attaching`` then joins."""
        namespaces.create(self._state.netns(row.id))
        return tuple(
            self._endpoint(row, Address.parse(network), f"eth{index}")
            for index, network in enumerate(row.settings.networks)
        )

    @contextmanager
    def attaching(self, row: ContainerRow, endpoints: tuple[EndpointSpec, ...]) -> Iterator[None]:
        """Joins a placed container to its networks while the block runs; the bridges must be there.

        The OCI runtime needs only the namespace until the program starts, and it is waited for meanwhile.
        """
        failures: list[BaseException] = []

        def attach() -> None:
            try:
                self._attach(row, endpoints)
            except BaseException as error:  # noqa: BLE001  it is raised again in the caller's thread
                failures.append(error)

        thread = threading.Thread(target=attach, name="attach")
        thread.start()
        try:
            yield
        finally:
            thread.join()
        if failures:
            raise failures[0]

    def _attach(self, row: ContainerRow, endpoints: tuple[EndpointSpec, ...]) -> None:
        namespace = self._state.netns(row.id)
        if not endpoints:
            raise_loopback(namespace)
        for endpoint in endpoints:
            self.links.attach(namespace, endpoint)

    def disconnect(self, container_id: str) -> None:
        """Takes away namespace, addresses and published ports; a no-op for a container that has none."""
        self.firewall.unpublish(self.published(container_id))
        namespaces.delete(self._state.netns(container_id))
        if not self.networks_of(container_id):
            return
        with self._state.database.transaction() as connection:
            connection.execute("DELETE FROM published WHERE container = ?", (container_id,))
            connection.execute("DELETE FROM endpoints WHERE container = ?", (container_id,))

    def publish(self, row: ContainerRow, endpoints: tuple[EndpointSpec, ...]) -> None:
        """Publishes the container's ports: before its program runs, so that no client finds the port closed.

        A port without a number of its own gets another free one at every start, as Docker has it. Raises
        ``ConflictError`` naming who holds a port, ``HostError`` for an address that this host does not have.
        """
        if not row.settings.ports or not endpoints:
            return
        with self._lock:
            others = {
                container: ports for container, ports in self.published_by_container().items() if container != row.id
            }
            taken = [mapping for ports in others.values() for mapping in ports]
            mappings: list[PortMapping] = []
            for port in row.settings.ports:
                mappings.append(self._mapping(port, endpoints[0].address, [*taken, *mappings]))
            self._refuse_taken(mappings, others)
            with self._state.database.transaction() as connection:
                connection.executemany(
                    "INSERT INTO published VALUES (?, ?, ?, ?, ?, ?)",
                    [
                        (m.host_address, m.host_port, m.protocol, row.id, str(m.container_address), m.container_port)
                        for m in mappings
                    ],
                )
            self.firewall.publish(mappings)

    def require_free(self, ports: Iterable[Port]) -> None:
        """Raises ``ConflictError`` when another program listens on one of the ports.

        What containers publish is no obstacle yet: the one that is to be replaced may publish the same.
        """
        for port in ports:
            # Only a port that somebody chose can be in anybody's way.
            holder = port_in_use(port.host_address, port.host_port, port.protocol) if port.host_port else None
            if port.host_port and holder is not None:
                raise _taken(port.host_port, port.protocol, holder)

    def _refuse_taken(self, mappings: list[PortMapping], others: dict[str, list[PortMapping]]) -> None:
        """Sockets show neither what this root publishes nor what others do: rules redirect before they are asked."""
        for mapping in mappings:
            for container, ports in others.items():
                if any(ruleset.overlaps(mapping, ruleset.key(port)) for port in ports):
                    holder = self._state.containers.get(container).shown
                    raise _taken(mapping.host_port, mapping.protocol, f"container {holder}")
        for mapping in self.firewall.published_by_others(mappings):
            raise _taken(mapping.host_port, mapping.protocol, "a container of another root")

    def published_by_container(self) -> dict[str, list[PortMapping]]:
        """The ports published now, by container id."""
        found: dict[str, list[PortMapping]] = {}
        for row in self._state.database.query("SELECT * FROM published ORDER BY container, host_port"):
            found.setdefault(row["container"], []).append(_port_mapping(row))
        return found

    def published(self, container_id: str) -> tuple[PortMapping, ...]:
        """The ports of one container that are published now."""
        rows = self._state.database.query("SELECT * FROM published WHERE container = ?", (container_id,))
        return tuple(_port_mapping(row) for row in rows)

    def firewall_state(self, *, without: Address | None = None) -> FirewallState:
        """What the firewall should be by the rows, perhaps but for one network."""
        rows = self._state.networks.all().values()
        ports = tuple(port for ports in self.published_by_container().values() for port in ports)
        return FirewallState(tuple(bridge_spec(row) for row in rows if row.address != without), ports)

    def networks_of(self, container_id: str) -> frozenset[str]:
        """The addresses of the networks that a container is on now."""
        rows = self._state.database.query("SELECT network FROM endpoints WHERE container = ?", (container_id,))
        return frozenset(row["network"] for row in rows)

    def _endpoints(self) -> list[EndpointSpec]:
        networks = self._state.networks.all()
        return [
            self._spec(row["container"], networks[Address.parse(row["network"])], row["interface"], row["address"])
            for row in self._state.database.query("SELECT * FROM endpoints")
        ]

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
        return self._spec(row.id, place, interface, str(address))

    def _spec(self, container_id: str, place: NetworkRow, interface: str, address: str) -> EndpointSpec:
        return EndpointSpec(
            container_id,
            bridge_spec(place),
            interface,
            IPv4Address(address),
            mac_of(IPv4Address(address)),
            names.endpoint(self._state.identity.id, str(place.address), container_id),
        )

    def _mapping(self, port: Port, address: IPv4Address, taken: list[PortMapping]) -> PortMapping:
        self.require_free([port])
        host_port = port.host_port or _free_port(port, {mapping.host_port for mapping in taken})
        return PortMapping(port.host_address, host_port, address, port.container_port, port.protocol)


def _taken(host_port: int, protocol: str, holder: str) -> ConflictError:
    return ConflictError(
        f"port {host_port}/{protocol} of this host is in use by {holder}", hint="publish on another port"
    )


def _port_mapping(row: sqlite3.Row) -> PortMapping:
    return PortMapping(
        row["host_address"],
        row["host_port"],
        IPv4Address(row["container_address"]),
        row["container_port"],
        row["protocol"],
    )


def _free_port(port: Port, taken: set[int]) -> int:
    """A port that the kernel would give to a listener now, and that we have not published."""
    kind = socket.SOCK_STREAM if port.protocol == "tcp" else socket.SOCK_DGRAM
    for _ in range(100):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind((port.host_address, 0))
            except OSError as error:
                raise HostError(
                    f"cannot publish on {port.host_address}: {error.strerror}",
                    hint="publish on an address of this host, or leave the address out",
                ) from error
            number = int(probe.getsockname()[1])
        if number not in taken:
            return number
    raise ConflictError("no free host port was found", hint="write the host port in the spec")
