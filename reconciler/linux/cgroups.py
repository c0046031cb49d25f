"""Control groups, version 1 (also hybrid) and version 2, as far as containers need them.

A group is named by its path below the mount of each hierarchy, such as ``/reconciler/ROOT/CONTAINER``. Limits are set
by the OCI runtime; here is what it does not do: tell an out-of-memory kill from any other, freeze state, the last kill.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from reconciler.errors import HostError
from reconciler.value import dataclass

MOUNT = Path("/sys/fs/cgroup")
_TRACKING = ("systemd", "unified")  # the hierarchies by which a service manager kills what a service left behind


@dataclass(frozen=True, slots=True)
class Cgroups:
    """The control group hierarchies mounted at ``mount``."""

    mount: Path = MOUNT

    @property
    def unified(self) -> bool:
        """True on version 2 alone; hybrid counts as version 1, because the controllers are there."""
        return (self.mount / "cgroup.controllers").exists()

    def directory(self, group: str, controller: str) -> Path:
        """Where ``group`` is in the hierarchy that holds ``controller``."""
        return self._below(self.mount if self.unified else self.mount / controller, group)

    def directories(self, group: str) -> list[Path]:
        """Every directory of ``group`` that exists: one on version 2, up to one a hierarchy on version 1."""
        hierarchies = [self.mount] if self.unified else [path for path in self.mount.iterdir() if not path.is_symlink()]
        return [path for path in (self._below(top, group) for top in hierarchies) if path.is_dir()]

    def oom_kills(self, group: str) -> int:
        """How many processes of ``group`` the kernel killed for want of memory; 0 when the group is gone."""
        name = "memory.events" if self.unified else "memory.oom_control"
        return _counters(self.directory(group, "memory") / name).get("oom_kill", 0)

    def swap_accounted(self) -> bool:
        """True when a limit on swap can be set besides the one on memory."""
        if self.unified:
            return any(self.mount.glob("*/memory.swap.max"))
        return (self.mount / "memory" / "memory.memsw.limit_in_bytes").exists()

    def frozen(self, group: str) -> bool:
        """True when ``group`` is paused, or about to be."""
        if self.unified:
            return _counters(self.directory(group, "freezer") / "cgroup.events").get("frozen", 0) == 1
        return _text(self.directory(group, "freezer") / "freezer.state").strip() in ("FROZEN", "FREEZING")

    def freeze(self, group: str, timeout: float) -> bool:
        """Pauses the processes of ``group`` and waits up to ``timeout`` seconds until all of them are.

        False when they cannot be paused, on this host or in that time: then they run on.
        """
        freezer = self.directory(group, "freezer")
        path, value = (freezer / "cgroup.freeze", "1") if self.unified else (freezer / "freezer.state", "FROZEN")
        deadline = time.monotonic() + timeout
        try:
            _write(path, value)
            while not self._is_still(freezer):
                if time.monotonic() > deadline:
                    raise TimeoutError
                time.sleep(0.001)
                if not self.unified:
                    _write(path, value)  # version 1 can miss a process that is being forked; runc asks again, too
        except OSError:
            self.thaw(group)
            return False
        return True

    def _is_still(self, freezer: Path) -> bool:
        if self.unified:
            return _counters(freezer / "cgroup.events").get("frozen", 0) == 1
        return _text(freezer / "freezer.state").strip() == "FROZEN"

    def thaw(self, group: str) -> None:
        """Lets the processes of ``group`` run on. Does nothing when the group is gone or not frozen."""
        freezer = self.directory(group, "freezer")
        path, value = (freezer / "cgroup.freeze", "0") if self.unified else (freezer / "freezer.state", "THAWED")
        with suppress(FileNotFoundError):
            _write(path, value)

    def processes(self, group: str) -> set[int]:
        """The pids in ``group`` and in the groups below it."""
        listings = [file for top in self.directories(group) for file in top.rglob("cgroup.procs")]
        return {int(pid) for file in listings for pid in _text(file).split()}

    def kill(self, group: str) -> None:
        """Sends SIGKILL to every process in ``group``. Returns before they are gone: see ``processes``.

        Version 2 kills at one stroke and frozen processes too. Version 1 must be told process by process, and the
        frozen are thawed to die. A pid cannot be recycled between listing and signal unless its process had ended.
        """
        if self.unified:
            try:
                _write(self.directory(group, "memory") / "cgroup.kill", "1")
            except FileNotFoundError:  # kernels before 5.14, or the group is gone
                pass
            else:
                return
        for pid in self.processes(group):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.thaw(group)

    def adopt(self, group: str, pid: int) -> None:
        """Moves a process to ``group`` (made if absent), in the hierarchies that service managers track.

        What a service started belongs to its group, and is killed with it. A process that must outlive us leaves. One
        that has ended already needs no group.
        """
        tops = [self.mount] if self.unified else [self.mount / name for name in _TRACKING]
        for top in tops:
            if top.is_dir():
                directory = self._below(top, group)
                directory.mkdir(parents=True, exist_ok=True)
                with suppress(ProcessLookupError):
                    _write(directory / "cgroup.procs", str(pid))

    def remove(self, group: str) -> bool:
        """Removes ``group`` and the groups below it. False when a process is still in one of them."""
        for top in self.directories(group):
            for path, _, _ in os.walk(top, topdown=False):
                with suppress(OSError):  # EBUSY: somebody lives there
                    Path(path).rmdir()
        return not self.directories(group)

    @staticmethod
    def _below(top: Path, group: str) -> Path:
        parts = group.strip("/").split("/")
        if not all(parts) or ".." in parts or "." in parts:
            raise HostError(f"not a control group path: {group!r}")
        return top.joinpath(*parts)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # absent, or ENODEV when the group goes away while it is read
        return ""


def _counters(path: Path) -> dict[str, int]:
    pairs = (line.split() for line in _text(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def _write(path: Path, value: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)  # no O_CREAT: a file that is absent must not appear
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)
