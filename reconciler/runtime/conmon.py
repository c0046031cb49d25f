"""conmon, the small monitor that holds a container's pipes or terminal, writes its log and records its exit.

It leaves our session and our control group, so that it and the container outlive whoever created them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from reconciler.errors import HostError, RuntimeFailure
from reconciler.linux.cgroups import Cgroups
from reconciler.linux.processes import wait_readable
from reconciler.value import dataclass

# The environment of the programs we start: fixed, so that nothing of the caller's reaches a container.
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
_MAX_ANSWER = 1 << 16


@dataclass(frozen=True, slots=True)
class Monitor:
    """How one container is to be monitored. Paths are absolute; ``log_limit`` is bytes."""

    id: str
    conmon: str
    runtime: str
    runtime_root: Path
    bundle: Path
    work: Path
    log: Path
    log_limit: int
    exit_dir: Path
    cgroup: str
    terminal: bool
    stdin: bool

    @property
    def runtime_log(self) -> Path:
        return self.work / "runtime.log"

    def command(self) -> list[str]:
        """conmon's own command line. It goes on to run ``create`` of the OCI runtime."""
        command = [self.conmon, "--api-version=1", "--full-attach", "--log-level=warning"]
        command += ["--cid", self.id, "--cuuid", self.id, "--name", self.id]
        command += ["--runtime", self.runtime, "--bundle", str(self.bundle), "--exit-dir", str(self.exit_dir)]
        command += ["--container-pidfile", str(self.work / "pid"), "--conmon-pidfile", str(self.work / "conmon.pid")]
        command += ["--log-path", f"k8s-file:{self.log}", "--log-size-max", str(self.log_limit)]
        # The log is not worth a flush to disk at every exit: losing power may cost its last lines.
        command += ["--no-sync-log"]
        for argument in (f"--root={self.runtime_root}", f"--log={self.runtime_log}", "--log-format=json"):
            command += ["--runtime-arg", argument]
        command += ["--terminal"] if self.terminal else []
        command += ["--stdin"] if self.stdin else []
        return command

    def spawn(self, cgroups: Cgroups, timeout: float) -> tuple[int, int]:
        """Creates the container under a new conmon; gives the pids of the container and of conmon.

        Raises ``RuntimeFailure`` with the runtime's own words, also when it does not answer within ``timeout``
        seconds. What a failure left behind is the caller's to delete.
        """
        answer, answer_end = os.pipe()
        try:
            monitor_pid = self._launch(answer_end)
            # It has work for some ten milliseconds now; a move between control groups costs several, and is hidden.
            cgroups.adopt(self.cgroup, monitor_pid)
            try:
                line = _read_line(answer, timeout)
            except BaseException:
                with suppress(ProcessLookupError):
                    os.killpg(monitor_pid, signal.SIGKILL)  # conmon leads a session of its own; the runtime is in it
                raise
        finally:
            os.close(answer)
        return self._container_pid(line), monitor_pid

    def _launch(self, answer_end: int) -> int:
        """Starts conmon, which leaves our session and becomes nobody's child; gives its pid."""
        try:
            with (self.work / "conmon.log").open("wb") as errors:
                launched = subprocess.run(
                    self.command(),
                    env={**ENVIRONMENT, "_OCI_SYNCPIPE": str(answer_end)},
                    cwd=self.work,  # conmon writes a file named oom to wherever it is
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    pass_fds=(answer_end,),
                    start_new_session=True,
                    check=False,
                )
        except FileNotFoundError:
            raise HostError(f"{self.conmon} is missing", hint="Install the package conmon.") from None
        finally:
            os.close(answer_end)
        try:
            return int((self.work / "conmon.pid").read_text())
        except (FileNotFoundError, ValueError):
            raise RuntimeFailure(
                f"conmon ended with {launched.returncode} before it watched {self.id}: {self._own_words()}"
            ) from None

    def _own_words(self) -> str:
        return (self.work / "conmon.log").read_text(errors="replace").strip() or "no message"

    def _container_pid(self, line: bytes) -> int:
        if not line:
            raise RuntimeFailure(f"conmon ended without an answer for {self.id}: {self._own_words()}")
        answer = json.loads(line)
        if answer["data"] > 0:
            return int(answer["data"])
        detail = runtime_error(self.runtime_log) or str(answer.get("message", "")).strip() or "no message"
        raise RuntimeFailure(f"cannot create container {self.id}: {detail}")


def runtime_error(log: Path) -> str:
    """The last error in a log that the OCI runtime wrote as JSON lines, or ""."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("level") in ("error", "fatal"):
            return str(entry.get("msg", ""))
    return ""


def _read_line(descriptor: int, timeout: float) -> bytes:
    deadline = time.monotonic() + timeout
    data = b""
    while not data.endswith(b"\n") and len(data) < _MAX_ANSWER:
        if not wait_readable(descriptor, deadline - time.monotonic()):
            raise RuntimeFailure(f"the OCI runtime did not create the container within {timeout:g} s")
        part = os.read(descriptor, 4096)
        if not part:
            break
        data += part
    return data
