"""How a container is now, told from its row and its task. Light: listings import nothing more."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from reconciler.runtime.task import TaskState

if TYPE_CHECKING:
    from reconciler.engine.embedded.containers.rows import ContainerRow
    from reconciler.engine.embedded.state import State
    from reconciler.runtime.runtime import Runtime


def state_of(state: State, runtime: Runtime, row: ContainerRow) -> TaskState:
    """How a container is, from its row where that knows its end, else from the runtime. Writes nothing."""
    if row.started_at is None:
        return TaskState("created")
    if row.finished_at is not None:
        return TaskState("exited", None, row.exit_code, row.oom)
    found = runtime.state(row.id)
    # No task: the host was rebooted, or /run was cleared. conmon may still have left the code on disk.
    return TaskState("exited", None, _left_code(state, row.id)) if found.status == "absent" else found


def ended_at(state: State, row: ContainerRow) -> float:
    """When a container that has ended did so: when conmon wrote its exit code, else as late as can be."""
    exit_file = state.container_dir(row.id) / "exit" / row.id
    try:
        finished = exit_file.stat().st_mtime
    except FileNotFoundError:
        finished = time.time()
    return max(finished, row.started_at or 0.0)


def _left_code(state: State, container_id: str) -> int | None:
    try:
        return int((state.container_dir(container_id) / "exit" / container_id).read_text())
    except (OSError, ValueError):
        return None
