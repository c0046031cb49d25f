"""``reconciler container ls``."""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING

from reconciler.cli.context import Context
from reconciler.cli.table import ago, span, table
from reconciler.engine.embedded.containers.rows import ContainerRow
from reconciler.engine.embedded.containers.state import ended_at, state_of
from reconciler.engine.embedded.images.lookup import shown_name
from reconciler.engine.embedded.state import State, open_reader
from reconciler.runtime.runtime import Runtime
from reconciler.runtime.task import TaskState

if TYPE_CHECKING:
    from collections.abc import Mapping

_COMMAND = 20


def run(context: Context, options: argparse.Namespace) -> int:
    """A line for each container that runs, newest first; ``-a``: for every container."""
    state = open_reader(context.root)
    try:
        runtime = Runtime(state.run)
        seen = [(row, state_of(state, runtime, row)) for row in reversed(state.containers.all())]
        shown = [(row, found) for row, found in seen if options.all or found.running]
        if options.quiet:
            ids = (row.id if options.no_trunc else row.short_id for row, _ in shown)
            context.stdout.writelines(f"{text}\n" for text in ids)
            return 0
        ports = _ports(state)
        images = _images(state)
        documents = [_document(state, row, found, images, ports.get(row.id, [])) for row, found in shown]
    finally:
        state.close()
    if options.output == "json":
        context.print(json.dumps(documents, indent=2))
    else:
        context.print(_table(documents, whole=options.no_trunc))
    return 0


def _table(documents: list[dict[str, object]], *, whole: bool) -> str:
    header = ("CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES")
    now = time.time()
    rows = []
    for document in documents:
        command = '"' + " ".join(document["command"]) + '"'  # type: ignore[arg-type]
        short = command if whole or len(command) <= _COMMAND else command[: _COMMAND - 2] + '…"'
        rows.append(
            (
                str(document["id"]) if whole else str(document["id"])[:12],
                str(document["image"]),
                short,
                ago(now - float(document["created_at"])),  # type: ignore[arg-type]
                str(document["status"]),
                ", ".join(document["ports"]),  # type: ignore[arg-type]
                str(document["name"] or "-"),
            )
        )
    return table(header, rows)


def _document(
    state: State, row: ContainerRow, found: TaskState, images: Mapping[str, str], ports: list[str]
) -> dict[str, object]:
    return {
        "id": row.id,
        "name": row.name,
        "image": images.get(row.image, row.image.short),
        "image_digest": row.image,
        "command": list(row.settings.args),
        "created_at": row.created_at,
        "state": found.status,
        "status": status_text(state, row, found),
        "exit_code": found.exit_code,
        "ports": ports,
    }


def status_text(state: State, row: ContainerRow, found: TaskState) -> str:
    """How a container is, as people say it: ``Up 3 minutes``, ``Exited (0) 5 seconds ago``."""
    now = time.time()
    if found.running:
        text = f"Up {span(now - (row.started_at or now))}"
        marks = [
            mark for mark, on in (("paused", found.status == "paused"), ("unmonitored", not found.monitored)) if on
        ]
        return text + (f" ({', '.join(marks)})" if marks else "")
    if found.status == "created":
        return "Created"
    code = "unknown" if found.exit_code is None else str(found.exit_code)
    oom = ", out of memory" if found.oom else ""
    finished = row.finished_at if row.finished_at is not None else ended_at(state, row)
    return f"Exited ({code}{oom}) {ago(now - finished)}"


def _images(state: State) -> dict[str, str]:
    """The first name of each image; the reference rather than the entry of a stack."""
    names = sorted(state.names.list(), key=lambda name: (name.kind == "entry", name.name))
    return {name.digest: shown_name(name) for name in reversed(names)}


def _ports(state: State) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in state.database.query("SELECT * FROM published ORDER BY container_port, host_port"):
        address = row["host_address"] or "0.0.0.0"
        text = f"{address}:{row['host_port']}->{row['container_port']}/{row['protocol']}"
        found.setdefault(row["container"], []).append(text)
    return found
