"""The few rtnetlink(7) requests that a bridge network needs, over pyroute2: typed, and each safe to repeat."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

LOOPBACK = 1
"""The index of ``lo`` in every network namespace."""

_DUMP_ATTEMPTS = 20
_NLM_F_DUMP_INTR = 0x10
_RT_TABLE_LOCAL, _RTPROT_BOOT, _RTN_UNICAST = 255, 3, 1
_WITHOUT_STATISTICS = 1 << 3  # RTEXT_FILTER_SKIP_STATS: they are most of the answer, and slow to decode
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


class Rtnetlink:
    """A socket in the network namespace of the thread that opens it; use it in that thread, and close it there.

    pyroute2 would serve other threads too, but keep a socket for each until it is closed, and make an event loop per
    request: opening anew is faster. The kernel's refusals are ``OSError`` with its errno. The first one in a process
    imports pyroute2.
    """

    def __init__(self) -> None:
        from pyroute2 import IPRoute

        self._ip = IPRoute()

    def __enter__(self) -> Rtnetlink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._ip.close()

    # Links

    def links(self) -> list[Link]:
        """All interfaces of the namespace."""
        return [_link(answer) for answer in self._dump("link", ext_mask=_WITHOUT_STATISTICS)]

    def find_link(self, name: str) -> Link | None:
        """One interface by name."""
        try:
            answers = self._request("link", "get", ifname=name, ext_mask=_WITHOUT_STATISTICS)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        return _link(answers[0])

    def link_at(self, index: int) -> Link:
        """One interface by index."""
        return _link(self._request("link", "get", index=index, ext_mask=_WITHOUT_STATISTICS)[0])

    def add_bridge(self, name: str, mac: str, mtu: int) -> None:
        """A bridge, down. Its MAC is fixed: else it would change as ports come and go, and peers' caches with it."""
        self._request("link", "add", kind="bridge", ifname=name, address=mac, mtu=mtu)

    def add_veth(self, name: str, peer: str, peer_mac: str, namespace: int, mtu: int) -> None:
        """A veth pair, both ends down, whose other end is born inside the namespace open at the descriptor."""
        inside = {"ifname": peer, "address": peer_mac, "mtu": mtu, "net_ns_fd": namespace}
        self._request("link", "add", kind="veth", ifname=name, mtu=mtu, peer=inside)

    def raise_link(self, index: int, alias: str = "") -> None:
        """Brings an interface up, and marks it when there is an alias."""
        mark = {"ifalias": alias} if alias else {}
        self._request("link", "set", index=index, state="up", **mark)

    def join(self, index: int, bridge: int, alias: str) -> None:
        """Marks an interface, brings it up and puts it on a bridge, which may send a frame back by the same port."""
        self._request("link", "set", index=index, state="up", master=bridge, ifalias=alias)
        # With br_netfilter a container's packets to its own published port are translated while still frames.
        self._request("brport", "set", index=index, mode=1)

    def delete_link(self, name: str) -> None:
        """Deletes an interface by name; it is no error when there is none."""
        try:
            self._request("link", "del", ifname=name)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise

    # Addresses and routes

    def addresses(self, index: int = 0) -> list[IPv4Interface]:
        """The IPv4 addresses of one interface, or of all of them."""
        return [
            IPv4Interface((answer.get_attr("IFA_LOCAL") or answer.get_attr("IFA_ADDRESS"), answer["prefixlen"]))
            for answer in self._dump("addr", family=socket.AF_INET)
            if index in (0, answer["index"])
        ]

    def add_address(self, index: int, address: IPv4Interface) -> None:
        """Gives an interface an address; it may have it already."""
        broadcast = str(address.network.broadcast_address)
        self._request("addr", "replace", index=index, address=str(address), broadcast=broadcast)

    def delete_address(self, index: int, address: IPv4Interface) -> None:
        """Takes an address from an interface that has it."""
        self._request("addr", "del", index=index, address=str(address))

    def set_default_route(self, index: int, gateway: IPv4Address) -> None:
        """The default route, in place of one that is there."""
        self._request("route", "replace", dst="default", gateway=str(gateway), oif=index, proto=_RTPROT_BOOT)

    def routes(self) -> list[Route]:
        """Every IPv4 unicast route of every table but ``local`` (which only repeats the host's own addresses)."""
        return [
            _route(answer)
            for answer in self._dump("route", family=socket.AF_INET)
            if answer["type"] == _RTN_UNICAST and answer["table"] != _RT_TABLE_LOCAL
        ]

    def _request(self, kind: str, command: str, /, **arguments: object) -> list[Any]:
        """One message and the answers to it, in pyroute2's words, which are those of ip(8)."""
        from pyroute2 import NetlinkError

        try:
            return list(getattr(self._ip, kind)(command, **arguments))
        except NetlinkError as error:
            raise OSError(*error.args) from error

    def _dump(self, kind: str, /, **arguments: object) -> list[Any]:
        """A whole table, taken again until nothing changed while the kernel wrote it (pyroute2 does not look)."""
        for _ in range(_DUMP_ATTEMPTS):
            try:
                answers = self._request(kind, "dump", **arguments)
            except OSError as error:
                if error.errno not in (errno.ENOBUFS, errno.EINTR):
                    raise
                continue
            if not any(answer["header"]["flags"] & _NLM_F_DUMP_INTR for answer in answers):
                return answers
        raise OSError(errno.EBUSY, "the kernel's tables change too fast to be read")


def _link(answer: Any) -> Link:
    return Link(
        index=answer["index"],
        name=answer.get_attr("IFLA_IFNAME", ""),
        up=bool(answer["flags"] & _UP),
        mtu=answer.get_attr("IFLA_MTU", 0),
        mac=answer.get_attr("IFLA_ADDRESS", ""),
        alias=answer.get_attr("IFLA_IFALIAS", ""),
        master=answer.get_attr("IFLA_MASTER", 0),
        peer=answer.get_attr("IFLA_LINK", 0),
    )


def _route(answer: Any) -> Route:
    return Route(
        destination=IPv4Network((answer.get_attr("RTA_DST", "0.0.0.0"), answer["dst_len"])),
        out=answer.get_attr("RTA_OIF", 0),
        metric=answer.get_attr("RTA_PRIORITY", 0),
    )
