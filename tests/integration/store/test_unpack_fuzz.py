"""Random layers, whole and bent, given to the extractor and to the layer rules: both must come to the same.

``--fuzz-seed=N`` makes one case again; ``--hypothesis-profile=long`` goes on for an hour.
"""

from __future__ import annotations

import gzip
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import zstandard

from reconciler.errors import HostError, ReconcilerError
from reconciler.linux import mounts
from reconciler.linux.tree import remove_tree
from reconciler.store.archive.limits import Limits
from reconciler.store.arrival import Arrival
from reconciler.store.check.compare import compare as compare_with_list
from reconciler.store.layers.extract import extract
from reconciler.store.layers.lower import LowerLayers
from reconciler.store.layers.worker_messages import Descriptors
from reconciler.store.layers.workers import Workers
from reconciler.testing import archive_fuzz, layer_rules, tar_rules, trees

pytestmark = pytest.mark.root

DESCRIPTORS = Path("/proc/self/fd")

SECONDS, LONG_SECONDS = 20, 3600
LIMITS = Limits(file_bytes=tar_rules.MOST["file"])


@dataclass
class Bench:
    """Where cases are unpacked, and beside it what none of them may touch."""

    place: Path
    workers: Workers

    @property
    def outside(self) -> Path:
        return self.place / "outside"

    def prepare(self) -> None:
        self.outside.mkdir()
        (self.outside / "secret").write_text("secret")
        (self.outside / "directory").mkdir(0o711)
        (self.outside / "link").symlink_to("secret")
        (self.place / "empty").mkdir()
        (self.place / "mounted").mkdir()

    def untouched(self) -> object:
        paths = [self.place, *sorted(self.outside.rglob("*")), self.outside]
        fields = ("st_mode", "st_uid", "st_gid", "st_size", "st_nlink", "st_mtime_ns", "st_ino", "st_ctime_ns")
        listed = sorted(path.name for path in self.place.iterdir())
        return listed, [[getattr(path.lstat(), field) for field in fields] for path in paths[1:]]

    def merged(self, layers: list[Path]) -> trees.Tree:
        """What a container would see of layers, lowest first."""
        target = self.place / "mounted"
        mounts.mount(mounts.Overlay((*reversed(layers), self.place / "empty"), None, None, target))
        try:
            return trees.found(os.fsencode(target))
        finally:
            mounts.unmount(target)

    def case(self, seed: int) -> int:
        """One case; how many layers both accepted. Fails with what differs."""
        work = self.place / "work"
        work.mkdir()
        before = self.untouched()
        done: list[Path] = []
        tree: layer_rules.Node | None = None
        try:
            for number, data in enumerate(archive_fuzz.layers(seed, os.fsencode(self.outside))):
                layer = work / f"{number}"
                layer.mkdir(0o700)
                wanted, refused = ruled(tree, data)
                failure = self.unpacked(data, layer, done, seed)
                assert before == self.untouched(), f"layer {number} reached outside"
                assert (failure is None) == (wanted is not None), f"layer {number}: {failure!r}, by the rules {refused}"
                if wanted is None:
                    break
                recorded = compare_with_list(layer, layer.with_suffix(".files"))
                assert recorded.is_none, f"layer {number}, by its list of files: {recorded.lines}"
                tree = wanted
                done.append(layer)
            if tree is not None:
                compare(trees.expected(tree), self.merged(done))
        finally:
            remove_tree(work, point="test")
        return len(done)

    def unpacked(self, data: bytes, layer: Path, below: list[Path], seed: int) -> ReconcilerError | None:
        """The real thing, by turns in this process and in a worker that has the layer as its root."""
        with layer.with_suffix(".files").open("x+b") as files:
            try:
                if seed % 2:
                    chunks = (data[at : at + 3000] for at in range(0, len(data), 3000))
                    extract(chunks, layer, lambda: LowerLayers(below[::-1]), files.fileno(), LIMITS)
                else:
                    pack = (bytes, gzip.compress, zstandard.compress)[seed // 2 % 3]
                    self._in_worker(pack(data), layer, below[::-1], files.fileno())
            except ReconcilerError as error:
                assert type(error) not in (ReconcilerError, HostError), f"{layer.name}: {error}"
                return error
        return None

    def _in_worker(self, blob: bytes, layer: Path, below: list[Path], files: int) -> None:
        with ExitStack() as opened:
            source = opened.enter_context(tempfile.TemporaryFile())
            source.write(blob)
            source.flush()
            directory = os.open(layer, os.O_RDONLY | os.O_DIRECTORY)
            opened.callback(os.close, directory)
            arrival = opened.enter_context(Arrival())
            arrival.complete(source.fileno())
            attempt = arrival.attempt()
            opened.callback(attempt.close)
            job = Descriptors(directory, files, attempt.blob, attempt.signal)
            self.workers.run(0, job, layer, below, LIMITS)


def ruled(tree: layer_rules.Node | None, data: bytes) -> tuple[layer_rules.Node | None, object]:
    try:
        return layer_rules.apply(tree, tar_rules.members(data)), None
    except tar_rules.Refused as refused:
        return None, refused


def compare(wanted: trees.Tree, found: trees.Tree) -> None:
    for path in sorted(wanted.keys() | found.keys()):
        assert wanted.get(path) == found.get(path), f"{path!r} is {found.get(path)}, by the rules {wanted.get(path)}"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    place = tmp_path / "bench"
    place.mkdir()
    os.system(f"mount -t tmpfs -o size=512m tmpfs {place}")
    with Workers(1).start() as workers:
        made = Bench(place, workers)
        made.prepare()
        yield made
    mounts.unmount(place)


@pytest.mark.timeout(2 * LONG_SECONDS)
def test_the_extractor_and_the_rules_agree(
    bench: Bench, long_run: bool, pytestconfig: pytest.Config, say: Callable[[str], None]
) -> None:
    if (given := pytestconfig.getoption("--fuzz-seed")) is not None:
        bench.case(given)
        return
    first = random.SystemRandom().randrange(1 << 40)
    end = time.monotonic() + (LONG_SECONDS if long_run else SECONDS)
    descriptors = len(list(DESCRIPTORS.iterdir()))
    cases = layers = 0
    while time.monotonic() < end:
        try:
            layers += bench.case(first + cases)
        except BaseException:
            say(f"archives: make what failed again with --fuzz-seed={first + cases}")
            raise
        cases += 1
    say(f"archives: {cases} random stacks of layers, {layers} layers accepted, seeds from {first}")
    assert layers > cases / 4, "hardly anything was accepted: the generator does not test much"
    assert len(list(DESCRIPTORS.iterdir())) == descriptors
