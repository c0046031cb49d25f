"""Whatever reached the disk when the power was cut: the root opens, and nothing that it claims is lost."""

from __future__ import annotations

import itertools
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from reconciler.engine.embedded.upkeep.verify import verify_root
from reconciler.testing import crash, invariants, powerloss
from reconciler.testing.iolog import IoLog, Record
from reconciler.testing.workload import Part, Workload

pytestmark = [pytest.mark.root, pytest.mark.timeout(24 * 3600)]

SHORT_SECONDS = 20
LONG_STATES = 2000
GC = Part("gc", (("gc",),))


@dataclass(frozen=True)
class Recording:
    """What one part of the workload did, from a root that was wholly on disk."""

    part: Part
    begun: Path | None
    records: list[Record]


@dataclass
class Theatre:
    """The workload, recorded part by part."""

    workload: Workload
    place: Path
    trees: invariants.Trees = field(default_factory=dict)
    left: dict[str, list[str]] = field(default_factory=dict)
    recordings: list[Recording] = field(default_factory=list)

    @property
    def output(self) -> Path:
        return self.place / "output"

    def run(self, part: Part) -> None:
        ended = crash.forked(lambda: self.workload.run(part), self.output)
        assert ended.code == 0, ended.printed

    def collected(self) -> list[str]:
        invariants.let_time_pass(self.workload.root)
        self.run(GC)
        assert invariants.problems(self.workload.root, self.trees) == []
        report = verify_root(self.workload.root, layers=True)
        assert report.is_clean, report.lines()
        return invariants.listing(self.workload.root)

    def record(self) -> None:
        """Each part undisturbed, and each killed at some places and then finished: the disk forgets nothing by that."""
        begun: Path | None = None
        for number, part in enumerate(self.workload.parts):
            whole = self._recorded(part, begun, None)
            self.left[part.name] = self.collected()
            after = self.place / f"after-{part.name}"
            self.workload.save(after)
            self.recordings.append(whole)
            chance = Random(number)
            for _ in range(3):
                self.recordings.append(self._recorded(part, begun, chance.randrange(1, len(whole.records))))
            begun = after

    def _recorded(self, part: Part, begun: Path | None, killed_after: int | None) -> Recording:
        self.workload.prepare(begun)
        log = IoLog(self.workload.root, self.place / f"log-{len(self.recordings)}-{part.name}")

        def work() -> int:
            log.begin()
            return self.workload.run(part)

        if killed_after is not None:
            log.die_after = killed_after
            assert crash.forked(work, self.output, log).code < 0
            log.die_after = None
        ended = crash.forked(work, self.output, log)
        assert ended.code == 0, ended.printed
        return Recording(part, begun, log.records())

    def check(self, seed: int) -> str:
        """One state after a power loss; the name of the operation in which it happened."""
        chance = Random(seed)
        recording = chance.choice(self.recordings)
        moment = chance.randint(0, len(recording.records))
        state = powerloss.state_at(recording.records, moment, chance, recording.begun)
        self.workload.prepare(None)
        powerloss.build(state, self.workload.root)
        last = recording.records[moment - 1] if moment else None
        at = f"{recording.part.name}: {last.name if last else 'nothing'}"
        try:
            report = verify_root(self.workload.root)
            assert not report.damage, report.lines()
            self.run(recording.part)
            assert self.collected() == self.left[recording.part.name]
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, after record {moment} ({at}): {error}") from error
        return at


@pytest.fixture(scope="module")
def theatre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theatre]:
    place = tmp_path_factory.mktemp("power")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0700", "tmpfs", place], check=True)
    workload = Workload(place)
    try:
        theatre = Theatre(workload, place)
        crash.preload(lambda: [workload.run(part) for part in workload.parts][-1], theatre.output)
        theatre.record()
        yield theatre
    finally:
        workload.prepare(None)
        for mounted in reversed(invariants.mounted_below(place)):
            subprocess.run(["umount", mounted], check=True)
        subprocess.run(["umount", place], check=True)


def test_s50_s02_s04_every_invariant_holds_after_a_power_loss(
    theatre: Theatre, long_run: bool, say: Callable[[str], None]
) -> None:
    deadline = time.monotonic() + SHORT_SECONDS
    counts: Counter[str] = Counter()
    for seed in range(LONG_STATES) if long_run else itertools.count():
        counts[theatre.check(seed)] += 1
        if not long_run and time.monotonic() > deadline:
            break
    say(f"power lost {counts.total()} times, after {len(counts)} different operations")
