"""Published ports: the Compose specification's short forms, and which of them are in each other's way."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from reconciler.errors import InvalidError
from reconciler.model.resources import Port

_SHORT = re.compile(
    r"(?:(?:\[(?P<six>[^\]]*)\]|(?P<four>[^\[\]]*)):)?"
    r"(?P<published>[0-9]*(?:-[0-9]+)?):(?P<target>[0-9]+(?:-[0-9]+)?)|(?P<only>[0-9]+(?:-[0-9]+)?)",
    re.ASCII,
)
_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)
FORMS = "write [ADDRESS:][HOST:]CONTAINER[/tcp|udp], such as 8080:80 or 127.0.0.1:8080:80"

PortRange = tuple[int, int]


def parse_range(text: str) -> PortRange:
    """First and last port of ``80`` or ``8000-8010``. Raises ``InvalidError``."""
    match = _RANGE.fullmatch(text)
    if match is None:
        raise InvalidError("malformed port", hint="write a port such as 8080, or a range such as 8080-8090")
    first, last = int(match[1]), int(match[2] or match[1])
    if not (1 <= first <= 65535 and 1 <= last <= 65535):
        raise InvalidError("port out of range", hint="a port is 1 to 65535")
    if last < first:
        raise InvalidError("the range ends before it begins", hint="write the smaller port first")
    return first, last


def parse_exposed(text: str) -> PortRange:
    """The ports of ``80``, ``8000-8010`` or ``53/udp``. Raises ``InvalidError``."""
    body, slash, protocol = text.partition("/")
    if slash and protocol not in ("tcp", "udp"):
        raise InvalidError("malformed port", hint="write a port such as 80, 8000-8010 or 53/udp")
    return parse_range(body)


def parse_address(text: str) -> str:
    """A host address in normal form. Raises ``InvalidError``, also for ::1, which cannot be published on."""
    try:
        address = ip_address(text.strip("[]"))
    except ValueError:
        raise InvalidError("malformed address", hint="write an IP address of this host, such as 127.0.0.1") from None
    if isinstance(address, IPv6Address) and (address.is_loopback or address.scope_id):
        raise InvalidError("a port cannot be published on this address", hint="publish on 127.0.0.1 instead")
    return str(address)


def split_short(text: str) -> dict[str, Any]:
    """The long form of a short one. Raises ``InvalidError``."""
    body, slash, protocol = text.partition("/")
    match = _SHORT.fullmatch(body)
    if match is None or (slash and not protocol):
        raise InvalidError("malformed port", hint=FORMS)
    long: dict[str, Any] = {"target": match["target"] or match["only"]}
    address = match["six"] if match["six"] is not None else match["four"]
    if address is not None:
        long["host_ip"] = address
    if match["published"]:
        long["published"] = match["published"]
    elif match["target"] and address is None:
        raise InvalidError("malformed port", hint=FORMS)
    if slash:
        long["protocol"] = protocol.lower()
    return long


def expand_ports(target: PortRange, published: PortRange | None, address: str, protocol: str) -> Iterable[Port]:
    """One ``Port`` for each in the range. Raises ``InvalidError`` when the two ranges differ in length."""
    if published is not None and published[1] - published[0] != target[1] - target[0]:
        raise InvalidError("the host's and the container's port ranges differ in length", hint="make them equal")
    for offset in range(target[1] - target[0] + 1):
        host_port = published[0] + offset if published is not None else None
        yield Port(target[0] + offset, host_port, address, "udp" if protocol == "udp" else "tcp")


def overlap(one: Port, other: Port) -> bool:
    """Whether both ask for one port of the host. Ports that the engine chooses never do."""
    if one.host_port is None or (one.host_port, one.protocol) != (other.host_port, other.protocol):
        return False
    if not one.host_address or not other.host_address:
        return True
    left, right = ip_address(one.host_address), ip_address(other.host_address)
    if left.version != right.version:
        return False
    return left == right or _is_any(left) or _is_any(right)


def _is_any(address: IPv4Address | IPv6Address) -> bool:
    return address.is_unspecified


def port_text(port: Port) -> str:
    """As people write it: ``127.0.0.1:8080:80/tcp``."""
    address = (
        f"[{port.host_address}]:" if ":" in port.host_address else f"{port.host_address}:" * bool(port.host_address)
    )
    return f"{address}{port.host_port}:{port.container_port}/{port.protocol}"
