"""skopeo and umoci: a layout on disk, unpacked into a bundle. No daemon, no containers, no list of images."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.bench.engine import Engine, one_after_another


class Umoci(Engine):
    name = "umoci"

    @classmethod
    def installed(cls) -> bool:
        return all(shutil.which(program) for program in ("skopeo", "umoci"))

    def version(self) -> str:
        versions = [
            subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
            for program in ("skopeo", "umoci")
        ]
        return "umoci: skopeo {} with umoci {}".format(*versions)

    def environment(self) -> Mapping[str, str]:
        return {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def forget(self, *references: str) -> None:
        shutil.rmtree(self.directory / "layout", ignore_errors=True)
        shutil.rmtree(self.directory / "bundle", ignore_errors=True)

    def pull(self, image: str) -> list[str] | None:
        return self._copied("--src-tls-verify=false", f"docker://{self.host}/{image}")

    def refresh(self, image: str) -> list[str] | None:
        return self._inspect(image)

    def resolve(self, image: str, tags: Sequence[str]) -> list[str] | None:
        return one_after_another(*(self._inspect(f"{image}:{tag}") for tag in tags))

    def sync(self, image: str, repository: str) -> list[str] | None:
        options = ["--src=docker", "--dest=docker", "--src-tls-verify=false", "--dest-tls-verify=false"]
        # It puts the repository's own name below what it is given.
        return ["skopeo", "sync", *options, f"{self.host}/{image}", f"{self.target}/{repository}"]

    def change(self, image: str, reference: str) -> list[str] | None:
        new, layout = self.directory / "new", f"{self.directory / 'changed'}:image"
        return one_after_another(
            ["rm", "-rf", str(self.directory / "changed")],
            ["skopeo", "copy", "--quiet", "--src-tls-verify=false", f"docker://{self.host}/{image}", f"oci:{layout}"],
            ["dd", "if=/dev/urandom", f"of={new}", "bs=1M", "count=1", "status=none"],
            ["umoci", "insert", "--image", layout, str(new), "/new"],
        )

    def push(self, reference: str) -> list[str] | None:
        layout = f"oci:{self.directory / 'changed'}:image"
        return ["skopeo", "copy", "--quiet", "--dest-tls-verify=false", layout, f"docker://{reference}"]

    def load(self, archive: Path) -> list[str] | None:
        return self._copied(f"docker-archive:{archive}")

    def _inspect(self, image: str) -> list[str]:
        return ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{self.host}/{image}"]

    def _copied(self, *source: str) -> list[str] | None:
        layout = f"{self.directory / 'layout'}:image"
        return one_after_another(
            ["skopeo", "copy", "--quiet", *source, f"oci:{layout}"],
            ["umoci", "unpack", "--image", layout, str(self.directory / "bundle")],
        )
