"""reconciler, by its command."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from reconciler import __version__
from tests.bench.engine import ALWAYS, SLEEPERS, Engine, remove_groups

# Which one is measured: `run` installs one as people have it.
_COMMAND = os.environ.get("BENCH_RECONCILER") or str(Path(sys.executable).with_name("reconciler"))


class Ours(Engine):
    name = "reconciler"
    resolves_at_once = True

    @classmethod
    def installed(cls) -> bool:
        return True

    def version(self) -> str:
        return f"reconciler: {__version__} (Python {sys.version.split()[0]})"

    def environment(self) -> Mapping[str, str]:
        return {"RECONCILER_ROOT": str(self._root)}

    @property
    def _root(self) -> Path:
        return self.directory / "root"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._root.exists():
            self.do([_COMMAND, "destroy", "--all", "--yes"])
            remove_groups(f"reconciler-{(self._root / 'id').read_text().strip()}")

    def forget(self, *references: str) -> None:
        self.do(["sh", "-c", f"{_COMMAND} image rm --force {' '.join(references)} 2>/dev/null; true"])

    def pull(self, image: str) -> list[str]:
        return [_COMMAND, "--progress=quiet", "image", "pull", "--plain-http", f"{self.host}/{image}"]

    def resolve(self, image: str, tags: Sequence[str]) -> list[str]:
        pulls = {f"tag-{tag}": {"pull": f"{self.host}/{image}:{tag}", "pull_policy": "always"} for tag in tags}
        return [_COMMAND, "plan", str(self._spec("resolved", images=pulls))]

    def sync(self, image: str, repository: str) -> list[str]:
        syncs = {f"{self.target}/{repository}/{image}": {"from": f"{self.host}/{image}"}}
        return self._apply("synced", syncs=syncs)

    def run(self, image: str, *command: str) -> list[str]:
        return [_COMMAND, "container", "run", "--rm", f"{self.host}/{image}", *command]

    def execute(self, *command: str) -> list[str]:
        return [_COMMAND, "container", "exec", "sleepers/sleeper1", *command]

    def up(self, image: str) -> list[str]:
        return self._apply("sleepers", **self._sleepers(image))

    def again(self, image: str) -> list[str]:
        return [_COMMAND, "plan", str(self._spec("sleepers", **self._sleepers(image)))]

    def down(self) -> list[str]:
        return self._apply("sleepers", "--allow-empty", "--max-deletes=1000")

    def containers(self) -> list[str]:
        return [_COMMAND, "container", "ls"]

    def load(self, archive: Path) -> list[str]:
        return [_COMMAND, "--progress=quiet", "image", "load", "--input", str(archive)]

    def images(self) -> list[str]:
        return [_COMMAND, "image", "ls"]

    def remove(self, images: Sequence[str]) -> list[str]:
        return [_COMMAND, "image", "rm", *images]

    def write(self, image: str, script: str) -> list[str]:
        return [_COMMAND, "container", "run", "--name", "writer", f"{self.host}/{image}", "sh", "-c", script]

    def remove_writer(self) -> list[str]:
        return ["sh", "-c", f"{_COMMAND} container rm --force writer 2>/dev/null; true"]

    def commit(self, reference: str) -> list[str]:
        return [_COMMAND, "container", "commit", "writer", reference]

    def push(self, reference: str) -> list[str]:
        return [_COMMAND, "--progress=quiet", "image", "push", "--plain-http", reference]

    def _sleepers(self, image: str) -> dict[str, Any]:
        # As `rm --force` does it: a sleep that is process 1 does not heed SIGTERM.
        one = {"image": f"{self.host}/{image}", "command": list(ALWAYS), "stop_signal": "SIGKILL"}
        return {"containers": {f"sleeper{number}": one for number in range(1, SLEEPERS + 1)}}

    def _apply(self, stack: str, *options: str, **sections: Any) -> list[str]:
        return [_COMMAND, "--progress=quiet", "apply", "--yes", *options, str(self._spec(stack, **sections))]

    def _spec(self, stack: str, **sections: Any) -> Path:
        path = self.directory / f"{stack}.json"
        registries = {host: {"plain_http": True} for host in (self.host, self.target)}
        path.write_text(
            json.dumps({"apiVersion": "reconciler/v1", "stack": stack, "registries": registries, **sections})
        )
        return path
