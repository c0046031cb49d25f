"""The text of the three files that give a container its names. Pure; they are bind mounts, never part of a layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, ip_address

SYSTEMD_RESOLVED = "/run/systemd/resolve/resolv.conf"
"""Where systemd-resolved names the servers behind its stub on 127.0.0.53."""


def hosts(hostname: str, addresses: Sequence[IPv4Address], peers: Iterable[tuple[str, IPv4Address]] = ()) -> str:
    """/etc/hosts: localhost, the container's own name at each of its addresses, and its peers by name.

    Without an address (no network) the own name is at 127.0.1.1, as Debian has it, so that it always resolves.
    """
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
    lines += [f"{address}\t{hostname}" for address in addresses] or [f"127.0.1.1\t{hostname}"]
    lines += [f"{address}\t{name}" for name, address in sorted(peers)]
    return "\n".join(lines) + "\n"


def resolv_conf(host: str, upstream: str = "") -> str:
    """/etc/resolv.conf for a container, from the host's.

    A server on the host's loopback cannot be reached from a container and is left out. When that leaves none, the
    servers come from ``upstream`` (the text at ``SYSTEMD_RESOLVED``, empty when there is no such file); when there is
    none there either, the file names none. Search domains and options are the host's.
    """
    lines = [line.strip() for line in host.splitlines()]
    kept = [line for line in lines if line.split()[:1] in (["search"], ["domain"], ["options"])]
    servers = _reachable(host) or _reachable(upstream)
    return "".join(f"{line}\n" for line in [*(f"nameserver {server}" for server in servers), *kept])


def hostname_file(hostname: str) -> str:
    """/etc/hostname."""
    return hostname + "\n"


def _reachable(text: str) -> list[str]:
    servers = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            address = ip_address(words[1].partition("%")[0])
        except ValueError:
            continue
        # Containers have IPv4 only, so an IPv6 server would only cost them a timeout.
        if isinstance(address, IPv4Address) and not address.is_loopback and not address.is_unspecified:
            servers.append(str(address))
    return servers
