"""Published ports: who holds which, and which of them overlap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address
from typing import Any

from reconciler.model.canonical import Form
from reconciler.value import dataclass


@dataclass(frozen=True, slots=True)
class HostPort:
    """A port of the host, on one address or on all."""

    protocol: str
    port: int
    address: str = ""

    def overlaps(self, other: HostPort) -> bool:
        """Whether both cannot be bound at once. An empty address is every address of both families."""
        if (self.protocol, self.port) != (other.protocol, other.port):
            return False
        if not self.address or not other.address:
            return True
        mine, theirs = ip_address(self.address), ip_address(other.address)
        return mine.version == theirs.version and (mine == theirs or mine.is_unspecified or theirs.is_unspecified)

    def __str__(self) -> str:
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{address}:{self.port}/{self.protocol}".removeprefix(":")


def host_ports(form: Form) -> Iterator[HostPort]:
    """The host ports that a container of this form publishes, but for those the engine chooses."""
    for port in form.get("ports", ()):
        if port.get("host_port") is not None:
            yield _host_port(port)


def _host_port(port: Mapping[str, Any]) -> HostPort:
    return HostPort(port.get("protocol", "tcp"), port["host_port"], port.get("host_address", ""))


class PortTable:
    """Who publishes what, by protocol and port number, so that looking for a clash does not compare all with all."""

    def __init__(self, forms: Iterable[tuple[str, Form]]) -> None:
        self._holders: dict[tuple[str, int], list[tuple[HostPort, str]]] = {}
        for holder, form in forms:
            for port in host_ports(form):
                self._holders.setdefault((port.protocol, port.port), []).append((port, holder))

    def clashes(self, form: Form) -> Iterator[tuple[HostPort, str]]:
        """The host ports of ``form`` that somebody in the table holds, and who."""
        for port in host_ports(form):
            for held, holder in self._holders.get((port.protocol, port.port), ()):
                if port.overlaps(held):
                    yield port, holder
