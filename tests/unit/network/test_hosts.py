"""The files that give a container its names."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from reconciler.network.hosts import hostname_file, hosts, resolv_conf

A, B, C = (IPv4Address(f"10.0.0.{number}") for number in (2, 3, 4))


def test_hosts_names_localhost_itself_and_its_peers() -> None:
    assert hosts("web", [A], [("db", C), ("cache", B)]) == (
        "127.0.0.1\tlocalhost\n"
        "::1\tlocalhost ip6-localhost ip6-loopback\n"
        "10.0.0.2\tweb\n"
        "10.0.0.3\tcache\n"
        "10.0.0.4\tdb\n"
    )


def test_n19_without_a_network_the_own_name_still_resolves() -> None:
    assert "127.0.1.1\tweb\n" in hosts("web", [])
    assert hostname_file("web") == "web\n"


@pytest.mark.parametrize(
    ("host", "upstream", "expected"),
    [
        ("nameserver 192.0.2.1\n", "nameserver 192.0.2.9\n", "nameserver 192.0.2.1\n"),
        ("nameserver 127.0.0.53\nsearch lan\n", "nameserver 192.0.2.9\n", "nameserver 192.0.2.9\nsearch lan\n"),
        ("nameserver 127.0.0.1\nnameserver 192.0.2.1\n", "", "nameserver 192.0.2.1\n"),
        ("# nameserver 192.0.2.1\nnameserver ::1\nnameserver fe80::1%eth0\noptions ndots:2\n", "", "options ndots:2\n"),
        ("nameserver 127.0.0.1\n", "nameserver 127.0.0.2\n", ""),
        ("nameserver\nnameserver nonsense\n\n", "", ""),
    ],
)
def test_resolv_conf_names_only_servers_that_a_container_can_reach(host: str, upstream: str, expected: str) -> None:
    assert resolv_conf(host, upstream) == expected
