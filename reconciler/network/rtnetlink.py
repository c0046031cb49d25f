"""Whole tables of the kernel by rtnetlink(7), over pyroute2: what is asked seldom, and must be consistent."""

from __future__ import annotations

import errno
import socket
from ipaddress import IPv4Interface, IPv4Network
from typing import Any

_DUMP_ATTEMPTS = 20
_NLM_F_DUMP_INTR = 0x10
_RT_TABLE_LOCAL, _RTN_UNICAST = 255, 1
_WITHOUT_STATISTICS = 1 << 3  # RTEXT_FILTER_SKIP_STATS: they are most of the answer, and slow to decode


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

    def aliases(self) -> dict[str, str]:
        """Every interface of the namespace by name, with its alias, which may be empty."""
        return {
            answer.get_attr("IFLA_IFNAME", ""): answer.get_attr("IFLA_IFALIAS", "")
            for answer in self._dump("link", ext_mask=_WITHOUT_STATISTICS)
        }

    def addresses(self) -> list[IPv4Interface]:
        """The IPv4 addresses of all interfaces."""
        return [
            IPv4Interface((answer.get_attr("IFA_LOCAL") or answer.get_attr("IFA_ADDRESS"), answer["prefixlen"]))
            for answer in self._dump("addr", family=socket.AF_INET)
        ]

    def destinations(self) -> list[IPv4Network]:
        """Where the IPv4 unicast routes of every table lead, but ``local`` (the host's own addresses once more)."""
        return [
            IPv4Network((answer.get_attr("RTA_DST", "0.0.0.0"), answer["dst_len"]))
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
