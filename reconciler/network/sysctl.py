"""The kernel settings below /proc/sys/net that a bridge network needs."""

from __future__ import annotations

from pathlib import Path

from reconciler.errors import HostError

_NET = Path("/proc/sys/net")
_FORWARD = _NET / "ipv4/ip_forward"


def forwarding() -> bool:
    """Whether the host forwards IPv4 packets."""
    return _FORWARD.read_text().strip() == "1"


def enable_forwarding() -> bool:
    """Makes the host forward IPv4 packets; returns whether it did so before. Raises ``HostError``."""
    before = forwarding()
    if not before:
        _write(_FORWARD, "1")
    return before


def routes_localnet(bridge: str) -> bool:
    """Whether packets from 127.0.0.0/8 may leave by this bridge, which publishing on 127.0.0.1 needs."""
    return _localnet(bridge).read_text().strip() == "1"


def prepare_bridge(bridge: str) -> None:
    """Lets the host's own 127.0.0.1 reach published ports, and keeps IPv6 off the bridge (containers are IPv4 only).

    What route_localnet opens for containers, the firewall's guard chain closes again. Raises ``HostError``.
    """
    if not routes_localnet(bridge):
        _write(_localnet(bridge), "1")
    disable_ipv6(bridge)


def disable_ipv6(interface: str) -> None:
    """Keeps link-local addresses off the interface. Nothing to do on a kernel without IPv6. Raises ``HostError``."""
    path = _NET / f"ipv6/conf/{interface}/disable_ipv6"
    if path.exists() and path.read_text().strip() != "1":
        _write(path, "1")


def _localnet(bridge: str) -> Path:
    return _NET / f"ipv4/conf/{bridge}/route_localnet"


def _write(path: Path, value: str) -> None:
    try:
        path.write_text(value)
    except OSError as error:
        raise HostError(
            f"cannot write {value} to {path}: {error.strerror}", hint="run as root, where /proc/sys is writable"
        ) from error
