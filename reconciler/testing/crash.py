"""Killing or failing a workload at each operation that it announces (``linux.watch``), in a process of its own.

    spots = listen(work, log)                  # every operation, in every phase, in order
    ended = disturbed(work, spots[0], None)    # the same work, killed there

The workload runs in a forked child, so hundreds of them take seconds. An operation is found again by its name and by
how many of that name came before it: threads may change the order of different names.
"""

from __future__ import annotations

import importlib
import mmap
import os
import signal
import sys
import traceback
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from reconciler.linux import watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from reconciler.linux.watch import Observer, Operation, Phase

UNEXPECTED = 70
"""The exit code of a workload that raised something that no command may raise."""
_COUNT_BYTES = 8


@dataclass(frozen=True, slots=True)
class Spot:
    """The ``nth`` time (from 1) that an operation of this name is in this phase."""

    phase: Phase
    name: str
    nth: int = 1

    def __str__(self) -> str:
        return f"{self.phase} {self.name} #{self.nth}"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a workload ended: its exit code, negative for a signal, and all that it printed."""

    code: int
    printed: str


def forked(work: Callable[[], int], output: Path, observer: Observer | None = None) -> Ended:
    """Runs ``work`` in a child of this process, which prints to the file ``output``."""
    child = start(work, output, observer)
    _, status = os.waitpid(child, 0)
    return Ended(os.waitstatus_to_exitcode(status), output.read_text(errors="replace"))


def start(work: Callable[[], int], output: Path, observer: Observer | None = None) -> int:
    """As ``forked``, without waiting: the child's process id."""
    # Before the fork: a child may be killed before its first instruction, and its output is read all the same.
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    child = os.fork()
    if child:
        os.close(handle)
        return child
    code = UNEXPECTED
    try:
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  the test's own may be a buffer
        sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
        if observer is None:
            code = work()
        else:
            with watch.observed(observer):
                code = work()
    except BaseException:  # noqa: BLE001  told by the exit code
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def listen(work: Callable[[], int], output: Path) -> tuple[Ended, list[Spot]]:
    """Runs the workload undisturbed: how it ended, and every spot that it came by, in its children too."""
    log = output.with_suffix(".spots")
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)

    def hear(phase: Phase, operation: Operation) -> None:
        os.write(descriptor, f"{phase} {operation.name}\n".encode())

    try:
        ended = forked(work, output, hear)
    finally:
        os.close(descriptor)
    seen: Counter[str] = Counter()
    spots = []
    for line in log.read_text().splitlines():
        seen[line] += 1
        phase, name = line.split(" ")
        spots.append(Spot(cast("Phase", phase), name, seen[line]))
    return ended, spots


def disturbed(work: Callable[[], int], spot: Spot, number: int | None, output: Path) -> Ended:
    """Runs the workload and at ``spot`` kills it (None), or lets the operation fail with the error ``number``.

    Only its first process is killed: a worker of it goes on until it notices.
    """
    count = mmap.mmap(-1, _COUNT_BYTES)
    top: list[int] = []

    def strike(phase: Phase, operation: Operation) -> None:
        if phase != spot.phase or operation.name != spot.name:
            return
        nth = int.from_bytes(count[:], "little") + 1
        count[:] = nth.to_bytes(_COUNT_BYTES, "little")
        if nth != spot.nth:
            return
        if number is not None:
            raise OSError(number, os.strerror(number), str(operation.path))
        os.kill(top[0], signal.SIGKILL)
        if os.getpid() == top[0]:
            signal.pause()

    def body() -> int:
        top.append(os.getpid())
        return work()

    return forked(body, output, strike)


def preload(work: Callable[[], int], output: Path) -> None:
    """Imports here what ``work`` imports, so that every child begins with it. Runs it once, in a child."""
    names = output.with_suffix(".modules")

    def tell() -> int:
        code = work()
        names.write_text("\n".join(sys.modules))
        return code

    ended = forked(tell, output)
    assert ended.code == 0, ended.printed
    for name in names.read_text().splitlines():
        if name.partition(".")[0] not in _OURS_TO_SKIP and name not in sys.modules:
            _import(name)


_OURS_TO_SKIP = {"__main__", "tests", "conftest", "_pytest", "pytest"}


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except ImportError:
        return  # made by its parent module, not by an import


def sample(spots: Iterable[Spot], often: Counter[tuple[str, str]], most: int) -> list[Spot]:
    """Of each name and phase one spot, which one is left to chance but the same each time: what a short run can afford.

    ``often`` counts them from one call to the next; what was taken ``most`` times is left out.
    """
    found: dict[tuple[str, str], list[Spot]] = {}
    for spot in spots:
        found.setdefault((spot.phase, spot.name), []).append(spot)
    taken = [kind for kind in found if often[kind] < most]
    often.update(taken)
    return [found[kind][zlib.crc32(repr(kind).encode()) % len(found[kind])] for kind in taken]
