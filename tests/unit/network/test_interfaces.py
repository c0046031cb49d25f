"""Asking for interfaces without netlink. The loopback device is there in every network namespace."""

from __future__ import annotations

from ipaddress import IPv4Interface
from pathlib import Path

from reconciler.network.interfaces import find_interface


def test_loopback_is_up_and_has_its_address() -> None:
    loopback = find_interface("lo")
    assert loopback is not None
    assert loopback.up
    assert loopback.mtu == int(Path("/sys/class/net/lo/mtu").read_text())
    assert IPv4Interface("127.0.0.1/8") in loopback.addresses


def test_an_interface_that_is_not_there_is_none() -> None:
    assert find_interface("there-is-none") is None
