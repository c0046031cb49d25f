"""The address plan."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.errors import HostError
from reconciler.network.addresses import gateway, mac_of, pick_address, pick_subnet

POOL = IPv4Network("10.192.0.0/20")


def networks(within: IPv4Network) -> st.SearchStrategy[IPv4Network]:
    first, last = int(within.network_address), int(within.broadcast_address)
    return st.builds(
        lambda address, prefix: IPv4Network((address, prefix), strict=False),
        st.integers(first, last),
        st.integers(within.prefixlen + 1, 32),
    )


@given(st.lists(networks(IPv4Network("10.192.0.0/19")), max_size=20))
def test_a_subnet_overlaps_nothing_and_none_is_missed(taken: list[IPv4Network]) -> None:
    free = [net for net in POOL.subnets(new_prefix=24) if not any(net.overlaps(other) for other in taken)]
    if free:
        assert pick_subnet(taken, POOL) == free[0]
    else:
        with pytest.raises(HostError):
            pick_subnet(taken, POOL)


def test_a_route_around_the_whole_pool_leaves_nothing() -> None:
    with pytest.raises(HostError, match="no free /24"):
        pick_subnet([IPv4Network("10.0.0.0/8")], POOL)


@given(st.sets(st.integers(0, 15), max_size=16), st.none() | st.integers(0, 15))
def test_n10_an_address_is_usable_free_and_there_when_there_is_one(used: set[int], last: int | None) -> None:
    subnet = IPv4Network("10.0.0.16/28")
    taken = {subnet[index] for index in used}
    free = [address for address in subnet.hosts() if address != gateway(subnet) and address not in taken]
    previous = None if last is None else subnet[last]
    if not free:
        with pytest.raises(HostError, match="in use"):
            pick_address(subnet, taken, previous)
        return
    picked = pick_address(subnet, taken, previous)
    later = [address for address in free if previous is not None and address > previous]
    assert picked == (later or free)[0]


def test_n10_a_freed_address_comes_back_only_after_all_others() -> None:
    subnet = IPv4Network("10.0.0.0/29")
    last = None
    given_out = []
    for _ in range(6):
        last = pick_address(subnet, (), last)
        given_out.append(str(last))
    assert given_out == ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2"]


def test_n10_a_full_subnet_and_one_without_room_are_errors_that_say_what_to_do() -> None:
    subnet = IPv4Network("10.0.0.0/30")
    assert pick_address(subnet, ()) == IPv4Address("10.0.0.2")
    with pytest.raises(HostError) as caught:
        pick_address(subnet, {IPv4Address("10.0.0.2")})
    assert "larger subnet" in caught.value.hint


def test_a_huge_subnet_is_not_walked() -> None:
    subnet = IPv4Network("10.0.0.0/8")
    assert pick_address(subnet, (), IPv4Address("10.255.255.254")) == IPv4Address("10.0.0.2")


@given(st.lists(st.ip_addresses(v=4), unique=True, min_size=2, max_size=2))
def test_mac_addresses_are_local_unicast_and_differ(pair: list[IPv4Address]) -> None:
    first, second = map(mac_of, pair)
    assert first != second
    assert int(first[:2], 16) & 0b11 == 0b10
