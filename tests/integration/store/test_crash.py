"""A root that was killed or failed at every operation opens, keeps its promises, converges and leaks nothing."""

from __future__ import annotations

import errno
import itertools
import os
import resource
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from reconciler.engine.embedded.upkeep.verify import verify_root
from reconciler.linux.watch import Operation, Phase
from reconciler.testing import crash, invariants
from reconciler.testing.crash import Ended, Spot
from reconciler.testing.images import archive, entry, push_image
from reconciler.testing.registry_server import running_registry
from reconciler.testing.workload import Part, Workload

pytestmark = [pytest.mark.root, pytest.mark.timeout(24 * 3600)]

ERRORS = (errno.ENOSPC, errno.EIO, errno.EMFILE, errno.EROFS)
MORE_ERRORS = (errno.EDQUOT, errno.ENOMEM)
# What a command may end with when its host fails it: an error, partly applied.
EXPECTED_CODES = (0, 1, 4)


@dataclass
class Stage:
    """A workload whose parts have run once undisturbed: where each began and what each left."""

    workload: Workload
    place: Path
    trees: invariants.Trees = field(default_factory=dict)
    begun: dict[str, Path | None] = field(default_factory=dict)
    left: dict[str, list[str]] = field(default_factory=dict)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def output(self) -> Path:
        return self.place / "output"

    def rehearse(self, parts: tuple[Part, ...]) -> None:
        self.workload.prepare(None)
        saved: Path | None = None
        for part in parts:
            self.begun[part.name] = saved
            ended = crash.forked(lambda part=part: self.workload.run(part), self.output)
            assert ended.code == 0, ended.printed
            self.left[part.name] = self.collected()
            saved = self.place / f"after-{part.name}"
            self.workload.save(saved)

    def collected(self) -> list[str]:
        """What is in the root once time has passed and garbage was collected."""
        root = self.workload.root
        invariants.let_time_pass(root)
        ended = crash.forked(lambda: self.workload.run(Part("gc", (("gc",),))), self.output)
        assert ended.code == 0, ended.printed
        assert invariants.problems(root, self.trees) == []
        report = verify_root(root, layers=True)
        assert report.is_clean, report.lines()
        return invariants.listing(root)

    def spots(self, part: Part) -> list[Spot]:
        self.workload.prepare(self.begun[part.name])
        ended, spots = crash.listen(lambda: self.workload.run(part), self.output)
        assert ended.code == 0, ended.printed
        return spots

    def check(self, part: Part, spot: Spot, number: int | None) -> None:
        """Disturbs a part at ``spot``; then everything must be as if that had not happened."""
        kind = "kill" if number is None else errno.errorcode[number]
        self.workload.prepare(self.begun[part.name])
        ended = crash.disturbed(lambda: self.workload.run(part), spot, number, self.output)
        self.counts[f"{part.name}: {spot.name}", kind] += 1
        try:
            self._check(part, ended, number)
        except AssertionError as error:
            raise AssertionError(f"{part.name}: {kind} {spot}\n{ended.printed}\n{error}") from error

    def _check(self, part: Part, ended: Ended, number: int | None) -> None:
        if number is not None:
            assert ended.code in EXPECTED_CODES, f"exit code {ended.code}"
            assert "Traceback" not in ended.printed
            assert ended.code == 0 or "error: " in ended.printed or "FAILED: " in ended.printed
        self.converges(part)

    def converges(self, part: Part) -> None:
        """Nothing is damaged; the part run once more comes to its end, and nothing else is left."""
        report = verify_root(self.workload.root)
        assert not report.damage, report.lines()
        again = crash.forked(lambda: self.workload.run(part), self.output)
        assert again.code == 0, f"the next run: {again.printed}"
        assert self.collected() == self.left[part.name]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_registry(tmp_path_factory.mktemp("registry")) as server:
        push_image(f"{server.host}/app:1", archive([entry("etc"), entry("etc/far", b"far" * 1000)]))
        yield server.host


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, registry: str) -> Iterator[Stage]:
    place = tmp_path_factory.mktemp("crash")
    # In memory: what is tested is the order of operations, and thousands of fsyncs would only take time.
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0700", "tmpfs", place], check=True)
    workload = Workload(place, registry)
    try:
        stage = Stage(workload, place)
        crash.preload(lambda: [workload.run(part) for part in workload.parts][-1], stage.output)
        stage.rehearse(workload.parts)
        yield stage
    finally:
        workload.prepare(None)
        for mounted in reversed(invariants.mounted_below(place)):
            subprocess.run(["umount", mounted], check=True)
        subprocess.run(["umount", place], check=True)


