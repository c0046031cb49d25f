"""Images of many layers (case S43): they unpack, mount and can be written on, up to what the kernel takes."""

from __future__ import annotations

import contextlib
import gzip
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.errors import HostError
from reconciler.linux import mounts
from reconciler.oci.digest import Digest
from reconciler.store.archive.reader import Entry, Kind
from reconciler.store.archive.writer import archive
from reconciler.store.database import WritableDatabase
from reconciler.store.layers.table import Layers
from reconciler.store.schema import STORE
from reconciler.store.snapshots import Snapshots

pytestmark = pytest.mark.root


@pytest.fixture
def layers(tmp_path: Path) -> Iterator[Layers]:
    root = tmp_path / "a root with a long, \\101 odd : name" / ("n" * 200)
    root.mkdir(parents=True)
    database = WritableDatabase(root, (STORE,))
    yield Layers(root, database)
    database.close()


@contextlib.contextmanager
def few_descriptors(count: int = 1024) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def image(count: int) -> list[bytes]:
    """Each layer adds a file to a directory of the lowest, changes one that all have, and deletes the one before."""
    stack = [b"".join(archive([(Entry(b"d", Kind.DIRECTORY, 0o1777), b"")]))]
    for number in range(1, count):
        changed = b"%d" % number
        entries = [
            (Entry(b"d/f%d" % number, Kind.FILE), b""),
            (Entry(b"d/last", Kind.FILE, size=len(changed)), changed),
            (Entry(b"d/.wh.f%d" % (number - 1), Kind.FILE), b""),
        ]
        stack.append(b"".join(archive(entries)))
    return stack


def unpack(layers: Layers, stack: list[bytes]) -> tuple[Digest, ...]:
    with layers.unpacking([Digest.of(data) for data in stack]) as job:
        for index in job.missing:
            with tempfile.TemporaryFile() as source:
                source.write(gzip.compress(stack[index], 1))
                source.flush()
                job.unpack(index, source)
        return job.publish()


@pytest.mark.parametrize("count", [127, 500])
def test_s43_deep_images_unpack_and_mount(layers: Layers, tmp_path: Path, count: int) -> None:
    with few_descriptors():
        chains = unpack(layers, image(count))
        snapshots = Snapshots(layers.directory.parent)
        snapshots.create("abc", chains)
        target = tmp_path / "mnt"
        target.mkdir()
        snapshots.mount("abc", target)
        try:
            assert sorted(path.name for path in (target / "d").iterdir()) == [f"f{count - 1}", "last"]
            assert (target / "d/last").read_text() == str(count - 1)
            assert oct((target / "d").stat().st_mode) == "0o41777"
            (target / "d/last").write_text("mine")
            assert (snapshots.upper("abc") / "d/last").read_text() == "mine"
        finally:
            snapshots.unmount(target)


def test_s43_one_layer_more_than_the_kernel_takes_is_a_clear_error(tmp_path: Path) -> None:
    lowers = tuple(tmp_path / f"l{number}" for number in range(501))
    with pytest.raises(HostError, match="501 layers, and the kernel takes 500") as caught:
        mounts.mount(mounts.Overlay(lowers, None, None, tmp_path))
    assert "fewer layers" in caught.value.hint


@pytest.mark.parametrize("count", [127, 500])
def test_s43_short_paths_do_without_the_new_mount_interface(tmp_path: Path, count: int) -> None:
    lowers = tuple(tmp_path / ("long name " * 20) / f"layer, {number}" for number in range(count))
    for number, lower in enumerate(lowers):
        lower.mkdir(parents=True)
        (lower / f"f{number}").touch()
    target, upper, work = (tmp_path / name for name in ("mnt", "upper", "work"))
    for path in (target, upper, work):
        path.mkdir()
    here = Path.cwd()
    with contextlib.ExitStack() as opened:
        # What `mount` falls back to where the kernel is older than 6.7.
        mounts._mount_in_one_page(mounts.Overlay(lowers, upper, work, target), opened)
    try:
        assert len(list(target.iterdir())) == count
        (target / "new").touch()
        assert (upper / "new").exists()
        assert Path.cwd() == here
    finally:
        mounts.unmount(target)
