"""The files that give a container its names: hosts, resolv.conf and hostname, bind-mounted from beside its layer."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable
from dataclasses import field
from ipaddress import IPv4Address
from pathlib import Path

from reconciler.engine.embedded.containers.rows import ContainerRow
from reconciler.engine.embedded.state import State
from reconciler.linux import durable
from reconciler.model.address import Address
from reconciler.network import hosts
from reconciler.value import dataclass

_MODE = 0o644  # whatever the umask: programs in the container that are not root read them too


@dataclass(slots=True)
class _Place:
    """One container on its networks. ``peer_name`` is what others call it, empty for one that has no name."""

    hostname: str
    peer_name: str
    addresses: dict[str, IPv4Address] = field(default_factory=dict)


class NameFiles:
    """Safe to use from several threads: files are written by one at a time, from what is recorded at that moment."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._lock = threading.Lock()

    def directory(self, container_id: str) -> Path:
        return self._state.container_dir(container_id) / "names"

    def write(self, row: ContainerRow, own: Iterable[IPv4Address]) -> None:
        """All three files of one container; ``refresh`` adds its peers."""
        directory = self.directory(row.id)
        durable.make_directory(directory, point="names", mode=0o755, sync=False)
        resolv = hosts.resolv_conf(_text(Path("/etc/resolv.conf")), _text(Path(hosts.SYSTEMD_RESOLVED)))
        _rewrite(directory / "resolv.conf", resolv)
        _rewrite(directory / "hostname", hosts.hostname_file(row.settings.hostname))
        _rewrite(directory / "hosts", hosts.hosts(row.settings.hostname, list(own)))

    def refresh(self, networks: Collection[str]) -> None:
        """Rewrites /etc/hosts of every container that is on one of ``networks`` now: peers know each other by name."""
        with self._lock:
            placed = self._placed()
            for container_id, place in placed.items():
                if place.addresses.keys().isdisjoint(networks) or not self.directory(container_id).is_dir():
                    continue
                peers = [
                    (other.peer_name, address)
                    for other_id, other in placed.items()
                    if other_id != container_id and other.peer_name
                    for network, address in other.addresses.items()
                    if network in place.addresses
                ]
                text = hosts.hosts(place.hostname, list(place.addresses.values()), peers)
                _rewrite(self.directory(container_id) / "hosts", text)

    def _placed(self) -> dict[str, _Place]:
        rows = self._state.database.query(
            "SELECT id, name, containers.address AS owner, json_extract(settings, '$.hostname') AS hostname, network,"
            " endpoints.address AS ip FROM endpoints JOIN containers ON container = id ORDER BY id, interface"
        )
        placed: dict[str, _Place] = {}
        for row in rows:
            name = row["name"] or ""
            peer_name = Address.parse(row["owner"]).short if name and row["owner"] else name
            place = placed.setdefault(row["id"], _Place(row["hostname"], peer_name))
            place.addresses[row["network"]] = IPv4Address(row["ip"])
        return placed


def _rewrite(path: Path, text: str) -> None:
    # In place: a file renamed over it would not be seen inside the container.
    durable.overwrite(path, text.encode(), point="names", mode=_MODE)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
