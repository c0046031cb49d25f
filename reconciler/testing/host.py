"""One host as its users see it: a root, a directory of specs, and the command line."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reconciler.network import names
from reconciler.runtime.logs import read_log
from reconciler.runtime.runtime import Runtime

PROGRAM = Path(sys.executable).with_name("reconciler")
RUN = Path("/run/reconciler")
PATIENCE = 60.0
"""Seconds that a command or a condition may take at the very most."""


@dataclass(frozen=True, slots=True)
class Result:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def text(self) -> str:
        return self.out + self.err


@dataclass(slots=True)
class Host:
    """``place`` holds the root, the specs and the home directory; everything printed is kept in ``printed``."""

    place: Path
    printed: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    _started: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.specs.mkdir()

    @property
    def root(self) -> Path:
        return self.place / "root"

    @property
    def specs(self) -> Path:
        return self.place / "specs"

    @property
    def id(self) -> str:
        """The root's identity; raises ``FileNotFoundError`` before the first apply."""
        return (self.root / "id").read_text().strip()

    @property
    def run_dir(self) -> Path:
        return RUN / self.id

    def write(self, text: str, name: str = "shop.yaml") -> Path:
        """Writes a spec file, its indentation taken off."""
        path = self.specs / name
        path.write_text(textwrap.dedent(text))
        return path

    def declare(self, registry: str, body: str, *, stack: str = "shop") -> Path:
        """Writes the one spec file of a stack whose images come from a registry that speaks plain HTTP."""
        head = f"apiVersion: reconciler/v1\nstack: {stack}\nregistries: {{'{registry}': {{plain_http: true}}}}\n"
        path = self.specs / f"{stack}.yaml"
        path.write_text(head + textwrap.dedent(body))
        return path

    def start(self, *arguments: object, under: Sequence[str] = (), log: bool = False) -> subprocess.Popen[str]:
        """A command that goes on; it is ended by ``close`` if it has not by then.

        ``under`` is a command that runs it; ``log`` sends what it prints to ``place``/log, where no pipe fills up.
        """
        output = (self.place / "log").open("a") if log else subprocess.PIPE
        process = subprocess.Popen(
            [*under, PROGRAM, "--root", self.root, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            text=True,
            env={"PATH": os.defpath + ":/usr/sbin:/sbin", "HOME": str(self.place), **self.environment},
        )
        if not isinstance(output, int):
            output.close()
        self._started.append(process)
        return process

    def finish(self, process: subprocess.Popen[str]) -> Result:
        """Waits for the end of a command that was started."""
        try:
            out, err = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"{process.args!r} took more than {PATIENCE:.0f} s\n{out!s}{err!s}") from None
        result = Result(process.returncode, out or "", err or "")
        self.printed += [result.out, result.err]
        return result

    def run(self, *arguments: object, code: int | None = 0, under: Sequence[str] = ()) -> Result:
        """A command, which has to exit with ``code`` (None: any)."""
        result = self.finish(self.start(*arguments, under=under))
        assert code is None or result.code == code, f"{arguments} exited {result.code}\n{result.out}{result.err}"
        return result

    def apply(self, *arguments: object, code: int | None = 0) -> Result:
        return self.run("--progress", "plain", "apply", self.specs, "--yes", *arguments, code=code)

    def plan(self, *arguments: object) -> dict[str, Any]:
        """The plan as data."""
        document: dict[str, Any] = self.run("plan", self.specs, "-o", "json", *arguments, code=None).json
        return document

    def changes(self) -> list[tuple[str, list[str]]]:
        """What the plan would do, by address."""
        return [(change["address"], change["actions"]) for change in self.plan()["changes"]]

    def is_converged(self) -> bool:
        """Whether a plan is empty, by its exit code."""
        return self.run("plan", self.specs, "--detailed-exitcode", code=None).code == 0

    def containers(self) -> dict[str, dict[str, Any]]:
        """The declared containers as ``status`` shows them, by shown name."""
        listed = self.run("status", "-o", "json").json["containers"]
        return {item["address"].removeprefix("container/"): item for item in listed}

    def container(self, name: str) -> dict[str, Any]:
        """One declared container; ``KeyError`` when there is none."""
        return self.containers()[name]

    def is_running(self, name: str) -> bool:
        found = self.containers().get(name)
        return found is not None and found["status"] == "running"

    def ended(self, name: str) -> dict[str, Any]:
        """A declared container once it has ended: an apply does not wait for a job that nothing depends on."""
        self.until(lambda: self.container(name)["status"] == "exited")
        return self.container(name)

    def output(self, name: str) -> str:
        """What a declared container printed until it ended."""
        log = self.root / "containers" / self.ended(name)["id"] / "log"
        return b"".join(line.output for line in read_log(log)).decode()

    def pid(self, name: str) -> int:
        """The first process of a running container, as the host sees it."""
        task = Runtime(self.run_dir).task(self.container(name)["id"])
        return task.init.pid

    def until(self, condition: Callable[[], object], seconds: float = 20.0) -> None:
        """Polls ``condition``; raises ``AssertionError`` with what was printed last when it does not come true."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds:.0f} s; printed last:\n{''.join(self.printed[-2:])}")
            time.sleep(0.05)

    def processes(self) -> dict[int, list[str]]:
        """The processes that run in this root's containers, by pid: those in its control groups."""
        found: dict[int, list[str]] = {}
        for group in self._control_groups():
            if group.name.startswith("conmon"):
                continue
            with contextlib.suppress(OSError):
                for pid in map(int, (group / "cgroup.procs").read_text().split()):
                    found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]
        return found

    def traces(self) -> list[str]:
        """What this root has on the machine outside its own directory."""
        if not (self.root / "id").exists():
            return []
        found = [f"mount {path}" for path in self._mounts()]
        found += [f"link {name}" for name in self._links()]
        found += [f"cgroup {path}" for path in self._control_groups()]
        found += [f"process {pid} {' '.join(line)}" for pid, line in _processes_naming(self.id, str(self.root))]
        tables = _output("nft", "list", "tables")
        found += [f"nft {names.table(self.id)}"] if names.table(self.id) in tables else []
        found += [f"run {path}" for path in [self.run_dir, *sorted(self.run_dir.rglob("*"))] if path.exists()]
        return found

    def close(self) -> list[str]:
        """Takes everything away; returns what ``destroy`` alone would have left on the machine."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.communicate()
        if not (self.root / "id").exists():
            return []
        result = self.run("destroy", "--all", "--yes", "--delete-volumes", code=None)
        left = self.traces()
        if left:
            left.append(f"destroy exited {result.code}: {result.text}")
        self._sweep()
        return left

    def _sweep(self) -> None:
        for group in self._control_groups():
            with contextlib.suppress(OSError):
                for pid in map(int, (group / "cgroup.procs").read_text().split()):
                    os.kill(pid, signal.SIGKILL)
        for pid, _ in _processes_naming(self.id, str(self.root)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for mount in reversed(self._mounts()):
            subprocess.run(["umount", "-l", mount], check=False)
        for name in self._links():
            subprocess.run(["ip", "link", "delete", name], check=False, capture_output=True)
        subprocess.run(["nft", "delete", "table", "ip", names.table(self.id)], check=False, capture_output=True)
        for group in reversed(self._control_groups()):
            with contextlib.suppress(OSError):
                group.rmdir()
        for path in sorted(self.run_dir.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        if self.run_dir.is_dir():
            self.run_dir.rmdir()

    def _mounts(self) -> list[str]:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        places = [line.split()[4] for line in lines]
        return [place for place in places if place.startswith((f"{self.root}/", f"{self.run_dir}/"))]

    def _links(self) -> list[str]:
        prefix = names.root_prefix(self.id)
        return [path.name for path in Path("/sys/class/net").iterdir() if path.name.startswith(prefix)]

    def _control_groups(self) -> list[Path]:
        name = f"reconciler-{self.id}"
        found: list[Path] = []
        # On cgroup v1 below each hierarchy, on v2 below the only one. Not deeper: others' groups come and go there.
        for top in (path for depth in ("", "*/") for path in Path("/sys/fs/cgroup").glob(f"{depth}{name}")):
            found += [top, *sorted(path for path in top.rglob("*") if path.is_dir())]
        return found


def forwarding(value: str | None = None) -> str:
    """Reads net.ipv4.ip_forward, or sets it."""
    setting = Path("/proc/sys/net/ipv4/ip_forward")
    if value is not None:
        setting.write_text(value)
    return setting.read_text().strip()


def _processes_naming(*texts: str) -> Iterable[tuple[int, list[str]]]:
    """Processes, other than this one, whose command line holds one of ``texts``."""
    for path in Path("/proc").iterdir():
        if path.name.isdecimal() and int(path.name) != os.getpid():
            with contextlib.suppress(OSError):
                line = (path / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
                if any(text in word for text in texts for word in line):
                    yield int(path.name), line


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
