"""Writable layers: made, mounted, found again, removed (cases S25, S28, S43)."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.errors import HostError, NotFoundError
from reconciler.linux import mounts
from reconciler.oci.digest import Digest
from reconciler.store.snapshots import Snapshots

pytestmark = pytest.mark.root


def chain(number: int) -> Digest:
    return Digest.of(b"%d" % number)


def layer(root: Path, number: int) -> Digest:
    path = root / "layers" / chain(number).hex
    path.mkdir(parents=True)
    (path / f"f{number}").write_text(str(number))
    path.chmod(0o700 + number % 8)
    return chain(number)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "mnt").mkdir()
    return tmp_path


@pytest.fixture
def snapshots(root: Path) -> Iterator[Snapshots]:
    yield Snapshots(root)
    for place in mounts.mounts_below(root):
        mounts.unmount(place)


def test_what_is_written_is_found_again(snapshots: Snapshots, root: Path) -> None:
    target = root / "mnt"
    chains = [layer(root, 1), layer(root, 5)]
    made = snapshots.create("abc", chains)
    assert [path.name for path in made.lowers] == [chains[1].hex, chains[0].hex]
    assert stat.S_IMODE(made.upper.stat().st_mode) == 0o705
    for turn in range(2):
        snapshots.mount("abc", target)
        snapshots.mount("abc", target)
        assert sorted(path.name for path in target.iterdir()) == ["f1", "f5", *["mine"] * turn]
        (target / "mine").write_text("x")
        snapshots.unmount(target)
        snapshots.unmount(target)
        assert list(target.iterdir()) == []
    assert snapshots.create("abc", chains) == made
    assert (made.upper / "mine").read_text() == "x"
    assert snapshots.usage("abc") == 4096 + 4096, "a directory and a file of one block each"


def test_an_image_without_layers_is_an_empty_directory(snapshots: Snapshots, root: Path) -> None:
    snapshots.create("abc", [])
    snapshots.mount("abc", root / "mnt")
    assert list((root / "mnt").iterdir()) == []
    (root / "mnt/x").touch()
    assert snapshots.upper("abc").joinpath("x").exists()


def test_a_missing_layer_is_named(snapshots: Snapshots, root: Path) -> None:
    with pytest.raises(NotFoundError, match=chain(7)):
        snapshots.create("abc", [chain(7)])
    with pytest.raises(NotFoundError):
        snapshots.upper("abc")


@pytest.mark.parametrize("count", [127, 500])
def test_s43_many_layers(snapshots: Snapshots, root: Path, count: int) -> None:
    snapshots.create("abc", [layer(root, number) for number in range(count)])
    snapshots.mount("abc", root / "mnt")
    assert len(list((root / "mnt").iterdir())) == count


def test_s43_too_many_layers(snapshots: Snapshots, root: Path) -> None:
    snapshots.create("abc", [layer(root, number) for number in range(501)])
    with pytest.raises(HostError, match="501 layers, and the kernel takes 500"):
        snapshots.mount("abc", root / "mnt")
    assert not mounts.is_mounted(root / "mnt")


def test_s25_a_user_s_data_survives_removal(snapshots: Snapshots, root: Path) -> None:
    data = root / "data"
    data.mkdir()
    (data / "precious").touch()
    snapshots.create("abc", [layer(root, 1)])
    inside = snapshots.path("abc") / "volume"
    inside.mkdir()
    mounts.mount(mounts.Bind(data, inside))
    held = os.open(inside, os.O_RDONLY)
    try:
        with pytest.raises(HostError, match="in use"):
            snapshots.remove("abc")
        assert (data / "precious").exists()
        assert snapshots.upper("abc").is_dir()
    finally:
        os.close(held)
    assert snapshots.remove("abc") is True
    assert snapshots.remove("abc") is False
    assert (data / "precious").exists()
    assert not snapshots.path("abc").exists()


def test_s28_overlayfs_s_own_work_directory_goes_too(snapshots: Snapshots, root: Path) -> None:
    made = snapshots.create("abc", [layer(root, 1)])
    snapshots.mount("abc", root / "mnt")
    snapshots.unmount(root / "mnt")
    assert stat.S_IMODE((made.work / "work").stat().st_mode) == 0
    assert snapshots.remove("abc")


@pytest.mark.parametrize("bad", ["", "..", ".", "a/b", "../x"])
def test_an_id_is_one_name(snapshots: Snapshots, bad: str) -> None:
    with pytest.raises(ValueError, match="container id"):
        snapshots.remove(bad)


def test_the_fingerprint_sees_every_change_and_nothing_else(snapshots: Snapshots, root: Path) -> None:
    upper = snapshots.create("abc", [layer(root, 1)]).upper
    (upper / "d").mkdir()
    (upper / "d/f").write_text("one")
    seen = {snapshots.fingerprint("abc")}
    snapshots.mount("abc", root / "mnt")
    (root / "mnt/d/f").read_text()
    snapshots.unmount(root / "mnt")
    assert snapshots.fingerprint("abc") in seen
    status = (upper / "d/f").stat()
    for change in (
        lambda: (upper / "d/f").write_text("two"),
        lambda: os.utime(upper / "d/f", ns=(status.st_atime_ns, status.st_mtime_ns)),
        lambda: (upper / "d/f").chmod(0o600),
        lambda: os.setxattr(upper / "d/f", "user.k", b"v"),
        lambda: os.setxattr(upper / "d", "user.k", b"v"),
        lambda: os.setxattr(upper / "d", "trusted.overlay.opaque", b"y"),
        (upper / "g").touch,
        lambda: (upper / "g").rename(upper / "h"),
        (upper / "h").unlink,
    ):
        change()
        now = snapshots.fingerprint("abc")
        assert now not in seen
        seen.add(now)
