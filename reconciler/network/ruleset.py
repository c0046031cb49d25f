"""The nftables rules of one root, as text. Pure.

The table is of family ``ip``: containers have IPv4 only, an ``inet`` table would put its hooks in the way of all IPv6
traffic for nothing, and nftables cannot translate an IPv6 destination to an IPv4 one. So a port published without an
address answers on every IPv4 address of the host; on [::] nothing listens, a connection there is refused at once, and
clients that try ::1 or an AAAA record first fall back to IPv4.

What varies lives in sets and maps, so that one container's ports come and go as elements, atomically, while the rules
stay. A mapping at one address wins over one at all addresses.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import AddressValueError, IPv4Address

from reconciler.errors import InvalidError
from reconciler.network.spec import FirewallState, PortMapping
from reconciler.value import dataclass

ANYWHERE = ("", "0.0.0.0")
_SETS = {
    "bridges": "set bridges { type ifname;",
    "same": "set same { type ifname . ifname;",
    "subnets": "set subnets { type ipv4_addr; flags interval;",
    "published": "map published { type inet_proto . inet_service : ipv4_addr . inet_service;",
    "published_at": "map published_at { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service;",
}


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain: its name, its hook (empty for one that is only jumped to) and its rules, each with a unique comment."""

    name: str
    hook: str
    rules: tuple[tuple[str, str], ...]


CHAINS = (
    # route_localnet would let a container reach what listens on the host's 127.0.0.1 (CVE-2020-8558).
    Chain(
        "guard",
        "type filter hook prerouting priority raw; policy accept;",
        (("no-loopback", "iifname @bridges ip daddr 127.0.0.0/8 drop"),),
    ),
    Chain(
        "publish",
        "",
        (
            ("publish-at", "dnat ip to ip daddr . meta l4proto . th dport map @published_at"),
            ("publish-any", "dnat ip to meta l4proto . th dport map @published"),
        ),
    ),
    Chain(
        "prerouting",
        "type nat hook prerouting priority dstnat; policy accept;",
        (("from-outside", "fib daddr type local jump publish"),),
    ),
    Chain(
        "output",
        "type nat hook output priority -100; policy accept;",
        (("from-host", "fib daddr type local jump publish"),),
    ),
    # Into a network come its own packets, answers, and connections to published ports: from the outside, and from
    # other networks too, since published means open to whoever reaches the host. Everything else is dropped.
    Chain(
        "forward",
        "type filter hook forward priority filter; policy accept;",
        (
            ("same-network", "iifname . oifname @same accept"),
            ("answers", "oifname @bridges ct state established,related accept"),
            ("published", "oifname @bridges ct status dnat accept"),
            ("isolate", "oifname @bridges drop"),
        ),
    ),
    # The last two send answers back the way the question came: a container that reaches its own published port would
    # otherwise be answered directly, and 127.0.0.1 means somebody else inside a container.
    Chain(
        "postrouting",
        "type nat hook postrouting priority srcnat; policy accept;",
        (
            ("outbound", "ip saddr @subnets oifname != @bridges masquerade"),
            ("hairpin", "ip saddr @subnets oifname @bridges ct status dnat masquerade"),
            ("from-loopback", "ip saddr 127.0.0.0/8 oifname @bridges masquerade"),
        ),
    ),
)


def render(table: str, state: FirewallState) -> str:
    """The commands that replace the whole table in one transaction, whether or not it is there."""
    elements = contents(state)
    body = [_set(declaration, elements[name]) for name, declaration in _SETS.items()]
    body += [_chain(chain) for chain in CHAINS]
    return f"add table ip {table}\ndelete table ip {table}\ntable ip {table} {{\n" + "\n".join(body) + "\n}\n"


def contents(state: FirewallState) -> dict[str, frozenset[str]]:
    """The elements of every set and map, by its name, in the words of nft."""
    bridges = [network.bridge for network in state.networks]
    return {
        "bridges": frozenset(bridges),
        "same": frozenset(f"{bridge} . {bridge}" for bridge in bridges),
        "subnets": frozenset(str(network.subnet) for network in state.networks),
        "published": frozenset(element(port) for port in state.ports if port.host_address in ANYWHERE),
        "published_at": frozenset(element(port) for port in state.ports if port.host_address not in ANYWHERE),
    }


def map_of(port: PortMapping) -> str:
    """The map that the mapping belongs to."""
    return "published" if port.host_address in ANYWHERE else "published_at"


def key(port: PortMapping) -> str:
    """The mapping's key in its map. Raises ``InvalidError`` when the host address is not an IPv4 address."""
    tail = f"{port.protocol} . {port.host_port}"
    if port.host_address in ANYWHERE:
        return tail
    try:
        return f"{IPv4Address(port.host_address)} . {tail}"
    except AddressValueError as error:
        raise InvalidError(
            f"cannot publish on {ascii(port.host_address)}: not an IPv4 address",
            hint="containers have IPv4 only; publish on an IPv4 address, or leave the address out",
        ) from error


def overlaps(port: PortMapping, other: str) -> bool:
    """Whether a packet exists that both ``port`` and a mapping with the key ``other`` would take."""
    own, theirs = key(port).split(" . "), other.split(" . ")
    return own[-2:] == theirs[-2:] and (len(own) == 2 or len(theirs) == 2 or own == theirs)


def element(port: PortMapping) -> str:
    """Key and value as an element."""
    return f"{key(port)} : {port.container_address} . {port.container_port}"


def change(verb: str, table: str, ports: Iterable[PortMapping]) -> str:
    """One ``add`` or ``delete`` command per mapping; nft takes them as one transaction."""
    return "".join(f"{verb} element ip {table} {map_of(port)} {{ {element(port)} }}\n" for port in ports)


def _set(declaration: str, elements: frozenset[str]) -> str:
    listed = f" elements = {{ {', '.join(sorted(elements))} }}" if elements else ""
    return f"\t{declaration}{listed} }}"


def _chain(chain: Chain) -> str:
    lines = [f"\t\t{chain.hook}"] if chain.hook else []
    lines += [f'\t\t{rule} comment "{comment}"' for comment, rule in chain.rules]
    return f"\tchain {chain.name} {{\n" + "\n".join(lines) + "\n\t}"
