"""What the network is asked to be: values without behaviour, complete enough to rebuild everything from them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Literal

from reconciler.value import dataclass

Protocol = Literal["tcp", "udp"]


@dataclass(frozen=True, slots=True)
class BridgeSpec:
    """One network: a bridge on this host that is the gateway of its subnet."""

    name: str
    """The shown name, such as ``shop/front``; for messages only."""
    bridge: str
    """The interface name, at most 15 bytes (``names.bridge``)."""
    subnet: IPv4Network
    gateway: IPv4Address


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """One container's place on one network: a veth pair between its namespace and the bridge."""

    container_id: str
    network: BridgeSpec
    interface: str
    """The name inside the container: ``eth0`` for the first network. Only ``eth0`` gets the default route."""
    address: IPv4Address
    mac: str
    host_interface: str
    """The name of the end on the host, at most 15 bytes (``names.endpoint``)."""


@dataclass(frozen=True, slots=True)
class PortMapping:
    """One published port. ``host_address`` is empty for every IPv4 address of the host, else one IPv4 address."""

    host_address: str
    host_port: int
    container_address: IPv4Address
    container_port: int
    protocol: Protocol = "tcp"

    def __str__(self) -> str:
        return (
            f"{self.host_address or '0.0.0.0'}:{self.host_port}->"
            f"{self.container_address}:{self.container_port}/{self.protocol}"
        )


@dataclass(frozen=True, slots=True)
class FirewallState:
    """Everything the firewall has to know of one root."""

    networks: tuple[BridgeSpec, ...] = ()
    ports: tuple[PortMapping, ...] = ()
