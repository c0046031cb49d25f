"""Containers under an OCI runtime and conmon: create, start, look, signal, stop, wait, exec, delete.

A task lives as the files below ``run_dir``, which need not survive a reboot, and as processes. No method keeps a
lock: callers take turns per container. What only some methods need they import themselves: a listing asks for states
alone.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.errors import ConflictError, HostError, NotFoundError, RuntimeFailure
from reconciler.linux import durable
from reconciler.linux.cgroups import Cgroups
from reconciler.linux.processes import ProcessId
from reconciler.linux.tree import remove_tree
from reconciler.runtime.conmon import ENVIRONMENT, Monitor, runtime_error
from reconciler.runtime.pause import Pauses
from reconciler.runtime.spec import DEFAULT_STOP_TIMEOUT, BundleSpec, ProcessSpec
from reconciler.runtime.task import Status, Task, TaskState

if TYPE_CHECKING:
    from reconciler.runtime.logs import LogLine
    from reconciler.runtime.terminal import Attachment

DEFAULT_LOG_LIMIT = 16 * 1024 * 1024
DEFAULT_DEADLINE = 60.0  # seconds for one call of the OCI runtime; a healthy one takes some ten milliseconds
_DEATH = 10.0  # seconds for processes to be gone after SIGKILL


class Runtime:
    """The containers of one root. ``run_dir`` is its own (``/run/reconciler/ROOT-ID``), so two roots never meet.

    ``deadline`` is how many seconds one call of the OCI runtime may take.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        runc: str = "runc",
        conmon: str = "conmon",
        cgroups: Cgroups | None = None,
        deadline: float = DEFAULT_DEADLINE,
    ) -> None:
        self._runc_root = run_dir / "runc"
        self._tasks = run_dir / "tasks"
        self._runc = runc
        self._conmon = conmon
        self._cgroups = cgroups or Cgroups()
        self._deadline = deadline
        self._pauses = Pauses(run_dir / "paused", self._cgroups)

    def check(self) -> None:
        """Raises ``HostError`` when a program is missing or too old; logs a warning where fixes may be missing."""
        from reconciler.runtime.versions import check_versions

        check_versions(self._version(self._runc, "runc"), self._version(self._conmon, "conmon"))

    def verify(self, bundle_dir: Path, spec: BundleSpec) -> None:
        """Checks all of ``spec`` that can be checked without running anything; raises as ``create`` does."""
        _write_bundle(bundle_dir, spec, self._cgroups)

    def create(
        self,
        bundle_dir: Path,
        spec: BundleSpec,
        log_path: Path,
        exit_dir: Path,
        *,
        terminal: bool = False,
        stdin: bool = False,
        log_limit: int = DEFAULT_LOG_LIMIT,
    ) -> Task:
        """Makes the container without starting its program. Directories given must exist.

        What an earlier, ended task of this id left is removed first. On failure nothing of this one is left. Raises
        ``RuntimeFailure`` (125 could not be created; 126, 127 the program cannot run), ``ConflictError`` when a task
        of this id is alive, ``HostError`` when the host lacks a part.
        """
        if self.state(spec.id).status not in ("absent", "exited"):
            raise ConflictError(f"container {spec.id} is running", hint="Stop it first.")
        monitor = Monitor(
            id=spec.id,
            conmon=self._program(self._conmon, "conmon"),
            runtime=self._program(self._runc, "runc"),
            runtime_root=self._runc_root,
            bundle=bundle_dir,
            work=self._tasks / spec.id,
            log=log_path,
            log_limit=log_limit,
            exit_dir=exit_dir,
            cgroup=spec.cgroup.rpartition("/")[0] + "/conmon",
            terminal=terminal,
            stdin=stdin,
        )
        _write_bundle(bundle_dir, spec, self._cgroups)
        if spec.id in self.ids():
            self.delete(spec.id)
        durable.make_directories(monitor.work, point="task")
        exit_file = exit_dir / spec.id
        durable.unlink(exit_file, point="task.exit", sync=False)
        try:
            pid, monitor_pid = monitor.spawn(self._cgroups, self._deadline)
            init, watcher = ProcessId.of(pid), ProcessId.of(monitor_pid)
            if init is None or watcher is None:
                raise RuntimeFailure(f"container {spec.id} ended before it was started")
            task = Task(spec.id, init, watcher, bundle_dir, exit_file, log_path, spec.cgroup, spec.rootfs)
            durable.write_file(monitor.work / "task.json", task.to_json().encode(), point="task", sync=False)
        except BaseException:
            self._discard(spec.id, spec.cgroup)
            raise
        return task

    def start(self, container: str) -> None:
        """Runs the program of a created container."""
        task = self.task(container)
        log = self._tasks / container / "start.log"
        result = self._call("start", container, log=log)
        if result.returncode:
            raise RuntimeFailure(f"cannot start container {task.id}: {_explain(result, log)}")

    def task(self, container: str) -> Task:
        """The task on record. Raises ``NotFoundError``, also when a power cut left the record unreadable."""
        try:
            return Task.from_json((self._tasks / container / "task.json").read_text())
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            raise NotFoundError(
                f"container {container} has no task", hint="It was not started since the host booted."
            ) from None

    def ids(self) -> tuple[str, ...]:
        """Every id that has anything here, also half made ones that a crash left."""
        found = {path.name for top in (self._tasks, self._runc_root) if top.is_dir() for path in top.iterdir()}
        return tuple(sorted(found))

    def state(self, container: str) -> TaskState:
        """What is known of a task, from files and process ids alone: a fraction of a millisecond."""
        try:
            task = self.task(container)
        except NotFoundError:
            return TaskState("absent")
        monitored = task.monitor.alive()  # before the exit file: conmon writes it, then ends
        code = task.exit_code()
        oom = self._cgroups.oom_kills(task.cgroup) > 0
        if code is not None or not (monitored or task.init.alive()):
            return TaskState("exited", None, code, oom)
        if (self._runc_root / container / "exec.fifo").exists():  # runc removes it when the program is started
            return TaskState("created", task.pid, None, oom, monitored)
        status: Status = "paused" if self._cgroups.frozen(task.cgroup) else "running"
        return TaskState(status, task.pid, None, oom, monitored)

    def wait(self, container: str, timeout: float | None = None) -> TaskState:
        """The state once the container has exited, or after ``timeout`` seconds (None: no limit) as it is then."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with suppress(NotFoundError):
            task = self.task(container)
            # conmon ends after it wrote the exit file. Without conmon the container itself is all there is.
            for process in (task.monitor, task.init):
                if not process.wait(None if deadline is None else max(0.0, deadline - time.monotonic())):
                    break
        return self.state(container)

    def kill(self, container: str, number: int = signal.SIGKILL) -> bool:
        """Sends a signal to the container's first process; False when it has ended. Never reaches any other."""
        try:
            task = self.task(container)
        except NotFoundError:
            return False
        sent = task.init.signal(number)
        if sent and number == signal.SIGKILL:
            self._cgroups.thaw(task.cgroup)  # a frozen process on cgroup v1 dies only when it runs
        return sent

    def resume(self, container: str) -> bool:
        """Lets a paused container run on; False when it is not paused."""
        if self.state(container).status != "paused":
            return False
        self._cgroups.thaw(self.task(container).cgroup)
        return True

    @contextmanager
    def paused(self, container: str) -> Iterator[bool]:
        """Keeps a running container still for the block. False in it when it runs on, as this host cannot pause it.

        One that is paused already stays so afterwards. After a block that was killed, ``resume_left`` helps.
        """
        if self.state(container).status != "running":
            yield True
            return
        with self._pauses.of(self.task(container)) as still:
            yield still

    def resume_left(self) -> list[str]:
        """Lets those run on that a killed ``paused`` left, and says which. Nobody may be in one now."""
        return self._pauses.end_left(self.task)

    def stop(
        self,
        container: str,
        number: int = signal.SIGTERM,
        timeout: float | None = DEFAULT_STOP_TIMEOUT,
    ) -> TaskState:
        """Asks the container to end, and kills it after ``timeout`` seconds (0: at once; None: never). The last state.

        A paused one is let run to get the signal. A first process without a handler for the signal ignores it, as the
        kernel has it for the first of a pid namespace (``init`` in the spec helps). An interrupt ends the waiting.
        """
        state = self.state(container)
        if state.status in ("absent", "exited"):
            return state
        if timeout is None or timeout > 0:
            self.kill(container, number)
            self._cgroups.thaw(self.task(container).cgroup)
            state = self.wait(container, timeout)
        if state.status != "exited":
            state = self._kill_all(container)
        return state

    def exec(
        self,
        container: str,
        process: ProcessSpec,
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> int:
        """Runs one more process in a running container and gives its exit code (killed by signal n: 128 + n).

        ``stdin`` None is /dev/null; ``stdout`` and ``stderr`` None are our own. With ``process.terminal`` the three
        must be a terminal, and the OCI runtime relays between it and the container's. Raises ``RuntimeFailure``: 127 no
        such program, 126 not executable or the container is not running, 125 anything else.
        """
        state = self.state(container)
        if state.status != "running":
            raise RuntimeFailure(
                f"container {container} is {state.status}, not running", hint="Start it first.", code=126
            )
        from reconciler.runtime.execute import execute

        return execute(self._command(), self.task(container), process, stdin=stdin, stdout=stdout, stderr=stderr)

    def attach(self, container: str) -> Attachment:
        """A connection to the container's streams. Made before ``start``, it misses nothing. The caller closes it."""
        from reconciler.runtime.terminal import Attachment

        return Attachment(self.task(container).bundle)

    def follow(self, container: str, *, tail: int | None = None, since: datetime | None = None) -> Iterator[LogLine]:
        """The container's log so far, and then as it grows until the container has exited."""
        from reconciler.runtime.logs import follow_log

        task = self.task(container)
        ended = task.monitor.open()
        try:
            yield from follow_log(task.log, ended, tail=tail, since=since)
        finally:
            if ended is not None:
                os.close(ended)

    def delete(self, container: str) -> None:
        """Removes the task, killing what still runs: its processes, control groups, sockets and exit file.

        The log stays. Deleting what is not there is no error.
        """
        try:
            task = self.task(container)
        except NotFoundError:
            self._discard(container, None)
            return
        if self.state(container).status != "exited":
            self._kill_all(container)
        self._discard(container, task.cgroup)
        for name in ("attach", "ctl", "winsz"):
            durable.unlink(task.bundle / name, point="task.bundle", sync=False)
        durable.unlink(task.exit_file, point="task.exit", sync=False)

    def release(self, cgroup: str) -> None:
        """Removes what tasks share, when none is left: the parent control group and the directories in ``run_dir``."""
        if not self.ids():
            self._cgroups.remove(cgroup)
            for directory in (self._tasks, self._runc_root, self._tasks.parent):
                with suppress(HostError):
                    durable.remove_directory(directory, point="task.release")

    def _kill_all(self, container: str) -> TaskState:
        task = self.task(container)
        task.init.signal(signal.SIGKILL)
        self._cgroups.kill(task.cgroup)
        state = self.wait(container, _DEATH)
        if state.status != "exited":
            raise RuntimeFailure(
                f"container {container} does not end {_DEATH:g} s after SIGKILL",
                hint=f"See what it waits for, such as a dead disk: ps -o stat,wchan {task.pid}.",
            )
        return state

    def _discard(self, container: str, cgroup: str | None) -> None:
        if (self._runc_root / container).exists():
            result = self._call("delete", "--force", container)
            if result.returncode:
                raise RuntimeFailure(f"cannot delete container {container}: {_explain(result, None)}")
        if cgroup is not None:
            self._cgroups.kill(cgroup)
            self._cgroups.remove(cgroup)
        with suppress(HostError):
            remove_tree(self._tasks / container, point="task.remove", sync=False)

    def _command(self) -> list[str]:
        return [self._program(self._runc, "runc"), f"--root={self._runc_root}", "--log-format=json"]

    def _call(self, *arguments: str, log: Path | None = None) -> subprocess.CompletedProcess[bytes]:
        command = [*self._command(), *([f"--log={log}"] if log else []), *arguments]
        try:
            return subprocess.run(
                command,
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self._deadline,
                check=False,
                process_group=0,  # Ctrl-C is ours to take: what runs is finished
            )
        except subprocess.TimeoutExpired:
            raise RuntimeFailure(f"{self._runc} {arguments[0]} did not end within {self._deadline:g} s") from None

    def _version(self, name: str, package: str) -> str:
        command = [self._program(name, package), "--version"]
        try:
            result = subprocess.run(
                command, env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False
            )
        except subprocess.TimeoutExpired:
            raise HostError(
                f"{name} --version did not end within 10 s", hint=f"Reinstall the package {package}."
            ) from None
        return result.stdout.decode(errors="replace")

    @staticmethod
    def _program(name: str, package: str) -> str:
        path = shutil.which(name, path=ENVIRONMENT["PATH"])
        if path is None:
            raise HostError(f"the program {name} is missing", hint=f"Install the package {package}.")
        return path


def _explain(result: subprocess.CompletedProcess[bytes], log: Path | None) -> str:
    return (runtime_error(log) if log else "") or result.stderr.decode(errors="replace").strip() or "no message"


def _write_bundle(directory: Path, spec: BundleSpec, cgroups: Cgroups) -> None:
    from reconciler.runtime.bundle import write_bundle

    write_bundle(directory, spec, cgroups)
