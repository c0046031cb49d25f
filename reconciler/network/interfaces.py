"""What listings and starts ask of interfaces, by the requests of netdevice(7).

They answer at once, where rtnetlink costs the import of pyroute2. Interfaces are those of the network namespace of
the thread that asks, which is why nothing here reads /sys/class/net: that shows the namespace it was mounted in.
"""

from __future__ import annotations

import array
import errno
import fcntl
import socket
import struct
from ipaddress import IPv4Interface
from pathlib import Path

from reconciler.value import dataclass

_SIOCGIFCONF, _SIOCGIFFLAGS, _SIOCGIFNETMASK, _SIOCGIFMTU = 0x8912, 0x8913, 0x891B, 0x8921
_UP = 1
_ROUTES = Path("/proc/thread-self/net/route")
_RTF_UP, _RTF_REJECT = 0x1, 0x200
_NAME = 16
_ENTRY = struct.calcsize("@16sHH4s16x")
_MOST = 4096


@dataclass(frozen=True, slots=True)
class Interface:
    """Whether it is up, its MTU, and its IPv4 addresses, each with the prefix of the first."""

    up: bool
    mtu: int
    addresses: tuple[IPv4Interface, ...]


def find_interface(name: str) -> Interface | None:
    """The interface of that name, or None. Raises ``OSError``."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as kernel:
        try:
            flags = struct.unpack_from("@H", _ask(kernel, _SIOCGIFFLAGS, name), _NAME)[0]
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        mtu = struct.unpack_from("@i", _ask(kernel, _SIOCGIFMTU, name), _NAME)[0]
        addresses = _addresses(kernel, name)
        if not addresses:
            return Interface(bool(flags & _UP), mtu, ())
        mask = socket.inet_ntoa(_ask(kernel, _SIOCGIFNETMASK, name)[_NAME + 4 : _NAME + 8])
    return Interface(bool(flags & _UP), mtu, tuple(IPv4Interface(f"{address}/{mask}") for address in addresses))


def default_route() -> str | None:
    """The interface of the main table's default route, the one with the smallest metric; None without one."""
    found = []
    for line in _ROUTES.read_text().splitlines()[1:]:
        name, destination, _gateway, flags, _references, _uses, metric, mask, *_ = line.split()
        if int(destination, 16) == int(mask, 16) == 0 and int(flags, 16) & (_RTF_UP | _RTF_REJECT) == _RTF_UP:
            found.append((int(metric), name))
    return min(found)[1] if found else None


def _ask(kernel: socket.socket, request: int, name: str) -> bytes:
    return fcntl.ioctl(kernel, request, struct.pack("@40s", name.encode()))


def _addresses(kernel: socket.socket, name: str) -> list[str]:
    buffer = array.array("B", bytes(_MOST * _ENTRY))
    address, size = buffer.buffer_info()
    answer = fcntl.ioctl(kernel, _SIOCGIFCONF, struct.pack("@iP", size, address))
    used = struct.unpack_from("@i", answer)[0]
    found = []
    for at in range(0, used, _ENTRY):
        label, _family, _port, packed = struct.unpack_from("@16sHH4s16x", buffer, at)
        if label.partition(b"\0")[0].decode() == name:
            found.append(socket.inet_ntoa(packed))
    return found
