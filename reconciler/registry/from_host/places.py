"""Where a host keeps the files in which other programs are told of mirrors."""

from __future__ import annotations

from pathlib import Path

from reconciler.value import dataclass


@dataclass(frozen=True, slots=True)
class Places:
    """Where the files are. Drop-ins lie in the directory with the name of ``registries_conf`` and ``.d``."""

    registries_conf: Path = Path("/etc/containers/registries.conf")
    certs_d: Path = Path("/etc/containerd/certs.d")
    daemon_json: Path = Path("/etc/docker/daemon.json")
