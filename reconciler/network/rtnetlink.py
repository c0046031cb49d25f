"""The few rtnetlink(7) requests that a bridge network needs, each one message, each safe to repeat."""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from reconciler.network.netlink import (
    CREATE,
    EXCLUSIVE,
    REPLACE,
    Netlink,
    attribute,
    attributes,
    nested,
    number,
    text,
)

_NEW_LINK, _DELETE_LINK, _GET_LINK, _SET_LINK = 16, 17, 18, 19
_NEW_ADDRESS, _DELETE_ADDRESS, _GET_ADDRESS = 20, 21, 22
_NEW_ROUTE, _GET_ROUTE = 24, 26
_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
_IFLA_ADDRESS, _IFLA_NAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER = 1, 3, 4, 5, 10
_IFLA_INFO, _IFLA_ALIAS, _IFLA_NET_NS_FD = 18, 20, 28
_IFLA_PROTINFO, _BRIDGE_PORT_HAIRPIN = 12, 4
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_RTA_DESTINATION, _RTA_OUT, _RTA_GATEWAY, _RTA_METRIC = 1, 4, 5, 6
_RT_TABLE_LOCAL, _RT_TABLE_MAIN, _RTPROT_BOOT, _RTN_UNICAST = 255, 254, 3, 1
_UP = 1


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface as the kernel reports it. ``peer`` is the other end's index for a veth, else 0."""

    index: int
    name: str
    up: bool
    mtu: int
    mac: str
    alias: str
    master: int
    peer: int


@dataclass(frozen=True, slots=True)
class Route:
    """An IPv4 unicast route: where to, by which interface, and its metric (smaller wins)."""

    destination: IPv4Network
    out: int
    metric: int


def links(netlink: Netlink) -> list[Link]:
    """All interfaces of the socket's namespace."""
    return [_link(body) for body in netlink.dump(_GET_LINK, _LINK.pack(0, 0, 0, 0, 0))]


def find_link(netlink: Netlink, name: str) -> Link | None:
    """One interface by name."""
    try:
        answers = netlink.request(_GET_LINK, _LINK.pack(0, 0, 0, 0, 0) + text(_IFLA_NAME, name))
    except OSError as error:
        if error.errno == errno.ENODEV:
            return None
        raise
    return _link(answers[0])


def link_at(netlink: Netlink, index: int) -> Link:
    """One interface by index."""
    return _link(netlink.request(_GET_LINK, _LINK.pack(0, 0, index, 0, 0))[0])


def add_bridge(netlink: Netlink, name: str, mac: str, mtu: int) -> None:
    """A bridge, down. Its MAC is fixed: otherwise it would change as ports come and go, and peers' caches with it."""
    attrs = text(_IFLA_NAME, name) + attribute(_IFLA_ADDRESS, _packed(mac)) + number(_IFLA_MTU, mtu)
    info = nested(_IFLA_INFO, text(_INFO_KIND, "bridge"))
    netlink.request(_NEW_LINK, _LINK.pack(0, 0, 0, 0, 0) + attrs + info, CREATE | EXCLUSIVE)


def add_veth(netlink: Netlink, name: str, peer: str, peer_mac: str, namespace: int, mtu: int) -> None:
    """A veth pair, both ends down, whose other end is born inside the namespace open at the descriptor."""
    inside = text(_IFLA_NAME, peer) + attribute(_IFLA_ADDRESS, _packed(peer_mac)) + number(_IFLA_MTU, mtu)
    inside += number(_IFLA_NET_NS_FD, namespace)
    data = nested(_INFO_DATA, nested(_VETH_PEER, _LINK.pack(0, 0, 0, 0, 0), inside))
    info = nested(_IFLA_INFO, text(_INFO_KIND, "veth"), data)
    attrs = text(_IFLA_NAME, name) + number(_IFLA_MTU, mtu)
    netlink.request(_NEW_LINK, _LINK.pack(0, 0, 0, 0, 0) + attrs + info, CREATE | EXCLUSIVE)


def set_link(
    netlink: Netlink, index: int, *, up: bool = False, master: int = 0, alias: str = "", mac: str = "", mtu: int = 0
) -> None:
    """Changes what is given and leaves the rest."""
    attrs = number(_IFLA_MASTER, master) if master else b""
    attrs += attribute(_IFLA_ALIAS, alias.encode()) if alias else b""
    attrs += attribute(_IFLA_ADDRESS, _packed(mac)) if mac else b""
    attrs += number(_IFLA_MTU, mtu) if mtu else b""
    flags = _UP if up else 0
    netlink.request(_SET_LINK, _LINK.pack(0, 0, index, flags, flags) + attrs)


