"""The address plan: which subnet a network gets and which address a container gets. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv4Network

from reconciler.errors import HostError

DEFAULT_POOL = IPv4Network("10.192.0.0/12")
SUBNET_PREFIX = 24


def pick_subnet(
    taken: Iterable[IPv4Network], pool: IPv4Network = DEFAULT_POOL, *, prefix: int = SUBNET_PREFIX
) -> IPv4Network:
    """The first subnet of ``pool`` with ``prefix`` bits that overlaps nothing in ``taken``.

    ``taken`` holds the host's routes and every network already promised. A default route must not be among them.
    Raises ``HostError`` when the pool is used up.
    """
    ranges = sorted((int(network.network_address), int(network.broadcast_address)) for network in taken)
    size = 1 << (32 - prefix)
    start, end = int(pool.network_address), int(pool.broadcast_address)
    for low, high in ranges:
        if low >= start + size:
            break
        if high >= start:
            start = (high // size + 1) * size
    if start + size - 1 > end:
        raise HostError(
            f"no free /{prefix} is left in the address pool {pool}", hint="give the network a subnet of its own"
        )
    return IPv4Network((start, prefix))


def gateway(subnet: IPv4Network) -> IPv4Address:
    """The bridge's own address: the first usable one. ``subnet`` has a prefix of at most 30."""
    return subnet.network_address + 1


def pick_address(subnet: IPv4Network, taken: Collection[IPv4Address], last: IPv4Address | None = None) -> IPv4Address:
    """The next free address after ``last``, going round.

    So an address that was freed comes back only after all others had their turn: peers that still have the old owner
    in a cache do not meet a stranger. Network, gateway and broadcast addresses are never given. Raises ``HostError``
    when none is free.
    """
    first = int(gateway(subnet)) + 1
    count = int(subnet.broadcast_address) - first
    offset = min(max(int(last) - first + 1, 0), count) if last is not None else 0
    used = {int(address) for address in taken}
    # Among len(used) + 1 candidates one is free, so this never walks a whole /8.
    for step in range(min(count, len(used) + 1)):
        candidate = first + (offset + step) % count
        if candidate not in used:
            return IPv4Address(candidate)
    raise HostError(
        f"all {max(count, 0)} addresses of {subnet} are in use",
        hint="remove containers from this network, or give it a larger subnet",
    )


def mac_of(address: IPv4Address) -> str:
    """A locally administered MAC address that follows from the IPv4 address: unique wherever the address is."""
    return ":".join(f"{byte:02x}" for byte in b"\x02\x72" + address.packed)
