"""podman, with runc, the kernel's overlay driver and its default network."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.bench.engine import ALWAYS, SLEEPERS, Engine, four_at_a_time, remove_groups

# Its default limits need CAP_SYS_RESOURCE, which not every virtual machine grants.
_CONTAINERS = """\
[containers]
default_ulimits = []
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


class Podman(Engine):
    name = "podman"

    @classmethod
    def installed(cls) -> bool:
        return shutil.which("podman") is not None

    def version(self) -> str:
        printed = subprocess.run(["podman", "--version"], capture_output=True, text=True, check=True).stdout
        return f"podman: {printed.split()[-1]} (overlay, runc)"

    def environment(self) -> Mapping[str, str]:
        return {
            "CONTAINERS_CONF": str(self.directory / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.directory / "storage.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(self.directory / "registries.conf"),
        }

    def __enter__(self) -> Self:
        graph = self.directory / "data"
        (self.directory / "containers.conf").write_text(_CONTAINERS)
        (self.directory / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{graph}"\nrunroot = "/run/bench-podman"\n'
        )
        (self.directory / "registries.conf").write_text(f'[[registry]]\nlocation = "{self.host}"\ninsecure = true\n')
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.do(["podman", "rm", "--all", "--force", "--time=0"])
        remove_groups("libpod_parent")

    def forget(self, *references: str) -> None:
        self.do(["podman", "rmi", "--force", *references])

    def pull(self, image: str) -> list[str]:
        return ["podman", "pull", "--quiet", f"{self.host}/{image}"]

    def run(self, image: str, *command: str) -> list[str]:
        return ["podman", "run", "--rm", f"{self.host}/{image}", *command]

    def execute(self, *command: str) -> list[str]:
        return ["podman", "exec", "sleeper1", *command]

    def up(self, image: str) -> list[str]:
        return four_at_a_time(f"podman run --detach --name sleeper{{}} {self.host}/{image} {' '.join(ALWAYS)}")

    def down(self) -> list[str]:
        names = " ".join(f"sleeper{number}" for number in range(1, SLEEPERS + 1))
        return ["sh", "-c", f"podman rm --force --ignore --time=0 {names} >/dev/null"]

    def containers(self) -> list[str]:
        return ["podman", "ps"]

    def load(self, archive: Path) -> list[str]:
        return ["podman", "load", "--quiet", "--input", str(archive)]

    def images(self) -> list[str]:
        return ["podman", "images"]

    def remove(self, images: Sequence[str]) -> list[str]:
        return ["podman", "rmi", *images]

    def write(self, image: str, script: str) -> list[str]:
        return ["podman", "run", "--name", "writer", f"{self.host}/{image}", "sh", "-c", script]

    def remove_writer(self) -> list[str]:
        return ["sh", "-c", "podman rm --force writer >/dev/null 2>&1; true"]

    def commit(self, reference: str) -> list[str]:
        return ["podman", "commit", "--quiet", "writer", reference]

    def push(self, reference: str) -> list[str]:
        return ["podman", "push", "--quiet", reference]
