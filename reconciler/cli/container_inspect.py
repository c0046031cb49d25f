"""``reconciler container inspect``: the fields that people read of Docker's JSON, under Docker's names."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from typing import Any

from reconciler.cli.container_list import status_text
from reconciler.cli.context import Context
from reconciler.clock import rfc3339
from reconciler.engine.embedded.containers.config import container_config, sensitive_names
from reconciler.engine.embedded.containers.rows import ContainerRow, find_container
from reconciler.engine.embedded.containers.spec import StartSpec
from reconciler.engine.embedded.containers.state import ended_at, state_of
from reconciler.engine.embedded.state import State, open_reader
from reconciler.runtime.runtime import Runtime


def run(context: Context, options: argparse.Namespace) -> int:
    """One JSON list with an object for each container. Sensitive values read ``(sensitive)``."""
    state = open_reader(context.root)
    try:
        rows = state.containers.all()
        runtime = Runtime(state.run)
        documents = [_document(state, runtime, find_container(rows, name)) for name in options.names]
    finally:
        state.close()
    context.print(json.dumps(documents, indent=2))
    return 0


def _document(state: State, runtime: Runtime, row: ContainerRow) -> dict[str, Any]:
    spec = StartSpec.from_json((state.container_dir(row.id) / "spec.json").read_text())
    image = row.form.get("image")
    return {
        "Id": row.id,
        "Name": row.name,
        "Address": str(row.address) if row.address else None,
        "Created": _date(row.created_at),
        "Path": row.settings.args[0] if row.settings.args else "",
        "Args": list(row.settings.args[1:]),
        "State": _state(state, runtime, row),
        "Image": row.image,
        "Config": _config(state, row, spec, str(image).removeprefix("image/") if image else row.image),
        "HostConfig": {
            "RestartPolicy": {"Name": row.settings.restart},
            "Memory": spec.memory_limit or 0,
            "Init": spec.init,
            "PortBindings": _bindings(row),
        },
        "Mounts": [
            {"Type": mount.kind, "Source": mount.source, "Destination": mount.target, "RW": not mount.read_only}
            for mount in spec.mounts
        ],
        "NetworkSettings": {"Networks": _networks(state, row), "Ports": _published(state, row)},
        "RestartCount": max(0, row.run - 1),
        "LogPath": str(state.log_path(row.id)),
    }


def _state(state: State, runtime: Runtime, row: ContainerRow) -> dict[str, Any]:
    found = state_of(state, runtime, row)
    ended = row.finished_at
    if found.status == "exited" and ended is None:
        ended = ended_at(state, row)
    return {
        "Status": found.status,
        "Description": status_text(state, row, found),
        "Running": found.running,
        "Paused": found.status == "paused",
        "OOMKilled": found.oom,
        "Pid": found.pid or 0,
        "ExitCode": found.exit_code,
        "StartedAt": _date(row.started_at),
        "FinishedAt": _date(ended) if found.status == "exited" else None,
    }


def _config(state: State, row: ContainerRow, spec: StartSpec, image: str) -> dict[str, Any]:
    record = state.images.get(row.image)
    config = container_config(row, spec, state.config(record)) if record else {}
    hidden = sensitive_names(row)
    config["Env"] = [
        f"{name}=(sensitive)" if name in hidden else f"{name}={value}"
        for name, _, value in (entry.partition("=") for entry in spec.process.env)
    ]
    return {
        **config,
        "Hostname": row.settings.hostname,
        "Image": image,
        "Tty": row.settings.terminal,
        "OpenStdin": row.settings.stdin,
    }


def _bindings(row: ContainerRow) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for port in row.settings.ports:
        binding = {"HostIp": port.host_address, "HostPort": str(port.host_port or "")}
        found.setdefault(f"{port.container_port}/{port.protocol}", []).append(binding)
    return found


def _networks(state: State, row: ContainerRow) -> dict[str, Any]:
    placed = {
        found["network"]: found["address"]
        for found in state.database.query("SELECT network, address FROM endpoints WHERE container = ?", (row.id,))
    }
    return {name.removeprefix("network/"): {"IPAddress": placed.get(name, "")} for name in row.settings.networks}


def _published(state: State, row: ContainerRow) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in state.database.query("SELECT * FROM published WHERE container = ? ORDER BY host_port", (row.id,)):
        binding = {"HostIp": item["host_address"], "HostPort": str(item["host_port"])}
        found.setdefault(f"{item['container_port']}/{item['protocol']}", []).append(binding)
    return found


def _date(seconds: float | None) -> str | None:
    return None if seconds is None else rfc3339(datetime.fromtimestamp(seconds, UTC))
