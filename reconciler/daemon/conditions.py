"""What the daemon lets others see: ``daemon.json`` in the run directory.

The file is written only when something changed, so a converged host writes nothing. Times are those of the change.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, Literal

from reconciler.errors import LockedError
from reconciler.linux import durable
from reconciler.linux.lock import FileLock
from reconciler.linux.processes import ProcessId
from reconciler.value import dataclass

FORMAT = 1
_FILE = "daemon.json"
_LOCK = "daemon.lock"
_MAX_BYTES = 16 * 1024 * 1024

Result = Literal["starting", "converged", "progressing", "failed"]


@dataclass(frozen=True, slots=True)
class BadRevision:
    """A revision that is not applied. ``revision`` is empty when there was none to be had.

    ``refused`` tells one that a guard holds back, and a person may allow, from one that is wrong.
    """

    revision: str
    message: str
    hint: str
    refused: bool
    since: str


@dataclass(frozen=True, slots=True)
class Failure:
    """A resource whose last step failed (``attempts`` times in a row), or that cannot be planned (``attempts`` 0)."""

    address: str
    verb: str
    message: str
    hint: str
    attempts: int = 0
    next_try: str = ""


@dataclass(frozen=True, slots=True)
class Conditions:
    """The state of a daemon. ``revision`` is the one applied, empty before the first; times are RFC 3339.

    ``since`` says when ``result`` came to be what it is; ``error`` is why the last pass failed as a whole.
    """

    source: str
    revision: str = ""
    bad: BadRevision | None = None
    result: Result = "starting"
    since: str = ""
    error: str = ""
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """What a daemon wrote. ``alive`` is false when it ended without clearing up: then this is its last word."""

    pid: int
    alive: bool
    conditions: Conditions


class Board:
    """The writer, for the process that holds the lock. A context: the file is there only inside it."""

    def __init__(self, run_directory: Path) -> None:
        self._directory = run_directory
        self._lock = FileLock(run_directory / _LOCK)
        self._shown: Conditions | None = None

    def __enter__(self) -> Board:
        """Raises ``LockedError`` when another daemon runs on the same root."""
        durable.make_directories(self._directory, point="conditions")
        try:
            self._lock.acquire(0)
        except LockedError as error:
            raise LockedError(
                f"another daemon runs on this root: {error}", hint="end it first, or use another --root"
            ) from None
        durable.sweep_temporaries(self._directory, point="conditions", of=_FILE)
        return self

    def __exit__(self, *_: object) -> None:
        durable.unlink(self._directory / _FILE, point="conditions", sync=False)
        self._lock.remove()

    def show(self, conditions: Conditions) -> None:
        """Writes ``conditions`` when they differ from the last. Raises ``HostError``."""
        if conditions == self._shown:
            return
        process = ProcessId.of(os.getpid())
        assert process is not None
        document = {
            "format": FORMAT,
            "process": dataclasses.asdict(process),
            "conditions": dataclasses.asdict(conditions),
        }
        data = json.dumps(document, indent=1).encode() + b"\n"
        durable.write_file(self._directory / _FILE, data, point="conditions")
        self._shown = conditions


def read_status(run_directory: Path) -> DaemonStatus | None:
    """What the daemon of a root wrote last; None when none did, or when it cannot be understood. Writes nothing."""
    try:
        with (run_directory / _FILE).open("rb") as file:
            document = json.loads(file.read(_MAX_BYTES))
        if document["format"] != FORMAT:
            return None
        process = ProcessId(**document["process"])
        return DaemonStatus(process.pid, process.alive(), _conditions(document["conditions"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _conditions(fields: dict[str, Any]) -> Conditions:
    bad = fields.pop("bad")
    failures = fields.pop("failures")
    return Conditions(
        **fields,
        bad=None if bad is None else BadRevision(**bad),
        failures=tuple(Failure(**item) for item in failures),
    )
