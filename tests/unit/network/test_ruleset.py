"""The rules as text."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from reconciler.errors import ConflictError, InvalidError
from reconciler.network.firewall import Firewall
from reconciler.network.ruleset import CHAINS, change, overlaps, render
from reconciler.network.spec import BridgeSpec, FirewallState, PortMapping

FRONT = BridgeSpec("shop/front", "rcb1", IPv4Network("10.1.0.0/24"), IPv4Address("10.1.0.1"))
WEB = PortMapping("", 8080, IPv4Address("10.1.0.2"), 80)
DNS = PortMapping("127.0.0.1", 53, IPv4Address("10.1.0.2"), 5353, "udp")


def test_the_table_is_replaced_in_one_transaction() -> None:
    lines = render("t", FirewallState()).splitlines()
    assert lines[:3] == ["add table ip t", "delete table ip t", "table ip t {"]
    assert lines[-1] == "}"


def test_networks_and_ports_become_elements() -> None:
    text = render("t", FirewallState((FRONT,), (WEB, DNS)))
    assert "set bridges { type ifname; elements = { rcb1 } }" in text
    assert "set same { type ifname . ifname; elements = { rcb1 . rcb1 } }" in text
    assert "flags interval; elements = { 10.1.0.0/24 } }" in text
    assert "elements = { tcp . 8080 : 10.1.0.2 . 80 } }" in text
    assert "elements = { 127.0.0.1 . udp . 53 : 10.1.0.2 . 5353 } }" in text


def test_rules_are_told_apart_by_their_comments() -> None:
    comments = [comment for chain in CHAINS for comment, _ in chain.rules]
    assert len(set(comments)) == len(comments)


def test_the_order_of_networks_and_ports_does_not_matter() -> None:
    other = BridgeSpec("shop/back", "rcb2", IPv4Network("10.2.0.0/24"), IPv4Address("10.2.0.1"))
    assert render("t", FirewallState((FRONT, other), (WEB, DNS))) == render(
        "t", FirewallState((other, FRONT), (DNS, WEB))
    )


def test_a_change_is_one_command_per_mapping() -> None:
    assert change("add", "t", [WEB, DNS]) == (
        "add element ip t published { tcp . 8080 : 10.1.0.2 . 80 }\n"
        "add element ip t published_at { 127.0.0.1 . udp . 53 : 10.1.0.2 . 5353 }\n"
    )


@pytest.mark.parametrize("address", ["::1", "::", "localhost", "1.2.3.4 }; flush ruleset; {"])
def test_n02_only_ipv4_addresses_can_be_published_on(address: str) -> None:
    with pytest.raises(InvalidError, match="not an IPv4 address"):
        render("t", FirewallState((FRONT,), (PortMapping(address, 80, IPv4Address("10.1.0.2"), 80),)))


def test_one_port_for_two_containers_is_a_conflict_before_anything_changes() -> None:
    rival = PortMapping("0.0.0.0", 8080, IPv4Address("10.1.0.3"), 80)
    with pytest.raises(ConflictError, match="same port"):
        Firewall("r").apply(FirewallState((FRONT,), (WEB, rival)))


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("udp . 53", True),
        ("127.0.0.1 . udp . 53", True),
        ("127.0.0.2 . udp . 53", False),
        ("tcp . 53", False),
        ("udp . 54", False),
    ],
)
def test_mappings_overlap_when_one_packet_fits_both(key: str, expected: bool) -> None:
    assert overlaps(DNS, key) is expected
    assert overlaps(WEB, "127.0.0.1 . tcp . 8080")


def test_a_mapping_prints_as_people_write_it() -> None:
    assert str(WEB) == "0.0.0.0:8080->10.1.0.2:80/tcp"
