"""Several processes at work on one root, killed at any moment: it stays whole, converges, and leaks nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from reconciler.engine.embedded.upkeep.verify import verify_root
from reconciler.testing import crash, invariants
from reconciler.testing.workload import Part, Workload

pytestmark = [pytest.mark.root, pytest.mark.timeout(24 * 3600)]

SHORT_SECONDS = 20
LONG_KILLS = 5000
AT_ONCE = 4
KILLS_A_ROUND = 25
LONGEST = 0.15
"""Seconds between two kills, at most: about what the longest command takes."""
READING = (Part("list", (("image", "ls"),)), Part("status", (("status",),)), Part("plan", (("gc", "--plan"),)))


class Crowd:
    """Processes that each run one part of the workload, a new one for each that ended."""

    def __init__(self, workload: Workload, place: Path, chance: Random) -> None:
        self._workload = workload
        self._place = place
        self._chance = chance
        self._running: dict[int, tuple[Part, Path]] = {}
        self._started = 0
        self.ended = 0

    def fill(self) -> None:
        while len(self._running) < AT_ONCE:
            part = self._chance.choice((*self._workload.parts, *READING))
            output = self._place / f"output-{self._started}"
            self._started += 1
            self._running[crash.start(lambda part=part: self._workload.run(part), output)] = (part, output)

    def kill_one(self) -> None:
        """Kills one by its process id, and collects those that have ended."""
        time.sleep(self._chance.random() * LONGEST)
        victim = self._chance.choice(list(self._running))
        os.kill(victim, signal.SIGKILL)  # not waited for yet, so the id is still its own
        self._collect(victim, 0)
        for child in list(self._running):
            self._collect(child, os.WNOHANG)

    def finish(self) -> None:
        for child in list(self._running):
            self._collect(child, 0)

    def _collect(self, child: int, flags: int) -> None:
        done, status = os.waitpid(child, flags)
        if not done:
            return
        part, output = self._running.pop(child)
        code = os.waitstatus_to_exitcode(status)
        printed = output.read_text()
        output.unlink()
        self.ended += code >= 0
        assert "Traceback" not in printed, f"{part.name}: {printed}"
        # What it names may just have gone (1), or be half there (4).
        assert code in (0, 1, 4, -signal.SIGKILL), f"{part.name} ended with {code}: {printed}"


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workload]:
    place = tmp_path_factory.mktemp("kills")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0700", "tmpfs", place], check=True)
    workload = Workload(place)
    try:
        crash.preload(lambda: [workload.run(part) for part in (*workload.parts, *READING)][-1], place / "output")
        yield workload
    finally:
        workload.prepare(None)
        for mounted in reversed(invariants.mounted_below(place)):
            subprocess.run(["umount", mounted], check=True)
        subprocess.run(["umount", place], check=True)


def settled(workload: Workload, trees: invariants.Trees) -> list[str]:
    """What is left when everything was run once more, undisturbed, and garbage was collected after a while."""
    output = workload.place / "output"
    for part in workload.parts:
        ended = crash.forked(lambda part=part: workload.run(part), output)
        assert ended.code == 0, f"{part.name}: {ended.printed}"
    invariants.let_time_pass(workload.root)
    assert crash.forked(lambda: workload.run(Part("gc", (("gc",),))), output).code == 0
    assert invariants.problems(workload.root, trees) == []
    report = verify_root(workload.root, layers=True)
    assert report.is_clean, report.lines()
    return invariants.listing(workload.root)


def test_s49_killed_at_random_under_mixed_load(
    workload: Workload, tmp_path: Path, long_run: bool, say: Callable[[str], None]
) -> None:
    workload.prepare(None)
    trees: invariants.Trees = {}
    whole = settled(workload, trees)
    crowd = Crowd(workload, workload.place, Random(49))
    kills = 0
    deadline = time.monotonic() + SHORT_SECONDS
    while kills < LONG_KILLS if long_run else time.monotonic() < deadline:
        for _ in range(KILLS_A_ROUND):
            crowd.fill()
            crowd.kill_one()
            kills += 1
        crowd.finish()
        report = verify_root(workload.root)
        assert not report.damage, report.lines()
        assert settled(workload, trees) == whole
    say(f"killed {kills} processes at random; {crowd.ended} came to their end between")
