"""Unpacking in worker processes: confined, following the download, and never outliving who started them."""

from __future__ import annotations

import gzip
import os
import random
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zstandard

from reconciler.errors import HostError, IntegrityError, InvalidError, LimitError, ReconcilerError
from reconciler.linux.processes import ProcessId
from reconciler.oci.digest import Digest
from reconciler.store.archive.limits import Limits
from reconciler.store.archive.reader import Entry, Kind
from reconciler.store.archive.writer import archive
from reconciler.store.content import ContentStore
from reconciler.store.database import WritableDatabase
from reconciler.store.layers.file_list import listing, read_file_list
from reconciler.store.layers.table import Layers
from reconciler.store.layers.unpacking import Unpacking
from reconciler.store.layers.workers import Workers
from reconciler.store.schema import STORE

pytestmark = pytest.mark.root


def layer(*entries: Entry | tuple[Entry, bytes]) -> bytes:
    return b"".join(archive([(item, b"") if isinstance(item, Entry) else item for item in entries]))


def file(name: str, body: bytes = b"", **fields: object) -> tuple[Entry, bytes]:
    return Entry(name.encode(), Kind.FILE, size=len(body), **fields), body  # type: ignore[arg-type]


@pytest.fixture
def layers(tmp_path: Path) -> Iterator[Layers]:
    database = WritableDatabase(tmp_path, (STORE,))
    yield Layers(tmp_path, database)
    database.close()


@pytest.fixture
def content(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path)


def unpack(job: Unpacking, index: int, data: bytes) -> None:
    with tempfile.TemporaryFile() as source:
        source.write(data)
        source.flush()
        job.unpack(index, source)


def children() -> set[int]:
    """The worker processes of this process, and those that they forked."""
    found = set()
    pending = [os.getpid()]
    while pending:
        for task in Path(f"/proc/{pending.pop()}/task").iterdir():
            new = {int(pid) for pid in (task / "children").read_text().split()}
            pending += new - found
            found |= new
    return found


