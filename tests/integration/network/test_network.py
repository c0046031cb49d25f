"""Packets through real bridges, namespaces and nftables."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from reconciler.errors import ConflictError, HostError
from reconciler.linux import namespaces
from reconciler.network import names, sysctl
from reconciler.network.addresses import gateway, mac_of
from reconciler.network.firewall import Firewall, foreign_drops
from reconciler.network.links import Links, raise_loopback
from reconciler.network.ports import port_in_use
from reconciler.network.spec import BridgeSpec, EndpointSpec, PortMapping
from reconciler.network.sweep import sweep

from .conftest import POOL, Net, Outside, sh

pytestmark = pytest.mark.root
HERE = Path("/proc/self/ns/net")
MakeNet = Callable[..., Net]


@contextmanager
def echo(path: Path, port: int = 80, kind: socket.SocketKind = socket.SOCK_STREAM) -> Iterator[None]:
    """Answers in a namespace with the address that the question came from."""

    def listen() -> socket.socket:
        server = socket.socket(socket.AF_INET, kind)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("0.0.0.0", port))
        if kind == socket.SOCK_STREAM:
            server.listen()
        return server

    server = namespaces.run(path, listen)

    def serve() -> None:
        while True:
            try:
                if kind == socket.SOCK_STREAM:
                    client, source = server.accept()
                    with client:
                        client.sendall(source[0].encode())
                else:
                    data, source = server.recvfrom(100)
                    if data == b"stop":
                        return
                    server.sendto(f"{port} {source[0]}".encode(), source)
            except OSError:
                return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        if kind == socket.SOCK_STREAM:
            server.shutdown(socket.SHUT_RDWR)
        else:
            address = server.getsockname()
            namespaces.run(path, lambda: _send_stop(address[1]))
        thread.join()
        server.close()


def _send_stop(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"stop", ("127.0.0.1", port))


def ask(path: Path, address: object, port: int = 80, wait: float = 3.0) -> str:
    """What the server at the address says, seen from the namespace. Raises ``OSError`` when nobody answers."""

    def call() -> str:
        with socket.create_connection((str(address), port), timeout=wait) as client:
            return client.recv(100).decode()

    return namespaces.run(path, call)


def silent(path: Path, address: object, port: int = 80) -> bool:
    try:
        ask(path, address, port, wait=0.3)
    except OSError:
        return True
    return False


def test_two_containers_on_a_bridge_reach_each_other(net: Net) -> None:
    network = net.network()
    a, b = net.container(network, "a"), net.container(network, "b")
    with echo(net.path("b")):
        assert ask(net.path("a"), b.address) == str(a.address)
    with echo(net.path("a")):
        assert ask(net.path("a"), "127.0.0.1") == "127.0.0.1"


def test_outbound_packets_carry_the_address_of_the_host(net: Net, outside: Outside) -> None:
    net.container(net.network(), "a")
    with echo(outside.path):
        assert ask(net.path("a"), outside.address) == str(outside.host_address)


def test_n04_a_published_port_answers_host_outside_and_the_container_itself(net: Net, outside: Outside) -> None:
    network = net.network()
    a = net.container(network, "a")
    net.container(network, "b")
    net.publish(PortMapping("", 18080, a.address, 80))
    with echo(net.path("a")):
        assert ask(HERE, "127.0.0.1", 18080) == str(network.gateway)
        assert ask(HERE, outside.host_address, 18080) == str(outside.host_address)
        assert ask(outside.path, outside.host_address, 18080) == str(outside.address)
        assert ask(net.path("a"), outside.host_address, 18080) == str(network.gateway)
        assert ask(net.path("b"), network.gateway, 18080) == str(network.gateway)


def test_a_port_published_at_loopback_is_closed_to_the_outside(net: Net, outside: Outside) -> None:
    a = net.container(net.network(), "a")
    net.publish(PortMapping("127.0.0.1", 18080, a.address, 80))
    with echo(net.path("a")):
        assert ask(HERE, "127.0.0.1", 18080)
        assert silent(outside.path, outside.host_address, 18080)


def test_n02_without_an_address_every_ipv4_address_answers_and_ipv6_refuses(net: Net) -> None:
    a = net.container(net.network(), "a")
    net.publish(PortMapping("", 18080, a.address, 80))
    with echo(net.path("a")):
        assert ask(HERE, "127.0.0.1", 18080)
        with pytest.raises(ConnectionRefusedError):
            ask(HERE, "::1", 18080)
        assert ask(HERE, "localhost", 18080)


def test_n13_networks_are_isolated_except_through_published_ports(net: Net, outside: Outside) -> None:
    front, back = net.network("front"), net.network("back")
    a, b = net.container(front, "a"), net.container(back, "b")
    net.publish(PortMapping("", 18080, b.address, 80))
    with echo(net.path("a")), echo(net.path("b")), echo(net.path("b"), 81):
        assert silent(net.path("a"), b.address)
        assert silent(net.path("b"), a.address)
        assert ask(net.path("a"), front.gateway, 18080)
        sh_in(outside, "ip", "route", "add", str(back.subnet), "via", str(outside.host_address))
        assert silent(outside.path, b.address, 81)


def sh_in(outside: Outside, *words: str) -> None:
    namespaces.run(outside.path, lambda: sh(*words))


def test_containers_do_not_reach_what_listens_on_the_hosts_loopback(net: Net) -> None:
    network = net.network()
    net.container(network, "a")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert ask_host_loopback(net.path("a"), network.gateway, port) is False


def ask_host_loopback(path: Path, gateway: object, port: int) -> bool:
    def call() -> bool:
        sysctl.prepare_bridge("eth0")
        sh("ip", "route", "add", "127.0.0.1/32", "via", str(gateway), "dev", "eth0", "table", "77")
        sh("ip", "rule", "add", "pref", "0", "to", "127.0.0.1", "table", "77")
        sh("ip", "rule", "add", "pref", "1", "table", "local")
        subprocess.run(["ip", "rule", "delete", "pref", "0", "table", "local"], capture_output=True)
        try:
            socket.create_connection(("127.0.0.1", port), timeout=0.3).close()
        except OSError:
            return False
        return True

    return namespaces.run(path, call)


def test_two_roots_do_not_collide(make_net: MakeNet) -> None:
    one, two = make_net("one"), make_net("two")
    first, second = one.network("front"), two.network("front")
    assert not first.subnet.overlaps(second.subnet)
    a, b = one.container(first, "same-id"), two.container(second, "same-id")
    one.publish(PortMapping("", 18081, a.address, 80))
    two.publish(PortMapping("", 18082, b.address, 80))
    rival = PortMapping("127.0.0.1", 18082, a.address, 80)
    assert one.firewall.published_by_others([*one.ports, rival]) == (rival,)
    with echo(one.path("same-id")), echo(two.path("same-id")):
        assert silent(one.path("same-id"), b.address)
        one.firewall.destroy()
        one.links.sweep(())
        assert silent(HERE, "127.0.0.1", 18081)
        assert ask(HERE, "127.0.0.1", 18082)
        assert two.firewall.observe(two.state) == ()


def test_an_interface_of_somebody_else_is_not_touched(net: Net) -> None:
    name = names.bridge(net.root_id, "front")
    sh("ip", "link", "add", name, "type", "bridge")
    sh("ip", "link", "set", name, "alias", "precious")
    try:
        with pytest.raises(ConflictError, match="precious"):
            net.network("front")
        with pytest.raises(ConflictError):
            net.links.delete_bridge(name)
        assert net.links.sweep(()) == ()
    finally:
        sh("ip", "link", "delete", name)


def test_n07_a_flushed_ruleset_is_seen_and_repaired(net: Net) -> None:
    a = net.container(net.network(), "a")
    net.publish(PortMapping("", 18080, a.address, 80))
    assert net.firewall.observe(net.state) == ()
    sh("nft", "delete", "table", "ip", names.table(net.root_id))
    assert "is gone" in net.firewall.observe(net.state)[0]
    with pytest.raises(HostError):
        net.firewall.publish(net.ports)
    net.firewall.apply(net.state)
    assert net.firewall.observe(net.state) == ()
    with echo(net.path("a")):
        assert ask(HERE, "127.0.0.1", 18080)


@pytest.mark.parametrize(
    ("command", "seen"),
    [
        ("flush chain ip {} forward", "chain forward"),
        ("flush map ip {} published", "published lacks tcp . 18080"),
        ("add element ip {} published {{ tcp . 9 : 10.0.0.1 . 9 }}", "published has tcp . 9 : 10.0.0.1 . 9 too many"),
        ("add rule ip {} guard accept", "chain guard"),
    ],
)
def test_n07_every_kind_of_drift_is_named(net: Net, command: str, seen: str) -> None:
    a = net.container(net.network(), "a")
    net.publish(PortMapping("", 18080, a.address, 80))
    sh("nft", command.format(names.table(net.root_id)))
    drift = net.firewall.observe(net.state)
    assert len(drift) == 1
    assert seen in drift[0]
    net.firewall.apply(net.state)
    assert net.firewall.observe(net.state) == ()


def test_publishing_twice_is_fine_and_a_taken_port_is_a_conflict(net: Net) -> None:
    network = net.network()
    a, b = net.container(network, "a"), net.container(network, "b")
    ours, theirs = PortMapping("", 18080, a.address, 80), PortMapping("", 18080, b.address, 80)
    net.publish(ours)
    net.firewall.publish([ours])
    with pytest.raises(ConflictError):
        net.firewall.publish([PortMapping("", 18081, b.address, 80), theirs])
    assert net.firewall.observe(net.state) == ()
    net.firewall.unpublish([theirs])
    assert net.firewall.observe(net.state) == ()
    net.firewall.unpublish([theirs, ours])
    net.firewall.unpublish([ours])
    net.ports.clear()
    assert net.firewall.observe(net.state) == ()


def test_n05_udp_clients_follow_a_port_to_its_new_container(net: Net) -> None:
    network = net.network()
    a, b = net.container(network, "a"), net.container(network, "b")
    first, second = PortMapping("", 18053, a.address, 53, "udp"), PortMapping("", 18053, b.address, 54, "udp")
    net.firewall.publish([first])
    with (
        echo(net.path("a"), 53, socket.SOCK_DGRAM),
        echo(net.path("b"), 54, socket.SOCK_DGRAM),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(3)
        client.sendto(b"x", ("127.0.0.1", 18053))
        assert client.recv(100).startswith(b"53 ")
        net.firewall.unpublish([first])
        client.sendto(b"x", ("127.0.0.1", 18053))  # now the kernel remembers a flow to nobody
        net.firewall.publish([second])
        client.sendto(b"x", ("127.0.0.1", 18053))
        assert client.recv(100).startswith(b"54 ")


def test_n11_attach_repeats_without_cutting_the_network(net: Net) -> None:
    network = net.network()
    a, b = net.container(network, "a"), net.container(network, "b")
    before = interfaces()
    net.links.attach(net.path("a"), a)
    net.links.ensure_bridge(network)
    assert interfaces() == before
    with echo(net.path("b")):
        assert ask(net.path("a"), b.address)


def test_n11_attach_converges_after_half_an_attach(net: Net) -> None:
    network = net.network()
    a = net.container(network, "a")
    namespaces.delete(net.path("a"))
    net.path("a").touch()
    namespaces.create(net.path("a"))
    net.links.attach(net.path("a"), a)
    namespaces.run(net.path("a"), lambda: sh("ip", "address", "flush", "dev", "eth0"))
    assert net.links.endpoint_drift(a) == ()
    sh("ip", "link", "set", a.host_interface, "nomaster", "down")
    assert len(net.links.endpoint_drift(a)) == 2
    net.links.attach(net.path("a"), a)
    assert net.links.endpoint_drift(a) == ()
    with echo(net.path("a")):
        assert ask(HERE, a.address)
    sh("ip", "link", "delete", a.host_interface)
    assert "is gone" in net.links.endpoint_drift(a)[0]


def test_n11_a_sweep_leaves_what_is_owned_and_nothing_else(net: Net) -> None:
    network = net.network()
    a = net.container(network, "a")
    net.container(network, "lost")
    net.publish(PortMapping("", 18080, a.address, 80))
    net.firewall.publish([PortMapping("", 18081, net.endpoints[1].address, 80)])
    swept = sweep(net.links, net.firewall, net.directory, containers={"a"}, endpoints=[a], state=net.state)
    assert swept.namespaces == ("lost",)
    assert "18081" in swept.firewall[0]
    assert interfaces() >= {network.bridge, a.host_interface}
    assert net.endpoints[1].host_interface not in interfaces()
    assert net.firewall.observe(net.state) == ()
    with echo(net.path("a")):
        assert ask(HERE, "127.0.0.1", 18080)


def test_n11_repeated_attach_and_detach_leave_nothing(net: Net) -> None:
    network = net.network()
    for number in range(20):
        endpoint = net.container(network, f"c{number}")
        if number % 2:
            net.links.detach(endpoint)
        namespaces.delete(net.path(f"c{number}"))
    net.links.sweep({network.bridge})
    net.links.delete_bridge(network.bridge)
    net.links.delete_bridge(network.bridge)
    assert own_interfaces(net) == set()
    assert list(net.directory.iterdir()) == []


def test_containers_join_and_leave_from_many_threads(net: Net) -> None:
    network = net.network()

    def cycle(number: int) -> None:
        name, address = f"c{number}", network.subnet[number + 2]
        host = names.endpoint(net.root_id, "front", name)
        endpoint = EndpointSpec(name, network, "eth0", address, mac_of(address), host)
        port = PortMapping("", 18100 + number, address, 80)
        namespaces.create(net.path(name))
        net.links.attach(net.path(name), endpoint)
        net.firewall.publish([port])
        with echo(net.path(name)):
            assert ask(HERE, "127.0.0.1", 18100 + number) == str(network.gateway)
        net.firewall.unpublish([port])
        net.links.detach(endpoint)
        namespaces.delete(net.path(name))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(cycle, range(12)))
    assert own_interfaces(net) == {network.bridge}
    assert net.firewall.observe(net.state) == ()


def test_bridge_drift_is_seen_and_repaired(net: Net) -> None:
    network = net.network()
    assert net.links.bridge_drift(network) == ()
    sh("ip", "address", "flush", "dev", network.bridge)
    sh("ip", "address", "add", "192.0.2.200/32", "dev", network.bridge)
    sh("ip", "link", "set", network.bridge, "down")
    assert len(net.links.bridge_drift(network)) == 2
    net.links.ensure_bridge(network)
    assert net.links.bridge_drift(network) == ()
    sh("ip", "link", "delete", network.bridge)
    assert "is gone" in net.links.bridge_drift(network)[0]


def test_n16_the_mtu_of_the_default_route_is_inherited(outside: Outside, tmp_path: Path) -> None:
    device = namespaces.run(outside.path, interfaces) - {"lo"}
    container = tmp_path / "inner"
    namespaces.create(container)

    def on_a_host_behind_a_tunnel() -> tuple[int, str, str]:
        sh("ip", "link", "set", device.pop(), "mtu", "1380")
        links = Links("r")
        assert links.inherited_mtu() == 1500
        sh("ip", "route", "add", "default", "via", str(outside.host_address))
        network = BridgeSpec("n", names.bridge("r", "n"), POOL, gateway(POOL))
        links.ensure_bridge(network)
        endpoint = EndpointSpec("c", network, "eth0", POOL[2], mac_of(POOL[2]), names.endpoint("r", "n", "c"))
        links.attach(container, endpoint)
        outer = sh("ip", "link", "show", endpoint.host_interface)
        return links.inherited_mtu(), outer, namespaces.run(container, lambda: sh("ip", "link", "show", "eth0"))

    try:
        mtu, outer, inner = namespaces.run(outside.path, on_a_host_behind_a_tunnel)
    finally:
        namespaces.delete(container)
    assert mtu == 1380
    assert " mtu 1380 " in outer
    assert " mtu 1380 " in inner


def test_n19_without_a_network_there_is_loopback_and_it_is_up(tmp_path: Path) -> None:
    path = tmp_path / "alone"
    namespaces.create(path)
    try:
        raise_loopback(path)
        with echo(path):
            assert ask(path, "127.0.0.1") == "127.0.0.1"
        assert namespaces.run(path, interfaces) == {"lo"}
    finally:
        namespaces.delete(path)


def test_n08_a_foreign_drop_policy_is_reported() -> None:
    sh(
        "nft",
        "add table inet testwall; add chain inet testwall fw { type filter hook forward priority 5; policy drop; }",
    )
    try:
        assert "inet testwall fw" in foreign_drops()
    finally:
        sh("nft", "delete", "table", "inet", "testwall")
    assert "inet testwall fw" not in foreign_drops()


def test_n01_the_holder_of_a_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for address in ("", "127.0.0.1"):
            holder = port_in_use(address, port)
            assert holder is not None
            assert "(pid " in holder
        assert port_in_use("127.0.0.2", port) is None
        assert port_in_use("127.0.0.1", port, "udp") is None
    assert port_in_use("", port) is None
    with pytest.raises(HostError):
        port_in_use("203.0.113.7", port)


def test_attach_without_a_bridge_says_so(net: Net) -> None:
    network = net.network()
    net.links.delete_bridge(network.bridge)
    with pytest.raises(HostError, match="no bridge"):
        net.container(network, "a")


def test_destroying_what_is_not_there_is_fine(net: Net) -> None:
    Firewall(net.root_id).destroy()
    namespaces.delete(net.path("nothing"))


def test_a_namespace_is_made_once_and_run_raises_what_its_function_raises(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ns"
    namespaces.create(path)
    try:
        identity = path.stat().st_ino
        namespaces.create(path)
        assert path.stat().st_ino == identity != HERE.stat().st_ino
        assert namespaces.run(path, lambda: Path("/proc/thread-self/ns/net").stat().st_ino) == identity
        with pytest.raises(ZeroDivisionError):
            namespaces.run(path, lambda: 1 // 0)
    finally:
        namespaces.delete(path)
    assert not path.exists()
    with pytest.raises(HostError):
        namespaces.run(path, lambda: None)


def interfaces() -> set[str]:
    return {line.split(":")[1].strip().partition("@")[0] for line in sh("ip", "-o", "link").splitlines()}


def own_interfaces(net: Net) -> set[str]:
    """Those of the root alone: other roots of this machine may come and go meanwhile."""
    return {name for name in interfaces() if name.startswith(names.root_prefix(net.root_id))}
