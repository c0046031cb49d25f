"""A runtime with a busybox root, and nothing left of either afterwards."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from reconciler.linux.cgroups import Cgroups
from reconciler.runtime.runtime import Runtime
from reconciler.runtime.spec import BundleSpec, ProcessSpec
from reconciler.runtime.task import Task


@dataclass
class Host:
    """What a test makes containers with; ``parent`` is the control group of all of them."""

    base: Path
    runtime: Runtime
    parent: str
    made: list[str] = field(default_factory=list)

    def spec(self, *args: str, env: tuple[str, ...] = (), cwd: str = "/", user: str = "", **more: object) -> BundleSpec:
        name = f"c{len(self.made)}"
        self.made.append(name)
        rootfs = self.base / name / "rootfs"
        (rootfs / "bin").mkdir(parents=True)
        busybox = rootfs / "bin" / "busybox"
        shutil.copy("/bin/busybox", busybox)
        for applet in ("sh", "sleep", "cat", "true", "stty", "tail", "dd", "kill", "id", "pwd", "ps", "yes", "head"):
            (rootfs / "bin" / applet).symlink_to("busybox")
        terminal = bool(more.pop("terminal", False))
        return BundleSpec(
            id=name,
            rootfs=rootfs,
            process=ProcessSpec(args, env, cwd, user, terminal),
            cgroup=f"{self.parent}/{name}",
            **more,  # type: ignore[arg-type]
        )

    def create(self, spec: BundleSpec, **more: object) -> Task:
        bundle, exits = self.base / spec.id, self.base / "exits"
        exits.mkdir(exist_ok=True)
        return self.runtime.create(bundle, spec, self.log(spec), exits, **more)  # type: ignore[arg-type]

    def start(self, spec: BundleSpec, **more: object) -> Task:
        task = self.create(spec, **more)
        self.runtime.start(spec.id)
        return task

    def log(self, spec: BundleSpec) -> Path:
        return self.base / spec.id / "log"

    def until(self, condition: Callable[[], bool]) -> None:
        """Polls ``condition`` for at most 10 seconds."""
        for _ in range(1000):
            if condition():
                return
            _pause()
        raise AssertionError("the condition did not come true within 10 s")


def _pause() -> None:
    import select

    select.select([], [], [], 0.01)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    identity = secrets.token_hex(4)
    run_dir = Path("/run/reconciler") / f"test-{identity}"
    parent = f"/reconciler-test-{identity}"
    found = Host(tmp_path, Runtime(run_dir), parent)
    yield found
    for name in found.runtime.ids():
        found.runtime.delete(name)

    def released() -> bool:
        found.runtime.release(parent)
        return not Cgroups().directories(parent)

    found.until(released)  # a killed process leaves its control group a moment after it was killed
    assert not run_dir.exists()