def table(title: str, counts: Counter[tuple[str, str]]) -> str:
    """How often each operation was disturbed, and how."""
    kinds = sorted({kind for _, kind in counts})
    lines = [f"{title:60}" + "".join(f"{kind:>8}" for kind in kinds)]
    lines += [
        f"  {name:58}" + "".join(f"{counts[name, kind]:8}" for kind in kinds)
        for name in sorted({name for name, _ in counts})
    ]
    return "\n".join([*lines, f"  {counts.total()} in all"])


def test_s01_to_s13_killed_anywhere_the_root_is_whole_and_converges(
    stage: Stage, long_run: bool, say: Callable[[str], None]
) -> None:
    stage.counts.clear()
    often: Counter[tuple[str, str]] = Counter()
    for part in stage.workload.parts:
        spots = stage.spots(part)
        for spot in spots if long_run else crash.sample(spots, often, 1):
            stage.check(part, spot, None)
    say(table("killed", stage.counts))


def test_s29_s31_a_failure_anywhere_is_told_and_leaves_no_damage(
    stage: Stage, long_run: bool, say: Callable[[str], None]
) -> None:
    stage.counts.clear()
    numbers = itertools.cycle(ERRORS)
    often: Counter[tuple[str, str]] = Counter()
    for part in stage.workload.parts:
        spots = [spot for spot in stage.spots(part) if spot.phase != "after" or long_run]
        for spot in spots if long_run else crash.sample(spots, often, 1):
            for number in (*ERRORS, *MORE_ERRORS) if long_run else (next(numbers),):
                stage.check(part, spot, number)
    say(table("failed", stage.counts))


def test_killed_again_while_what_a_kill_left_is_put_in_order(
    stage: Stage, long_run: bool, say: Callable[[str], None]
) -> None:
    chance = Random(7)
    times = 500 if long_run else 12
    for _ in range(times):
        part = chance.choice(stage.workload.parts)
        spots = stage.spots(part)
        stage.workload.prepare(stage.begun[part.name])
        for _ in range(3):
            # A spot that a run does not come to any more is no harm: then it comes to its end.
            crash.disturbed(lambda part=part: stage.workload.run(part), chance.choice(spots), None, stage.output)
        stage.converges(part)
    say(f"killed three times in a row, {times} times over")


@pytest.mark.parametrize("files", [16, 20, 24, 28, 34, 42])
def test_s31_too_few_open_files_for_real(stage: Stage, files: int) -> None:
    part = stage.workload.parts[0]

    def run() -> int:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
        return stage.workload.run(part)

    stage.workload.prepare(None)
    ended = crash.forked(run, stage.output)
    assert ended.code in EXPECTED_CODES, ended.printed
    assert "Traceback" not in ended.printed, ended.printed
    if ended.code:
        assert "Too many open files" in ended.printed or "unable to open" in ended.printed, ended.printed
    stage.converges(part)


def test_a_file_that_may_not_grow_is_told(stage: Stage) -> None:
    part = stage.workload.parts[0]

    def run() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        return stage.workload.run(part)

    stage.workload.prepare(None)
    ended = crash.forked(run, stage.output)
    assert ended.code in (1, 4), ended.printed
    assert "Traceback" not in ended.printed, ended.printed
    stage.converges(part)


def test_s31_a_disk_that_turns_read_only_for_real(stage: Stage) -> None:
    """As ext4 does after an error: what reads goes on working, what writes says why it does not."""
    images, *_, last = stage.workload.parts
    stage.workload.prepare(stage.begun[last.name])
    subprocess.run(["mount", "-o", "remount,ro", stage.place], check=True)
    try:
        outside = Path("/run") / f"crash-output-{os.getpid()}"
        reading = crash.forked(lambda: stage.workload.run(Part("list", (("image", "ls"),))), outside)
        assert reading.code == 0, reading.printed
        writing = crash.forked(lambda: stage.workload.run(Part("tag", images.commands[1:])), outside)
        assert writing.code in (1, 4), writing.printed
        assert "Traceback" not in writing.printed
        assert "read-write" in writing.printed, writing.printed
    finally:
        outside.unlink(missing_ok=True)
        subprocess.run(["mount", "-o", "remount,rw", stage.place], check=True)
    stage.converges(last)


def test_a_worker_outlives_its_killed_parent_for_a_moment(stage: Stage) -> None:
    """The next run must not take up a layer that an orphan is still writing to."""
    part = stage.workload.parts[0]
    stage.workload.prepare(None)
    child = crash.start(lambda: stage.workload.run(part), stage.output, _Slow())
    deadline = time.monotonic() + 20
    while not list((stage.workload.root / "layers").glob("*.unpacking/*")) and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    stage.converges(part)


class _Slow:
    """An unpack that takes its time over each entry."""

    def __call__(self, phase: Phase, operation: Operation) -> None:
        if operation.kind == "entry" and phase == "after":
            time.sleep(0.02)
