"""Forgetting UDP flows.

UDP has no end: a client that goes on sending keeps its flow alive, and the flow keeps the translation it was born
with. When a port moves to a new container, such clients would talk to the old one, or to nobody, for ever.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import Any

from reconciler.errors import HostError
from reconciler.network.rtnetlink import Rtnetlink
from reconciler.network.spec import PortMapping


def forget(ports: Sequence[PortMapping]) -> int:
    """Drops the kernel's memory of UDP flows to the host ports of ``ports``; returns how many there were.

    Only flows that were sent to an address of this host count: a container's own query to some server on the same
    port number is left alone. Mappings of other protocols are passed over. Raises ``HostError``.
    """
    numbers = {port.host_port for port in ports if port.protocol == "udp"}
    if not numbers:
        return 0
    from pyroute2 import Conntrack, NetlinkError
    from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple

    udp = NFCTAttrTuple(proto=socket.IPPROTO_UDP)
    try:
        with Rtnetlink() as kernel:
            local = {address.ip for address in kernel.addresses()}
        with Conntrack() as table:
            # The whole answer before the next request: there is one socket.
            flows = [entry.tuple_orig for entry in list(table.dump_entries(tuple_orig=udp))]
            stale = [flow for flow in flows if flow.dport in numbers and _is_local(IPv4Address(flow.daddr), local)]
            return sum(_delete(table, flow) for flow in stale)
    except (OSError, NetlinkError) as error:
        raise HostError(
            f"cannot forget UDP flows: {os.strerror(error.args[0])}",
            hint="run as root, on a kernel with connection tracking",
        ) from error


def _is_local(address: IPv4Address, addresses: set[IPv4Address]) -> bool:
    return address.is_loopback or address in addresses


def _delete(table: Any, flow: Any) -> bool:
    from pyroute2 import NetlinkError

    try:
        table.entry("del", tuple_orig=flow)
    except NetlinkError as error:
        if error.code != errno.ENOENT:
            raise
        return False
    return True
