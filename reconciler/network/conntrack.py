"""Forgetting UDP flows (ctnetlink).

UDP has no end: a client that goes on sending keeps its flow alive, and the flow keeps the translation it was born
with. When a port moves to a new container, such clients would talk to the old one, or to nobody, for ever.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Sequence

from reconciler.errors import HostError
from reconciler.network import rtnetlink
from reconciler.network.netlink import NETFILTER, Netlink, attributes, nested
from reconciler.network.spec import PortMapping

_GET, _DELETE = 0x101, 0x102
_HEAD = struct.pack("=BBH", socket.AF_INET, 0, 0)  # nfgenmsg
_ORIGINAL = 1
_IP, _PROTOCOL = 1, 2
_DESTINATION, _NUMBER, _DESTINATION_PORT = 2, 1, 3


def forget(ports: Sequence[PortMapping]) -> int:
    """Drops the kernel's memory of UDP flows to the host ports of ``ports``; returns how many there were.

    Only flows that were sent to an address of this host count: a container's own query to some server on the same
    port number is left alone. Mappings of other protocols are passed over. Raises ``HostError``.
    """
    numbers = {port.host_port for port in ports if port.protocol == "udp"}
    if not numbers:
        return 0
    try:
        with Netlink() as route:
            local = {address.ip.packed for address in rtnetlink.addresses(route)}
        with Netlink(NETFILTER) as netlink:
            stale = [flow for flow in netlink.dump(_GET, _HEAD) if _concerns(flow, local, numbers)]
            return sum(_delete(netlink, flow) for flow in stale)
    except OSError as error:
        raise HostError(
            f"cannot forget UDP flows: {error.strerror}", hint="run as root, on a kernel with connection tracking"
        ) from error


def _concerns(flow: bytes, local: set[bytes], ports: set[int]) -> bool:
    original = attributes(attributes(flow, len(_HEAD))[_ORIGINAL])
    protocol = attributes(original[_PROTOCOL])
    if protocol[_NUMBER][0] != socket.IPPROTO_UDP:
        return False
    destination = attributes(original[_IP]).get(_DESTINATION)
    loopback = destination is not None and destination[0] == 127
    return int.from_bytes(protocol[_DESTINATION_PORT], "big") in ports and (loopback or destination in local)


def _delete(netlink: Netlink, flow: bytes) -> bool:
    try:
        netlink.request(_DELETE, _HEAD + nested(_ORIGINAL, attributes(flow, len(_HEAD))[_ORIGINAL]))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    return True
