"""Filesystems that cannot hold a store are refused before anything is put on them (case U64)."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reconciler.errors import HostError
from reconciler.linux.tree import mount_points_below
from reconciler.store import probe
from reconciler.store.identity import claim_identity

pytestmark = pytest.mark.root

Mount = Callable[..., Path]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Mount]:
    """Makes a filesystem of its own kind, mounts it and gives the directory of a root in it."""

    def run(make: str, *options: str, within: str = "root", size: str = "8M") -> Path:
        image, point = tmp_path / "image", tmp_path / "disk"
        point.mkdir()
        program, *arguments = make.split()
        if program in ("tmpfs", "ramfs"):
            subprocess.run(["mount", "-t", program, *options, program, point], check=True)
        else:
            subprocess.run(["truncate", "-s", size, image], check=True)
            subprocess.run([program, *arguments, image], check=True, stdout=subprocess.DEVNULL)
            subprocess.run(["mount", "-o", ",".join(("loop", *options)), image, point], check=True)
        root = point / within
        root.mkdir(0o700, exist_ok=True)
        return root

    yield run
    for point in reversed(mount_points_below(tmp_path)):
        subprocess.run(["umount", point], check=True)


def refused(root: Path, run: Path) -> HostError:
    """The error of the first writer; it must name the root, say what to do and leave nothing behind."""
    with pytest.raises(HostError) as caught:
        claim_identity(root, run)
    assert str(root) in str(caught.value)
    assert "--root" in caught.value.hint
    assert not run.exists()
    assert list(root.iterdir()) == []
    return caught.value


@pytest.mark.parametrize("kind", ["mkfs.ext4 -q", "mkfs.ext4 -q -O ^has_journal", "tmpfs"])
def test_u64_what_can_hold_a_store_is_taken_and_probed_once(
    disk: Mount, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, run = disk(kind), tmp_path / "run"
    identity = claim_identity(root, run)
    assert sorted(path.name for path in root.iterdir()) == ["id", "key"]
    monkeypatch.setattr(probe, "_FEATURES", (("probe at all", lambda place: False),))
    assert claim_identity(root, run) == identity
    # Another boot: the runtime directory is gone.
    (identity.run / "place.json").unlink()
    with pytest.raises(HostError, match="probe at all"):
        claim_identity(root, run)


@pytest.mark.parametrize("option", ["noexec", "nosuid", "nodev"])
def test_u64_a_mount_that_forbids_too_much_is_refused_at_every_start(disk: Mount, tmp_path: Path, option: str) -> None:
    root, run = disk("mkfs.ext4 -q", option), tmp_path / "run"
    assert f"mounted {option}" in str(refused(root, run))
    point = root.parent
    subprocess.run(["mount", "-o", "remount,exec,suid,dev", point], check=True)
    claim_identity(root, run)
    subprocess.run(["mount", "-o", f"remount,{option}", point], check=True)
    with pytest.raises(HostError, match=f"mounted {option}"):
        claim_identity(root, run)


def test_u64_a_read_only_mount_is_refused(disk: Mount, tmp_path: Path) -> None:
    root = disk("mkfs.ext4 -q")
    subprocess.run(["mount", "-o", "remount,ro", root.parent], check=True)
    error = refused(root, tmp_path / "run")
    assert "mounted ro" in str(error)
    assert "read-write" in error.hint


def test_u64_directories_without_types_are_refused(disk: Mount, tmp_path: Path) -> None:
    assert "d_type" in str(refused(disk("mkfs.ext4 -q -O ^filetype"), tmp_path / "run"))


def test_u64_a_filesystem_without_extended_attributes_is_refused(disk: Mount, tmp_path: Path) -> None:
    assert "trusted extended attributes" in str(refused(disk("ramfs"), tmp_path / "run"))


@pytest.mark.skipif("\tvfat\n" not in Path("/proc/filesystems").read_text(), reason="the kernel has no vfat")
def test_u64_a_filesystem_of_another_world_is_refused(disk: Mount, tmp_path: Path) -> None:
    assert "small letters" in str(refused(disk("mkfs.vfat", "uid=0,umask=077"), tmp_path / "run"))


def test_u64_overlayfs_itself_has_no_whiteouts_to_give(disk: Mount, tmp_path: Path) -> None:
    place = disk("tmpfs").parent
    for name in ("lower", "upper", "work", "merged"):
        (place / name).mkdir()
    options = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", place / "merged"], check=True)
    root = place / "merged" / "root"
    root.mkdir(0o700)
    assert "0:0" in str(refused(root, tmp_path / "run"))


def test_u64_a_full_disk_is_called_that_and_not_a_lack_of_features(disk: Mount, tmp_path: Path) -> None:
    root = disk("tmpfs", "-o", "size=64k,nr_inodes=3")
    (root / "ballast").touch()
    with pytest.raises(HostError, match="No space left"):
        claim_identity(root, tmp_path / "run")


def test_u64_what_a_killed_probe_left_is_taken_away(tmp_path: Path) -> None:
    left = tmp_path / "root" / ".probe" / "to"
    left.mkdir(parents=True)
    (left / "deep").mkdir(0)
    (tmp_path / "root").chmod(0o700)
    claim_identity(tmp_path / "root", tmp_path / "run")
    assert not (tmp_path / "root" / ".probe").exists()
