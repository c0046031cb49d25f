"""Whether a host port is free, and who has it if not."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from reconciler.errors import HostError
from reconciler.network.spec import Protocol

_LISTEN = "0A"
_PROC = Path("/proc")
_ANY = ("", "0.0.0.0")


def port_in_use(address: str, port: int, protocol: Protocol = "tcp") -> str | None:
    """Who holds a port of this host, such as ``nginx (pid 812)``, or None when nobody does.

    ``address`` is empty for all IPv4 addresses. Only sockets count: ports that rules redirect (ours, or another
    root's) look free. A holder that /proc does not show is "another process". Raises ``HostError`` when ``address``
    is not an address of this host.
    """
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as probe:
        if protocol == "tcp":
            # Connections of the last holder that still linger in TIME_WAIT are in nobody's way.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address or "0.0.0.0", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return _holder(address, port, protocol) or "another process"
            raise HostError(
                f"cannot publish on {address or '0.0.0.0'}:{port}: {error.strerror}",
                hint="publish on an address of this host, or leave the address out",
            ) from error
    return None


def _holder(address: str, port: int, protocol: Protocol) -> str | None:
    inodes = {f"socket:[{inode}]" for inode in _inodes(address, port, protocol)}
    for process in _PROC.iterdir():
        if not process.name.isdigit():
            continue
        try:
            if any(str(descriptor.readlink()) in inodes for descriptor in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:
            continue  # it ended, or it is not ours to see
    return None


def _inodes(address: str, port: int, protocol: Protocol) -> Iterator[str]:
    """The sockets in the way, from /proc/net (proc(5)): local address and port in hexadecimal, state, inode."""
    for table, length in ((protocol, 4), (f"{protocol}6", 16)):
        path = _PROC / "net" / table
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            fields = line.split()
            local, _, number = fields[1].partition(":")
            if int(number, 16) != port or (protocol == "tcp" and fields[3] != _LISTEN):
                continue
            if address in _ANY or _address(local, length) in (address, "0.0.0.0", "::"):
                yield fields[9]


def _address(text: str, length: int) -> str:
    # The kernel prints 32-bit words, each in the host's byte order.
    words = [bytes.fromhex(text[start : start + 8])[::-1] for start in range(0, length * 2, 8)]
    packed = b"".join(words)
    if length == 4:
        return str(IPv4Address(packed))
    address = IPv6Address(packed)
    return str(address.ipv4_mapped or address)