def set_hairpin(netlink: Netlink, index: int) -> None:
    """Lets a bridge send a frame back out of the port by which it came."""
    mode = nested(_IFLA_PROTINFO, attribute(_BRIDGE_PORT_HAIRPIN, b"\1"))
    netlink.request(_SET_LINK, _LINK.pack(socket.AF_BRIDGE, 0, index, 0, 0) + mode)


def delete_link(netlink: Netlink, name: str) -> None:
    """Deletes an interface by name; it is no error when there is none."""
    try:
        netlink.request(_DELETE_LINK, _LINK.pack(0, 0, 0, 0, 0) + text(_IFLA_NAME, name))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise


def addresses(netlink: Netlink, index: int = 0) -> list[IPv4Interface]:
    """The IPv4 addresses of one interface, or of all of them."""
    found = []
    for body in netlink.dump(_GET_ADDRESS, _ADDRESS.pack(socket.AF_INET, 0, 0, 0, 0)):
        _, prefix, _, _, owner = _ADDRESS.unpack_from(body)
        if index in (0, owner):
            attrs = attributes(body, _ADDRESS.size)
            found.append(IPv4Interface((attrs.get(_IFA_LOCAL, attrs[_IFA_ADDRESS]), prefix)))
    return found


def add_address(netlink: Netlink, index: int, address: IPv4Interface) -> None:
    """Gives an interface an address; it may have it already."""
    packed = address.ip.packed
    attrs = attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)
    attrs += attribute(_IFA_BROADCAST, address.network.broadcast_address.packed)
    head = _ADDRESS.pack(socket.AF_INET, address.network.prefixlen, 0, 0, index)
    netlink.request(_NEW_ADDRESS, head + attrs, CREATE | REPLACE)


def delete_address(netlink: Netlink, index: int, address: IPv4Interface) -> None:
    """Takes an address from an interface that has it."""
    head = _ADDRESS.pack(socket.AF_INET, address.network.prefixlen, 0, 0, index)
    netlink.request(_DELETE_ADDRESS, head + attribute(_IFA_LOCAL, address.ip.packed))


def set_default_route(netlink: Netlink, index: int, gateway: IPv4Address) -> None:
    """Makes ``gateway`` the default route, in place of one that is there."""
    head = _ROUTE.pack(socket.AF_INET, 0, 0, 0, _RT_TABLE_MAIN, _RTPROT_BOOT, 0, _RTN_UNICAST, 0)
    netlink.request(
        _NEW_ROUTE, head + attribute(_RTA_GATEWAY, gateway.packed) + number(_RTA_OUT, index), CREATE | REPLACE
    )


def routes(netlink: Netlink) -> list[Route]:
    """Every IPv4 unicast route of every table but ``local`` (which only repeats the host's own addresses)."""
    found = []
    for body in netlink.dump(_GET_ROUTE, _ROUTE.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)):
        _, prefix, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(body)
        if kind != _RTN_UNICAST or table == _RT_TABLE_LOCAL:
            continue
        attrs = attributes(body, _ROUTE.size)
        destination = IPv4Network((attrs.get(_RTA_DESTINATION, bytes(4)), prefix))
        found.append(Route(destination, _number(attrs.get(_RTA_OUT)), _number(attrs.get(_RTA_METRIC))))
    return found


def _link(body: bytes) -> Link:
    _, _, index, flags, _ = _LINK.unpack_from(body)
    attrs = attributes(body, _LINK.size)
    return Link(
        index=index,
        name=_string(attrs.get(_IFLA_NAME)),
        up=bool(flags & _UP),
        mtu=_number(attrs.get(_IFLA_MTU)),
        mac=attrs.get(_IFLA_ADDRESS, b"").hex(":"),
        alias=_string(attrs.get(_IFLA_ALIAS)),
        master=_number(attrs.get(_IFLA_MASTER)),
        peer=_number(attrs.get(_IFLA_LINK)),
    )


def _packed(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _string(value: bytes | None) -> str:
    return (value or b"").rstrip(b"\0").decode(errors="replace")


def _number(value: bytes | None) -> int:
    return int(struct.unpack_from("=I", value)[0]) if value else 0