def workers_of(layers: Layers) -> set[int]:
    return {pid for pid in children() if b"reconciler.store.layers.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()}


BODY = random.Random(1).randbytes(3_000_000)
BIG = layer(*(file(f"f{number}", BODY[number * 100_000 :][:100_000]) for number in range(30)))


def arriving(content: ContentStore, job: Unpacking, data: bytes, pieces: list[bytes | None]) -> None:
    """Brings a blob in ``pieces``, None being a restart, as a download does."""
    blob = Digest.of(data)
    arrival = job.arrival(0, blob)
    with content.ingest(blob, len(data)) as ingest:
        ingest.follow(arrival)
        for piece in pieces:
            if piece is None:
                ingest.restart()
            else:
                ingest.write(piece)
        ingest.commit()


def split(data: bytes, count: int) -> list[bytes]:
    step = len(data) // count + 1
    return [data[at : at + step] for at in range(0, len(data), step)]


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_layer_is_unpacked_while_it_arrives(layers: Layers, content: ContentStore, pack: object) -> None:
    blob: bytes = pack(BIG)  # type: ignore[operator]
    with layers.unpacking([Digest.of(BIG)]) as job:
        arrival = job.arrival(0, Digest.of(blob))
        with content.ingest(Digest.of(blob), len(blob)) as ingest:
            ingest.follow(arrival)
            for piece in split(blob[:-200_000], 40):
                ingest.write(piece)
            unpacking = layers.path(job.chain_ids[0]).with_suffix(".unpacking")
            wait_for((unpacking / "f20").exists)  # long before its end
            assert not layers.has(job.chain_ids[0])
            ingest.write(blob[-200_000:])
            ingest.commit()
        job.wait(0)
        (chain,) = job.publish()
    assert (layers.path(chain) / "f29").read_bytes() == BODY[2_900_000:]
    ready = layers.get(chain)
    assert ready is not None
    assert ready.blob == Digest.of(blob)


def wait_for(condition: object) -> None:
    patience = threading.Event()
    for _ in range(1000):
        if condition():  # type: ignore[operator]
            return
        patience.wait(0.01)
    raise AssertionError("it did not happen within ten seconds")


HOSTILE = [
    pytest.param(layer(file("evil", b"e" * 1000), file("f0", b"wrong"), Entry(b"f1", Kind.DIRECTORY)), id="archive"),
    pytest.param(b"no archive at all, but long enough to be a header" * 20, id="garbage"),
    pytest.param(layer(Entry(b"../../evil", Kind.FILE)), id="refused"),
    pytest.param(gzip.compress(layer(file("evil", b"e" * 1000)))[:-9], id="cut gzip"),
    pytest.param(BIG[: len(BIG) // 2], id="a part of it"),
]


@pytest.mark.parametrize("wrong", HOSTILE)
def test_wrong_bytes_then_the_right_ones_give_the_right_layer(
    layers: Layers, content: ContentStore, wrong: bytes
) -> None:
    pieces = [*split(wrong, 3), None, *split(wrong, 2), None, *split(BIG, 20)]
    with layers.unpacking([Digest.of(BIG)]) as job:
        arriving(content, job, BIG, pieces)
        job.wait(0)
        (chain,) = job.publish()
    shown = {f"f{number}" for number in range(30)}
    assert {path.name for path in layers.path(chain).iterdir()} == shown
    assert listing(read_file_list(layers.files(chain))).keys() == {b"", *(name.encode() for name in shown)}


def test_wrong_bytes_alone_give_nothing(layers: Layers, content: ContentStore) -> None:
    other = layer(file("f0", b"wrong"), file("rest", bytes(len(BIG)))).ljust(len(BIG))[: len(BIG)]
    with pytest.raises(IntegrityError), layers.unpacking([Digest.of(BIG)]) as job:
        try:
            arriving(content, job, BIG, split(other, 5))
        except IntegrityError as error:
            job.abandon(error)
        job.wait(0)
    assert list(layers.directory.iterdir()) == []


def test_errors_come_through_with_their_type_text_and_hint(layers: Layers) -> None:
    bad = layer(Entry(b"../evil", Kind.FILE))
    with layers.unpacking([Digest.of(bad)]) as job, pytest.raises(InvalidError, match="leads out of the layer"):
        unpack(job, 0, bad)
    layers.limits = Limits(file_bytes=10)
    with layers.unpacking([Digest.of(BIG)]) as job, pytest.raises(LimitError, match="file_bytes") as caught:
        unpack(job, 0, BIG)
    assert "host.yaml" in caught.value.hint
    layers.limits = Limits()
    with layers.unpacking([Digest.of(BIG)]) as job, pytest.raises(IntegrityError, match="ends inside"):
        unpack(job, 0, BIG[:-200_000])
    name = layer(file("n" * 256))
    with layers.unpacking([Digest.of(name)]) as job, pytest.raises(InvalidError, match="255"):
        unpack(job, 0, name)
    assert list(layers.directory.iterdir()) == []


def test_a_killed_worker_is_an_error_and_its_layer_is_gone(layers: Layers, content: ContentStore) -> None:
    with pytest.raises(HostError, match="ended before") as caught, layers.unpacking([Digest.of(BIG)]) as job:
        arrival = job.arrival(0, Digest.of(BIG))
        with content.ingest(Digest.of(BIG), len(BIG)) as ingest:
            ingest.follow(arrival)
            ingest.write(BIG[:1_500_000])
            wait_for((layers.path(job.chain_ids[0]).with_suffix(".unpacking") / "f5").exists)
            for pid in workers_of(layers):
                os.kill(pid, signal.SIGKILL)
            job.wait(0)
    assert "memory" in caught.value.hint
    assert list(layers.directory.iterdir()) == []
    with layers.unpacking([Digest.of(BIG)]) as job:  # and the next try works
        unpack(job, 0, BIG)
        assert layers.has(*job.publish())


_PARENT = """
import os, sys
from pathlib import Path
from tests.integration.store import test_workers as tests
from reconciler.store.content import ContentStore
from reconciler.store.database import WritableDatabase
from reconciler.store.layers.table import Layers
from reconciler.store.schema import STORE
root = Path(sys.argv[1])
layers = Layers(root, WritableDatabase(root, (STORE,)))
with layers.unpacking([tests.Digest.of(tests.BIG)]) as job:
    with ContentStore(root).ingest(tests.Digest.of(tests.BIG), len(tests.BIG)) as ingest:
        ingest.follow(job.arrival(0, tests.Digest.of(tests.BIG)))
        ingest.write(tests.BIG[:1_500_000])
        tests.wait_for((layers.path(job.chain_ids[0]).with_suffix(".unpacking") / "f5").exists)
        print(*tests.workers_of(layers), flush=True)
        sys.stdin.read()
"""


def test_s01_s07_workers_end_with_a_killed_parent_and_the_next_goes_on(layers: Layers, content: ContentStore) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(layers.directory.parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    identities = [ProcessId.of(int(pid)) for pid in parent.stdout.readline().split()]
    assert identities
    parent.kill()
    parent.wait()
    parent.stdin.close()
    parent.stdout.close()
    for identity in identities:
        assert identity is None or identity.wait(10)
    with layers.unpacking([Digest.of(BIG)]) as job:
        blob = Digest.of(BIG)
        with content.ingest(blob, len(BIG)) as ingest:
            assert ingest.offset == 1_500_000  # goes on from what is there
            ingest.follow(job.arrival(0, blob))
            ingest.write(BIG[1_500_000:])
            ingest.commit()
        job.wait(0)
        assert layers.has(*job.publish())


def test_workers_leave_nothing_behind(layers: Layers) -> None:
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(3):
        with layers.unpacking([Digest.of(b"never")]):
            assert workers_of(layers)
        assert not workers_of(layers)
    with Workers() as workers:
        workers.start()
    assert not workers_of(layers)
    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_workers_are_confined(layers: Layers) -> None:
    """The root is the layer, capabilities are few, and nothing else is open."""
    with layers.unpacking([Digest.of(BIG), Digest.of(b"never")]) as job:
        unpack(job, 0, BIG)
        inside = layers.path(job.chain_ids[0]).with_suffix(".unpacking").stat()
        roots = []
        for pid in workers_of(layers):
            status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            assert int(status["CapEff"], 16) & ~0x8824001F == 0
            assert int(status["CapBnd"], 16) & ~0x8824001F == 0
            assert status["NoNewPrivs"] == "1"
            roots.append(Path(f"/proc/{pid}/root").stat().st_ino)
            opened = {str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()}
            assert not {name for name in opened if name.startswith(str(layers.directory.parent))}
        assert inside.st_ino in roots


def test_a_layer_cannot_lend_the_worker_its_code(layers: Layers) -> None:
    """What Python would load late is not taken from the layer, which has its own copy of everything."""
    trap = b"import os; os.mkdir('/trapped')"
    places = {sysconfig.get_path("stdlib"), *(path for path in sys.path if path.startswith("/"))}
    modules = ["json/__init__.py", "traceback.py", "encodings/idna.py", "linecache.py", "zstandard/__init__.py"]
    entries = [file(f"{place[1:]}/{module}", trap) for place in places for module in modules]
    good, bad = layer(*entries), layer(*entries, file("x" * 300))
    with layers.unpacking([Digest.of(good), Digest.of(bad)]) as job:
        unpack(job, 0, zstandard.compress(good))
        with pytest.raises(InvalidError):
            unpack(job, 1, gzip.compress(bad))
        unpacking = [layers.path(chain).with_suffix(".unpacking") for chain in job.chain_ids]
        assert [(path / "trapped").exists() for path in unpacking] == [False, False]


def test_many_layers_side_by_side_and_lower_ones_as_they_are_needed(layers: Layers) -> None:
    image = [layer(Entry(b"d", Kind.DIRECTORY, 0o1777, 5, 6, mtime=10**9), file("d/f0"))]
    image += [layer(file(f"d/f{number}"), Entry(b".wh.gone", Kind.FILE)) for number in range(1, 60)]
    image.append(layer(file(".wh..wh..opq"), file("d/last")))
    with layers.unpacking([Digest.of(data) for data in image]) as job, ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(unpack, job, index, image[index]) for index in job.missing]:
            done.result()
        chains = job.publish()
    for chain in chains[:-1]:
        status = (layers.path(chain) / "d").stat()
        assert (oct(status.st_mode), status.st_uid, status.st_gid, status.st_mtime) == ("0o41777", 5, 6, 1)
        assert not os.path.lexists(layers.path(chain) / "gone")
    assert os.getxattr(layers.path(chains[-1]) / "d", "trusted.overlay.opaque") == b"y"


def test_s29_a_full_disk_is_said_and_its_space_given_back(tmp_path: Path) -> None:
    root = tmp_path / "small"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2500k", "tmpfs", root], check=True)
    try:
        database = WritableDatabase(root, (STORE,))
        layers = Layers(root, database)
        with pytest.raises(HostError, match="No space left") as caught, layers.unpacking([Digest.of(BIG)]) as job:
            unpack(job, 0, BIG)
        assert "free space" in caught.value.hint
        assert list(layers.directory.iterdir()) == []
        small = layer(file("small", BODY[:100_000]))
        with layers.unpacking([Digest.of(small)]) as job:
            unpack(job, 0, small)
            assert layers.has(*job.publish())
        database.close()
    finally:
        subprocess.run(["umount", root], check=True)


def test_a_worker_s_log_is_ours_and_an_archive_cannot_fill_it(
    layers: Layers, capsys: pytest.CaptureFixture[str]
) -> None:
    steering = ((b"trusted.overlay.opaque", b"y"), (b"user.\nfake", b"v"))
    data = layer(*(file(f"f{number}", xattrs=steering) for number in range(500)))
    with layers.unpacking([Digest.of(data)]) as job:
        unpack(job, 0, data)
        (chain,) = job.publish()
    logged = capsys.readouterr().err.splitlines()
    assert len(logged) == 100
    assert all("extended-attribute-dropped" in line and "store" in line for line in logged)
    assert "trusted.overlay.opaque" not in os.listxattr(layers.path(chain) / "f1")


def test_failures_leave_no_descriptor_and_no_thread(layers: Layers) -> None:
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for data in (b"garbage" * 1000, BIG[:-3000], layer(file("../x"))):
        with layers.unpacking([Digest.of(BIG), Digest.of(b"never")]) as job:
            with pytest.raises((IntegrityError, InvalidError)):
                unpack(job, 0, data)
            with pytest.raises((IntegrityError, InvalidError)):
                job.wait(1)
            with pytest.raises(ReconcilerError, match="another layer"):  # which ends a download
                job.arrival(1, Digest.of(b"x")).grow()
    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert threading.active_count() == 1
