"""Layers made ready together, once, and only when they are what they should be (cases S07, S17, U55-U62)."""

from __future__ import annotations

import gzip
import hashlib
import multiprocessing
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zstandard

from reconciler.errors import IntegrityError, InvalidError, NotFoundError, ReconcilerError
from reconciler.linux import watch
from reconciler.oci.digest import Digest
from reconciler.store.archive.reader import Entry, Kind
from reconciler.store.archive.writer import archive
from reconciler.store.database import WritableDatabase
from reconciler.store.layers.table import Layers
from reconciler.store.layers.unpacking import Unpacking
from reconciler.store.schema import STORE
from reconciler.testing.faults import FaultAt

pytestmark = pytest.mark.root


def layer(**files: bytes) -> bytes:
    entries = [(Entry(name.encode(), Kind.FILE, size=len(body)), body) for name, body in files.items()]
    return b"".join(archive(entries))


def whiteout(name: str) -> bytes:
    return b"".join(archive([(Entry(f".wh.{name}".encode(), Kind.FILE), b"")]))


BASE, MIDDLE, TOP = layer(a=b"1", b=b"2"), whiteout("a"), layer(c=b"3")
IMAGE = [BASE, MIDDLE, TOP]
DIFF_IDS = [Digest.of(data) for data in IMAGE]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def layers(root: Path) -> Iterator[Layers]:
    database = WritableDatabase(root, (STORE,))
    yield Layers(root, database)
    database.close()


def unpack_all(layers: Layers, image: list[bytes] = IMAGE, diff_ids: list[Digest] = DIFF_IDS) -> tuple[Digest, ...]:
    with layers.unpacking(diff_ids) as job:
        for index in job.missing:
            unpack(job, index, gzip.compress(image[index]))
        return job.publish()


def unpack(job: Unpacking, index: int, data: bytes, blob: Digest | None = None) -> None:
    with tempfile.TemporaryFile() as source:
        source.write(data)
        source.flush()
        job.unpack(index, source, blob)


def names(layers: Layers) -> list[str]:
    return sorted(path.name for path in layers.directory.iterdir())


def test_an_image_becomes_ready_and_the_second_time_nothing_is_missing(layers: Layers) -> None:
    chains = unpack_all(layers)
    assert layers.stack(chains[-1]) == tuple(layers.path(chain) for chain in reversed(chains))
    assert names(layers) == sorted(name for chain in chains for name in (chain.hex, f"{chain.hex}.files"))
    top = layers.get(chains[2])
    assert top is not None
    assert (top.parent, top.diff_id, top.entries, top.size) == (chains[1], DIFF_IDS[2], 1, 4096)
    with layers.unpacking([*DIFF_IDS, Digest.of(b"")]) as job:
        assert job.missing == (3,)
        unpack(job, 3, b"")  # U61
        job.publish()
    assert layers.stack(None) == ()
    with pytest.raises(NotFoundError):
        layers.stack(Digest.of(b"unknown"))


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress], ids=["plain", "gzip", "zstd"])
def test_u58_any_compression(layers: Layers, pack: object) -> None:
    with layers.unpacking(DIFF_IDS[:1]) as job:
        unpack(job, 0, pack(BASE), blob=Digest.of(b"blob"))  # type: ignore[operator]
        (chain,) = job.publish()
    assert (layers.path(chain) / "a").read_bytes() == b"1"
    ready = layers.get(chain)
    assert ready is not None
    assert ready.blob == Digest.of(b"blob")


def test_u59_a_wrong_diff_id_leaves_nothing(layers: Layers) -> None:
    with pytest.raises(IntegrityError) as caught:
        unpack_all(layers, [TOP], DIFF_IDS[:1])
    assert DIFF_IDS[0] in str(caught.value)
    assert DIFF_IDS[2] in str(caught.value)
    assert (names(layers), layers.has(DIFF_IDS[0])) == ([], False)


def test_u55_the_diff_id_covers_what_follows_the_archive(layers: Layers) -> None:
    data = BASE + b"trailing" * 100_000
    assert layers.has(*unpack_all(layers, [data], [Digest.of(data)]))


