"""Docker Engine: a daemon of our own, with its defaults, and the docker command."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.bench.engine import ALWAYS, SLEEPERS, Engine, four_at_a_time, one_after_another, remove_groups

_START_SECONDS = 30.0


class Docker(Engine):
    name = "docker"

    @classmethod
    def installed(cls) -> bool:
        return all(shutil.which(program) for program in ("docker", "dockerd", "containerd"))

    def version(self) -> str:
        client = subprocess.run(["docker", "--version"], capture_output=True, text=True, check=True).stdout
        daemon = subprocess.run(["dockerd", "--version"], capture_output=True, text=True, check=True).stdout
        return f"docker: {_number(client)} with dockerd {_number(daemon)} (overlay2)"

    def environment(self) -> Mapping[str, str]:
        return {"DOCKER_HOST": f"unix://{self._socket}", "DOCKER_CONFIG": str(self.directory / "client")}

    @property
    def _socket(self) -> Path:
        return Path("/run/bench-docker.sock")

    def __enter__(self) -> Self:
        log = self.directory / "dockerd.log"
        command = ["dockerd", f"--data-root={self.directory / 'data'}", f"--host=unix://{self._socket}"]
        with log.open("wb") as output:
            self._daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"dockerd did not start:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._daemon.terminate()
        self._daemon.wait()
        remove_groups("docker")

    def _answers(self) -> bool:
        try:
            self.timed(["docker", "version"])
        except RuntimeError:
            return False
        return True

    def forget(self, *references: str) -> None:
        self.do(["sh", "-c", f"docker image rm --force {' '.join(references)}; true"])

    def pull(self, image: str) -> list[str]:
        self._forget_peaks()
        return ["docker", "pull", "--quiet", f"{self.host}/{image}"]

    def resolve(self, image: str, tags: Sequence[str]) -> list[str] | None:
        inspect = ["docker", "manifest", "inspect", "--insecure"]
        return one_after_another(*([*inspect, f"{self.host}/{image}:{tag}"] for tag in tags))

    def run(self, image: str, *command: str) -> list[str]:
        return ["docker", "run", "--rm", f"{self.host}/{image}", *command]

    def execute(self, *command: str) -> list[str]:
        return ["docker", "exec", "sleeper1", *command]

    def up(self, image: str) -> list[str]:
        return four_at_a_time(f"docker run --detach --name sleeper{{}} {self.host}/{image} {' '.join(ALWAYS)}")

    def down(self) -> list[str]:
        names = " ".join(f"sleeper{number}" for number in range(1, SLEEPERS + 1))
        return ["sh", "-c", f"docker rm --force {names} >/dev/null 2>&1; true"]

    def containers(self) -> list[str]:
        return ["docker", "ps"]

    def load(self, archive: Path) -> list[str]:
        return ["docker", "load", "--quiet", "--input", str(archive)]

    def images(self) -> list[str]:
        return ["docker", "images"]

    def remove(self, images: Sequence[str]) -> list[str]:
        return ["docker", "rmi", *images]

    def write(self, image: str, script: str) -> list[str]:
        return ["docker", "run", "--name", "writer", f"{self.host}/{image}", "sh", "-c", script]

    def remove_writer(self) -> list[str]:
        return ["sh", "-c", "docker rm --force writer >/dev/null 2>&1; true"]

    def commit(self, reference: str) -> list[str]:
        return ["docker", "commit", "writer", reference]

    def push(self, reference: str) -> list[str]:
        return ["docker", "push", "--quiet", reference]

    def peak_memory(self, child: float) -> float:
        return child + sum(_peak(pid) for pid in self._daemons())

    def _forget_peaks(self) -> None:
        for pid in self._daemons():
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def _daemons(self) -> list[int]:
        pid = self._daemon.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]


def _peak(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _number(text: str) -> str:
    return text.removeprefix("Docker version ").partition(",")[0]
