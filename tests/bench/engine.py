"""What the benchmark asks of an engine: command lines to time, and untimed steps between them."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

SLEEPERS = 20
ALWAYS = ("sleep", "1000000")


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of a command: wall-clock seconds, and the most memory in use meanwhile, in MiB."""

    seconds: float
    memory: float

    def times(self, factor: float) -> Sample:
        """What ``factor`` such runs one after the other would take."""
        return Sample(self.seconds * factor, self.memory)


class Engine(AbstractContextManager["Engine"], ABC):
    """An engine with its data in ``directory``, which pulls from the registry ``host`` over plain HTTP.

    ``archives`` are docker-archives by name. ``target`` is another registry, which has nothing at first.

    Methods that return a command line return None where the engine has no such thing.
    """

    name: ClassVar[str]
    resolves_at_once: ClassVar[bool] = False
    """Whether one command resolves any number of tags."""

    def __init__(self, directory: Path, host: str, archives: Mapping[str, Path], target: str) -> None:
        self.directory = directory
        self.host = host
        self.archives = archives
        self.target = target

    @classmethod
    @abstractmethod
    def installed(cls) -> bool: ...

    @abstractmethod
    def version(self) -> str:
        """Name and version of the engine's parts, for the head of the report."""

    @abstractmethod
    def environment(self) -> Mapping[str, str]:
        """What its commands need in the environment, besides our own."""

    @abstractmethod
    def forget(self, *references: str) -> None:
        """Removes the images with their layers, so that the next pull is cold. No error when there are none."""

    @abstractmethod
    def pull(self, image: str) -> list[str] | None:
        """Brings an image from the registry to disk, its layers unpacked."""

    def refresh(self, image: str) -> list[str] | None:
        """Makes sure that an image is the one that the registry has; it is."""
        return self.pull(image)

    def resolve(self, image: str, tags: Sequence[str]) -> list[str] | None:
        """Learns from the registry which manifests tags stand for."""
        return None

    def sync(self, image: str, repository: str) -> list[str] | None:
        """Makes all tags of an image's repository exist in ``repository`` at the registry ``target``."""
        return None

    def change(self, image: str, reference: str) -> list[str] | None:
        """Makes ``reference`` of an image from the registry and a layer with a new file of 1 MB."""
        script = "busybox dd if=/dev/urandom of=/new bs=1M count=1 2>/dev/null"
        return one_after_another(self.remove_writer(), self.write(image, script), self.commit(reference))

    def run(self, image: str, *command: str) -> list[str] | None:
        """Starts a container on the default bridge, waits for its end, and removes it."""
        return None

    def execute(self, *command: str) -> list[str] | None:
        """Runs a command in one of the sleepers."""
        return None

    def up(self, image: str) -> list[str] | None:
        """Starts the sleepers, by the fastest way the engine has."""
        return None

    def again(self, image: str) -> list[str] | None:
        """Finds that the sleepers, which are up, are as declared."""
        return None

    def down(self) -> list[str] | None:
        """Removes all sleepers. No error when there are none."""
        return None

    def containers(self) -> list[str] | None:
        """Lists the containers."""
        return None

    def load(self, archive: Path) -> list[str] | None:
        """Brings the images of a docker-archive into the store, with their layers unpacked."""
        return None

    def images(self) -> list[str] | None:
        """Lists the images."""
        return None

    def remove(self, images: Sequence[str]) -> list[str] | None:
        """Removes images by their names, bytes and all."""
        return None

    def write(self, image: str, script: str) -> list[str] | None:
        """Runs a shell script in a new container named ``writer``, to its end; the container stays."""
        return None

    def remove_writer(self) -> list[str] | None:
        """Removes the container ``writer``. No error when there is none."""
        return None

    def commit(self, reference: str) -> list[str] | None:
        """Makes an image of ``writer``."""
        return None

    def push(self, reference: str) -> list[str] | None:
        """Sends an image to the registry."""
        return None

    def peak_memory(self, child: float) -> float:
        """The most memory in use since the last command began, given that of the command itself, in MiB."""
        return child

    def timed(self, command: Sequence[str]) -> Sample:
        """Runs a command to its end. Raises ``RuntimeError`` with what it printed when it fails."""
        with tempfile.TemporaryFile() as output:
            begun = time.perf_counter()
            process = subprocess.Popen(
                command,
                env={**os.environ, **self.environment()},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - begun
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                output.seek(0)
                said = output.read()[-4000:].decode(errors="replace")
                raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{said}")
        return Sample(seconds, self.peak_memory(usage.ru_maxrss / 1024))

    def do(self, command: Sequence[str] | None) -> None:
        """Runs a command whose time does not matter."""
        if command is not None:
            self.timed(command)


def remove_groups(name: str) -> None:
    """Removes the empty control groups below ``name`` that an engine left: they alone have no namespace of ours."""
    for top in Path("/sys/fs/cgroup").glob(f"*/{name}"):
        for directory, _, _ in os.walk(top, topdown=False):
            with suppress(OSError):  # one that is in use belongs to somebody else
                Path(directory).rmdir()


def one_after_another(*commands: Sequence[str] | None) -> list[str] | None:
    """One command that runs all of them; None when one of them is."""
    lines = [shlex.join(command) for command in commands if command is not None]
    return ["sh", "-ec", "\n".join(lines)] if len(lines) == len(commands) else None


def four_at_a_time(command: str) -> list[str]:
    """Runs ``command`` once for every sleeper, its number in place of {}, as people do without Compose."""
    return ["sh", "-c", f"seq {SLEEPERS} | xargs -P4 -I{{}} {command} >/dev/null"]
