"""A disk that is really full, at every size: a typed error, nothing damaged, and all goes on once there is space."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reconciler.engine.embedded.upkeep.verify import verify_root
from reconciler.testing import crash, invariants
from reconciler.testing.workload import Part, Workload

pytestmark = [pytest.mark.root, pytest.mark.timeout(1800)]

ENOUGH = "64m"
MANY = 100_000
PAGE = 4096
GC = Part("gc", (("gc",),))


class SmallDisk:
    """A filesystem in memory, of the size in kB and with as many inodes as asked for, that holds a workload's root."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.disk = place / "disk"
        self.disk.mkdir()
        options = f"size={ENOUGH},nr_inodes={MANY},mode=0700"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.disk], check=True)
        self.workload = Workload(place, root=self.disk / "root")
        self.output = place / "output"
        self.trees: invariants.Trees = {}

    def limit(self, size: str = ENOUGH, inodes: int = MANY) -> None:
        options = f"remount,size={size},nr_inodes={inodes}"
        subprocess.run(["mount", "-o", options, self.disk], check=True)

    def run(self, part: Part) -> crash.Ended:
        return crash.forked(lambda: self.workload.run(part), self.output)

    def settled(self) -> list[str]:
        for part in self.workload.parts:
            ended = self.run(part)
            assert ended.code == 0, f"{part.name}: {ended.printed}"
        invariants.let_time_pass(self.workload.root)
        assert self.run(GC).code == 0
        assert invariants.problems(self.workload.root, self.trees) == []
        assert verify_root(self.workload.root, layers=True).is_clean
        return invariants.listing(self.workload.root)

    def used(self) -> int:
        status = os.statvfs(self.disk)
        return (status.f_blocks - status.f_bfree) * status.f_frsize

    def inodes(self) -> int:
        status = os.statvfs(self.disk)
        return status.f_files - status.f_ffree


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    disk = SmallDisk(tmp_path)
    try:
        yield disk
    finally:
        disk.workload.prepare(None)
        subprocess.run(["umount", disk.disk], check=True)


def test_s29_s31_a_disk_that_fills_up_at_any_size(disk: SmallDisk, long_run: bool, say: Callable[[str], None]) -> None:
    crash.preload(lambda: [disk.workload.run(part) for part in disk.workload.parts][-1], disk.output)
    disk.workload.prepare(None)
    whole = disk.settled()
    disk.workload.prepare(None)
    empty, most = disk.used(), 0
    for part in disk.workload.parts:
        disk.run(part)
        most = max(most, disk.used())
    most += 16 * PAGE  # what the database's log and a layer on its way take for a moment
    sizes = range(empty + PAGE, most, PAGE * (1 if long_run else 10))
    failed: Counter[str] = Counter()
    for size in sizes:
        disk.workload.prepare(None)
        disk.limit(str(size))
        failed.update(_until_it_fails(disk))
        disk.limit()
        assert disk.settled() == whole
    disk.workload.prepare(None)
    for inodes in range(disk.inodes() + 1, disk.inodes() + 60, 1 if long_run else 16):
        disk.workload.prepare(None)
        disk.limit(inodes=inodes)
        failed.update(_until_it_fails(disk))
        disk.limit()
        assert disk.settled() == whole
    assert failed
    say(f"{failed.total()} commands failed on {len(sizes)} sizes of a full disk: {dict(failed)}")


def _until_it_fails(disk: SmallDisk) -> list[str]:
    """Runs the parts one after the other on the small disk; each fails as it should or works."""
    failed = []
    for part in disk.workload.parts:
        ended = disk.run(part)
        assert "Traceback" not in ended.printed, ended.printed
        assert ended.code in (0, 1, 4), ended.printed
        report = verify_root(disk.workload.root)
        assert not report.damage, report.lines()
        if ended.code:
            told = ended.printed.lower()
            assert "no space left" in told or "full" in told, ended.printed
            assert "free space" in told, ended.printed
            failed.append(part.name)
            break
    return failed
