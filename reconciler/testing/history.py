"""Many processes at random work on one root, and what each of them saw: the history that ``verdict`` judges.

    python -m reconciler.testing.history ROLE ROOT SECONDS SEED LOG

Writers and readers use the store below the root's lock, as a daemon does that pulls while others work; tenants take
turns with containers, names and collections; operators run the command line. Every operation is a line of LOG.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from reconciler.clock import SystemClock, rfc3339
from reconciler.engine.embedded.containers.rows import ContainerRow, Settings
from reconciler.engine.embedded.engine import EmbeddedEngine
from reconciler.engine.embedded.images.removal import ImageRemoval
from reconciler.engine.embedded.state import State, WriterState, open_writer
from reconciler.engine.embedded.upkeep.collect import Collection, collect
from reconciler.errors import ReconcilerError
from reconciler.linux.lock import DirectoryLock
from reconciler.oci import media
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.manifest import Manifest
from reconciler.oci.platform import Platform
from reconciler.store.images import ImageRecord, LayerRecord, Name
from reconciler.store.layers.workers import Workers
from reconciler.testing.images import archive, entry

PROGRAM = Path(sys.executable).with_name("reconciler")
NAMES = tuple(f"history.example/name:{number}" for number in range(6))
_LOCK_PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Sample:
    """An image that can be had at any time: its record, and every blob of it. ``files`` are those of its layers."""

    record: ImageRecord
    blobs: tuple[bytes, ...]
    files: tuple[tuple[str, bytes], ...]


def samples() -> tuple[Sample, ...]:
    """The images of all histories: nine, each of a base that three share, a middle that two share, and its own."""
    return tuple(_sample((f"base-{n % 3}", f"middle-{n % 4}", f"own-{n}")) for n in range(9))


def store_image(state: State, sample: Sample, name: str, workers: Workers | None = None) -> None:
    """What a pull does, from memory: lease, blobs, layers, record, name."""
    record = sample.record
    with state.leases.take(f"pull {name}", [record.digest]) as lease:
        lease.add([*record.blobs, *record.chain_ids])
        for blob in sample.blobs:
            state.content.put(blob)
        with state.layers.unpacking([layer.diff_id for layer in record.layers], workers) as unpacking:
            for at in unpacking.missing:
                with state.content.open(record.layers[at].digest) as source:
                    unpacking.unpack(at, source, record.layers[at].digest)
            unpacking.publish()
        with state.database.transaction():
            state.images.add(record)
            state.names.set(Name(name, record.digest, "", "tag"))


def check_image(state: State, sample: Sample) -> None:
    """Raises ``AssertionError`` when a byte of the image is not as it was stored."""
    for blob in sample.blobs:
        assert state.content.read(Digest.of(blob), len(blob)) == blob
    for chain_id, (name, data) in zip(sample.record.chain_ids, sample.files, strict=True):
        assert state.layers.has(chain_id), f"layer {chain_id} has no row"
        assert (state.layers.path(chain_id) / name).read_bytes() == data


class Recorder:
    """Writes one line for each operation: when it began and ended on the clock that all processes share, and how."""

    def __init__(self, log: TextIO) -> None:
        self._log = log

    @contextlib.contextmanager
    def operation(self, kind: str, **details: Any) -> Iterator[dict[str, Any]]:
        """``details`` may be added to. An error is noted as its type, and ours goes no further."""
        details |= {"kind": kind, "start": time.monotonic(), "pid": os.getpid()}
        try:
            yield details
            details["result"] = "ok"
        except ReconcilerError as error:
            details |= {"result": type(error).__name__, "text": f"{error}"}
        except BaseException as error:
            details |= {"result": f"untyped {type(error).__name__}", "text": f"{error}"}
            raise
        finally:
            details["end"] = time.monotonic()
            self._log.write(json.dumps(details) + "\n")
            self._log.flush()


class Player:
    """One process: chooses operations until its time is up."""

    def __init__(self, root: Path, seed: int, recorder: Recorder) -> None:
        self.root = root
        self.random = random.Random(seed)
        self.record = recorder
        self.samples = samples()
        self.workers = Workers()

    def choices(self) -> list[tuple[int, Callable[[], None]]]:
        """The operations and their weights."""
        raise NotImplementedError

    def play(self, seconds: float) -> None:
        weights, operations = zip(*self.choices(), strict=True)
        deadline = time.monotonic() + seconds
        self.workers.start()
        try:
            while time.monotonic() < deadline:
                self.random.choices(operations, weights)[0]()
        finally:
            self.workers.close()

    def name(self) -> str:
        return self.random.choice(NAMES)

    def sample(self) -> Sample:
        return self.random.choice(self.samples)

    def of(self, digest: str) -> Sample:
        return next(sample for sample in self.samples if sample.record.digest == digest)


class Writer(Player):
    """Uses the store's classes on a handle of its own, with leases and, once it is open, without the root's lock."""

    def __init__(self, root: Path, seed: int, recorder: Recorder) -> None:
        super().__init__(root, seed, recorder)
        with DirectoryLock(root).acquire(_LOCK_PATIENCE):
            self.state: WriterState = open_writer(root)

    def choices(self) -> list[tuple[int, Callable[[], None]]]:
        return [(4, self.pull), (2, self.tag), (4, self.untag), (6, self.read)]

    def pull(self) -> None:
        sample, name = self.sample(), self.name()
        with self.record.operation("set", by="pull", name=name, image=sample.record.digest):
            store_image(self.state, sample, name, self.workers)

    def tag(self) -> None:
        sample, name = self.sample(), self.name()
        with self.record.operation("set", by="tag", name=name, image=sample.record.digest):
            self.state.names.set(Name(name, sample.record.digest, "", "tag"))

    def untag(self) -> None:
        with self.record.operation("remove", name=self.name()) as seen:
            seen["removed"] = self.state.names.remove(seen["name"])

    def read(self) -> None:
        name = self.name()
        with self.record.operation("get", name=name) as seen:
            found = self.state.names.lookup(name)
            seen["image"] = found.digest if found else None
        if found is None:
            return
        with self.record.operation("read", image=found.digest) as seen, self.state.leases.take("read", [found.digest]):
            again = self.state.names.lookup(name)
            seen["whole"] = again is not None and again.digest == found.digest
            if seen["whole"]:
                check_image(self.state, self.of(found.digest))


class Tenant(Player):
    """Takes turns: containers of its own, names, removals and collections."""

    def __init__(self, root: Path, seed: int, recorder: Recorder) -> None:
        super().__init__(root, seed, recorder)
        self.engine = EmbeddedEngine(root)
        self.containers: dict[str, Sample] = {}

    def choices(self) -> list[tuple[int, Callable[[], None]]]:
        changes = [(3, self.pull), (4, self.create), (3, self.drop), (2, self.remove), (1, self.tag), (6, self.collect)]
        return [*changes, (5, self.use)]

    def pull(self) -> None:
        sample, name = self.sample(), self.name()
        with self.record.operation("set", by="pull", name=name, image=sample.record.digest), self._turn() as state:
            store_image(state, sample, name, self.workers)

    def create(self) -> None:
        name, container_id = self.name(), self.random.randbytes(32).hex()
        with self.record.operation("create", container=container_id, name=name) as seen, self._turn() as state:
            found = state.names.lookup(name)
            seen["image"] = found.digest if found else None
            if found is None:
                return
            sample = self.of(found.digest)
            state.snapshots.create(container_id, sample.record.chain_ids)
            row = ContainerRow(container_id, None, None, {}, Settings(), found.digest, time.time())
            state.containers.add(row)
            self.containers[container_id] = sample

    def use(self) -> None:
        if not self.containers:
            return
        container_id, sample = self.random.choice(list(self.containers.items()))
        with (
            self.record.operation("use", container=container_id, image=sample.record.digest),
            self._turn() as state,
            tempfile.TemporaryDirectory() as place,
        ):
            if os.geteuid() == 0:
                state.snapshots.mount(container_id, Path(place))
                try:
                    for name, data in sample.files:
                        assert (Path(place) / name).read_bytes() == data
                finally:
                    state.snapshots.unmount(Path(place))
            check_image(state, sample)

    def drop(self) -> None:
        if not self.containers:
            return
        container_id, sample = self.containers.popitem()
        with (
            self.record.operation("drop", container=container_id, image=sample.record.digest),
            self._turn() as state,
        ):
            state.containers.drop(container_id)
            state.snapshots.remove(container_id)

    def remove(self) -> None:
        name = self.name()
        with self.record.operation("remove", by="rm", name=name) as seen, self.engine.turn(_LOCK_PATIENCE):
            removed = ImageRemoval(self.engine.writer()).remove([name], force=self.random.random() < 0.5)
            seen["removed"] = True
            seen["gone"] = list(removed.images)

    def tag(self) -> None:
        sample, name = self.sample(), self.name()
        with self.record.operation("set", by="turn", name=name, image=sample.record.digest), self._turn() as state:
            state.names.set(Name(name, sample.record.digest, "", "tag"))

    def collect(self) -> None:
        with self.record.operation("gc") as seen:
            with self.engine.turn(_LOCK_PATIENCE):
                listed = Collection(self.engine.writer()).plan()
            seen["listed"] = len(listed)
            seen["freed"] = len(list(collect(self.engine, listed, _LOCK_PATIENCE)))

    @contextlib.contextmanager
    def _turn(self) -> Iterator[State]:
        with self.engine.turn(_LOCK_PATIENCE):
            yield self.engine.writer().state


class Operator(Player):
    """Runs commands."""

    def choices(self) -> list[tuple[int, Callable[[], None]]]:
        return [(3, self.collect), (3, self.remove), (3, self.tag), (1, self.look)]

    def collect(self) -> None:
        with self.record.operation("gc") as seen:
            self._run(seen, "gc", "-o", "json")

    def remove(self) -> None:
        name = self.name()
        with self.record.operation("remove", by="command", name=name) as seen:
            seen["removed"] = self._run(seen, "image", "rm", "--force", name, may_fail=True)

    def tag(self) -> None:
        sample, name = self.sample(), self.name()
        with self.record.operation("set", by="command", name=name, image=sample.record.digest) as seen:
            seen["done"] = self._run(seen, "image", "tag", sample.record.digest, name, may_fail=True)

    def look(self) -> None:
        with self.record.operation("look") as seen:
            self._run(seen, *self.random.choice([("image", "ls"), ("gc", "--plan"), ("status",)]))

    def _run(self, seen: dict[str, Any], *arguments: str, may_fail: bool = False) -> bool:
        command = [str(PROGRAM), "--root", str(self.root), "--lock-timeout", str(_LOCK_PATIENCE), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        seen["code"] = done.returncode
        if done.returncode != 0:
            seen["text"] = done.stderr
        assert done.returncode == 0 or (may_fail and done.returncode == 1), done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode == 0


ROLES: dict[str, type[Player]] = {"writer": Writer, "tenant": Tenant, "operator": Operator}


def _sample(seeds: tuple[str, ...]) -> Sample:
    files = tuple((seed, seed.encode() * 50) for seed in seeds)
    tars = [gzip.decompress(archive([entry(name, data)])) for name, data in files]
    diff_ids = [Digest.of(tar) for tar in tars]
    document = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    config = json.dumps(document).encode()
    descriptor = Descriptor(media.OCI_CONFIG, Digest.of(config), len(config))
    layers = [
        LayerRecord(digest, len(tar), media.OCI_LAYER, digest) for digest, tar in zip(diff_ids, tars, strict=True)
    ]
    described = tuple(Descriptor(layer.media_type, layer.digest, layer.size) for layer in layers)
    manifest = Manifest.build(descriptor, described, {})
    record = ImageRecord(
        Digest.of(manifest),
        media.OCI_MANIFEST,
        descriptor,
        tuple(layers),
        None,
        Platform("linux", "amd64"),
        len(manifest) + len(config) + sum(map(len, tars)),
        "",
        rfc3339(SystemClock().now()),
    )
    return Sample(record, (manifest, config, *tars), files)


def main(role: str, root: str, seconds: str, seed: str, log: str) -> None:
    """One process of a history."""
    with Path(log).open("a") as file:
        ROLES[role](Path(root), int(seed), Recorder(file)).play(float(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