def test_u62_a_cut_stream_never_becomes_ready(layers: Layers) -> None:
    for length in range(0, len(BASE), 512):
        with pytest.raises(ReconcilerError):
            unpack_all(layers, [BASE[:length]], DIFF_IDS[:1])
        assert names(layers) == []


def test_layers_may_be_unpacked_side_by_side(layers: Layers) -> None:
    image = [layer(**{f"f{n}": b"x", f"g{n}": b"y"}) if n % 2 == 0 else whiteout(f"f{n - 1}") for n in range(20)]
    with layers.unpacking([Digest.of(data) for data in image]) as job, ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(unpack, job, index, image[index]) for index in job.missing]:
            done.result()
        job.publish()
        hidden = [(layers.path(chain) / f"f{n - 1}").is_char_device() for n, chain in enumerate(job.chain_ids) if n % 2]
    assert hidden == [True] * 10


def test_all_hear_of_the_failure_that_ended_the_unpack(layers: Layers) -> None:
    with layers.unpacking(DIFF_IDS) as job, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(unpack, job, 1, MIDDLE)
        with pytest.raises(InvalidError):
            unpack(job, 0, b"not a tar archive".ljust(512))
        with pytest.raises(ReconcilerError, match="checksum"):
            waiting.result()
        with pytest.raises(ReconcilerError):
            job.publish()
    assert names(layers) == []


def test_s17_two_pulls_share_one_unpack(layers: Layers) -> None:
    entered, outcome = threading.Event(), []

    def second() -> None:
        entered.set()
        with layers.unpacking(DIFF_IDS[:1]) as job:
            outcome.append(job.missing)

    with layers.unpacking(DIFF_IDS) as job:
        thread = threading.Thread(target=second)
        thread.start()
        assert entered.wait(10)
        for index in job.missing:
            unpack(job, index, IMAGE[index])
        assert outcome == []
        job.publish()
    thread.join(10)
    assert outcome == [()]


def test_s17_the_first_failing_does_not_fail_the_second(layers: Layers) -> None:
    outcome = []
    with layers.unpacking(DIFF_IDS):
        thread = threading.Thread(target=lambda: outcome.append(unpack_all(layers)))
        thread.start()
    thread.join(10)
    assert layers.has(outcome[0][-1])


def _die_half_way(root: Path) -> None:
    import os

    database = WritableDatabase(root, (STORE,))
    job = Layers(root, database).unpacking(DIFF_IDS)
    job.__enter__()
    unpack(job, 0, BASE)
    os._exit(0)


def test_s07_what_a_dead_process_left_is_taken_over(layers: Layers, root: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_die_half_way, args=(root,))
    process.start()
    process.join(30)
    assert sorted(name.partition(".")[2] for name in names(layers)) == ["files"] * 3 + ["unpacking"]
    assert layers.has(unpack_all(layers)[-1])
    assert [name.partition(".")[2] for name in names(layers)] == ["", "files"] * 3


def test_s08_a_directory_without_a_row_is_not_ready(layers: Layers, root: Path) -> None:
    def fail(phase: watch.Phase, operation: watch.Operation) -> None:
        if (phase, operation.name) == ("before", "database:commit"):
            raise OSError(28, "")

    with pytest.raises(ReconcilerError), watch.observed(fail):
        unpack_all(layers)
    assert not any(
        layers.has(chain) for chain in map(Digest, (f"sha256:{name}" for name in names(layers) if "." not in name))
    )
    assert layers.has(unpack_all(layers)[-1])


def test_publishing_syncs_before_any_name_appears(layers: Layers) -> None:
    with layers.unpacking(DIFF_IDS) as job:
        for index in job.missing:
            unpack(job, index, IMAGE[index])
        fault = FaultAt(0)
        with watch.observed(fault):
            job.publish()
    assert fault.seen == ["layers:syncfs", *["layers:rename"] * 3, "layers:fsync-directory", "database:commit"]


def test_the_archive_is_hashed_as_it_streams(layers: Layers) -> None:
    data = layer(big=bytes(3_000_000))
    assert hashlib.sha256(data).hexdigest() == unpack_all(layers, [data], [Digest.of(data)])[0].hex
