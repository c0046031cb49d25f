"""One root's network, an outside host, and the promise that nothing of either is left."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from reconciler.linux import namespaces
from reconciler.network import names, sysctl
from reconciler.network.addresses import gateway, mac_of, pick_address, pick_subnet
from reconciler.network.firewall import Firewall
from reconciler.network.links import Links
from reconciler.network.spec import BridgeSpec, EndpointSpec, FirewallState, PortMapping

POOL = IPv4Network("10.213.0.0/16")


def sh(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@dataclass
class Net:
    """A root with its links, firewall and namespaces, as an engine would hold them."""

    directory: Path
    root_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    networks: list[BridgeSpec] = field(default_factory=list)
    ports: list[PortMapping] = field(default_factory=list)
    endpoints: list[EndpointSpec] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.links = Links(self.root_id)
        self.firewall = Firewall(self.root_id)

    @property
    def state(self) -> FirewallState:
        return FirewallState(tuple(self.networks), tuple(self.ports))

    def network(self, name: str = "front") -> BridgeSpec:
        subnet = pick_subnet(self.links.host_routes(), POOL)
        spec = BridgeSpec(f"test/{name}", names.bridge(self.root_id, name), subnet, gateway(subnet))
        self.networks.append(spec)
        self.links.ensure_bridge(spec)
        self.firewall.apply(self.state)
        return spec

    def container(self, network: BridgeSpec, container_id: str) -> EndpointSpec:
        taken = [endpoint.address for endpoint in self.endpoints if endpoint.network == network]
        address = pick_address(network.subnet, taken)
        name = names.endpoint(self.root_id, network.name, container_id)
        endpoint = EndpointSpec(container_id, network, "eth0", address, mac_of(address), name)
        namespaces.create(self.path(container_id))
        self.links.attach(self.path(container_id), endpoint)
        self.endpoints.append(endpoint)
        return endpoint

    def publish(self, port: PortMapping) -> None:
        self.ports.append(port)
        self.firewall.publish([port])

    def path(self, container_id: str) -> Path:
        return self.directory / container_id

    def close(self) -> None:
        self.firewall.destroy()
        namespaces.sweep(self.directory, ())
        self.links.sweep(())


@pytest.fixture(autouse=True)
def forwarding() -> Iterator[None]:
    before = sysctl.enable_forwarding()
    yield
    if not before:
        Path("/proc/sys/net/ipv4/ip_forward").write_text("0")


@pytest.fixture
def make_net(tmp_path: Path) -> Iterator[type[Net]]:
    made: list[Net] = []

    def make(name: str = "one") -> Net:
        net = Net(tmp_path / name)
        made.append(net)
        return net

    yield make  # type: ignore[misc]
    for net in made:
        net.close()


@pytest.fixture
def net(make_net: type[Net]) -> Net:
    return make_net()  # type: ignore[call-arg]


@dataclass(frozen=True)
class Outside:
    """A host beyond this one: it knows the way to this host and to nothing behind it."""

    path: Path
    address: IPv4Address
    host_address: IPv4Address


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    path = tmp_path / "outside"
    here, there = IPv4Address("198.51.100.1"), IPv4Address("198.51.100.2")
    link = f"to{uuid.uuid4().hex[:8]}"
    namespaces.create(path)
    try:
        sh("ip", "link", "add", link, "type", "veth", "peer", "name", f"{link}p")
        namespaces_id = namespaces.run(path, lambda: subprocess.Popen(["sleep", "60"]))
        try:
            sh("ip", "link", "set", f"{link}p", "netns", str(namespaces_id.pid))
        finally:
            namespaces_id.kill()
            namespaces_id.wait()
        sh("ip", "address", "add", f"{here}/24", "dev", link)
        sh("ip", "link", "set", link, "up")
        for command in (f"address add {there}/24 dev {link}p", f"link set {link}p up", "link set lo up"):
            namespaces.run(path, lambda command=command: sh("ip", *command.split()))  # type: ignore[misc]
        yield Outside(path, there, here)
    finally:
        namespaces.delete(path)
        subprocess.run(["ip", "link", "delete", link], capture_output=True)
