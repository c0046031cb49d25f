"""Tasks: what is kept of a container that was created, and what can be told of it without asking the OCI runtime."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from reconciler.linux.processes import ProcessId
from reconciler.value import dataclass

Status = Literal["absent", "created", "running", "paused", "exited"]


@dataclass(frozen=True, slots=True)
class Task:
    """A container that was created: its first process, the conmon that watches it, and where its parts are."""

    id: str
    init: ProcessId
    monitor: ProcessId
    bundle: Path
    exit_file: Path
    log: Path
    cgroup: str
    rootfs: Path

    @property
    def pid(self) -> int:
        """The container's first process, as the host numbers it."""
        return self.init.pid

    def exit_code(self) -> int | None:
        """The code that conmon left (0 to 255; killed by signal n: 128 + n), or None."""
        try:
            return int(self.exit_file.read_text())
        except FileNotFoundError:
            return None

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Task:
        document = json.loads(text)
        for key in ("init", "monitor"):
            document[key] = ProcessId(**document[key])
        for key in ("bundle", "exit_file", "log", "rootfs"):
            document[key] = Path(document[key])
        return cls(**document)


@dataclass(frozen=True, slots=True)
class TaskState:
    """A task at one moment.

    ``exit_code`` is None while it runs, and for one that exited unseen: nobody knows its code, and it is never taken
    for 0. ``oom`` says that the kernel killed at least one process of it for want of memory, be it a child that
    the container survived. ``monitored`` is False when conmon is gone while the container lives: it runs on without
    a reader for its output.
    """

    status: Status
    pid: int | None = None
    exit_code: int | None = None
    oom: bool = False
    monitored: bool = True

    @property
    def running(self) -> bool:
        """True when it has been started and has not exited; a paused one counts."""
        return self.status in ("running", "paused")
