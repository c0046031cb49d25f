"""The memory of an unpack does not grow with the layer: neither with its bytes nor with its entries."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from isal import isal_zlib

from reconciler.oci.digest import Digest
from reconciler.store.archive.reader import Entry, Kind
from reconciler.store.archive.writer import END, header
from reconciler.store.database import WritableDatabase
from reconciler.store.layers.table import Layers
from reconciler.store.schema import STORE
from tests.integration.store.test_workers import workers_of

pytestmark = pytest.mark.root

MIB = 1 << 20
_ZEROS = bytes(MIB)


@pytest.fixture
def layers(tmp_path: Path) -> Iterator[Layers]:
    database = WritableDatabase(tmp_path, (STORE,))
    yield Layers(tmp_path, database)
    database.close()


def many_entries(count: int) -> Iterator[bytes]:
    """Directories, files, whiteouts and opaque marks, none of which may be kept in memory."""
    for number in range(0, count, 4):
        name = b"d%d/e%d" % (number // 2000, number)
        yield header(Entry(name, Kind.DIRECTORY, 0o755, mtime=number * 10**9))
        yield header(Entry(name + b"/.wh..wh..opq", Kind.FILE))
        yield header(Entry(name + b".link", Kind.SYMLINK, 0o777, link=b"target-%d" % number))
        yield header(Entry(b"d%d/.wh.gone-%d" % (number // 2000, number), Kind.FILE))
    yield END


def few_bytes(size: int) -> Iterator[bytes]:
    """One file of ``size`` bytes that is nearly all zeros."""
    yield header(Entry(b"disk.img", Kind.FILE, size=size))
    for number in range(size // MIB):
        yield number.to_bytes(8, "big") + _ZEROS[8:]
    yield END


def packed(make: Callable[[], Iterator[bytes]], target: Path) -> Digest:
    """Writes an archive as gzip; its diff ID."""
    digest = hashlib.sha256()
    deflate = isal_zlib.compressobj(1, isal_zlib.DEFLATED, 31)
    with target.open("wb") as out:
        for chunk in make():
            digest.update(chunk)
            out.write(deflate.compress(chunk))
        out.write(deflate.flush())
    return Digest("sha256:" + digest.hexdigest())


def peak(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def peak_of_unpack(layers: Layers, blob: Path, diff_id: Digest) -> int:
    with layers.unpacking([diff_id]) as job, blob.open("rb") as source:
        job.unpack(0, source)
        most = max(peak(pid) for pid in workers_of(layers))
    assert threading.active_count() == 1
    return most


def test_the_memory_of_a_worker_does_not_grow_with_the_entries(
    layers: Layers, tmp_path: Path, long_run: bool, say: Callable[[str], None]
) -> None:
    count = 300_000 if long_run else 60_000
    diff_id = packed(lambda: many_entries(count), tmp_path / "blob")
    most = peak_of_unpack(layers, tmp_path / "blob", diff_id)
    say(f"peak of a worker that unpacked {count} entries: {most / MIB:.0f} MiB")
    assert most < 64 * MIB


def test_the_memory_of_a_worker_does_not_grow_with_the_bytes(
    layers: Layers, tmp_path: Path, long_run: bool, say: Callable[[str], None]
) -> None:
    size = (2048 if long_run else 384) * MIB
    diff_id = packed(lambda: few_bytes(size), tmp_path / "blob")
    most = peak_of_unpack(layers, tmp_path / "blob", diff_id)
    say(f"peak of a worker that unpacked a file of {size // MIB} MiB: {most / MIB:.0f} MiB")
    assert most < 64 * MIB
