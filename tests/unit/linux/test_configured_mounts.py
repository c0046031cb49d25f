"""What the host is configured to mount, and what of it is not mounted."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.linux.configured_mounts import unmounted_above


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    path = tmp_path / "etc"
    (path / "systemd" / "system").mkdir(parents=True)
    return path


@pytest.mark.parametrize("place", ["data", "data/reconciler", "data/deep/down"])
@pytest.mark.parametrize("options", ["defaults", "noauto,nofail"])
def test_s47_a_disk_that_fstab_names_and_is_not_mounted_is_found(
    tmp_path: Path, etc: Path, place: str, options: str
) -> None:
    (etc / "fstab").write_text(
        f"# a comment\nUUID=1 / ext4\nUUID=2 none swap\nUUID=3 {tmp_path}/data/ xfs {options} 0 2\n"
    )
    assert unmounted_above(tmp_path / place, etc) == (tmp_path / "data", etc / "fstab")


def test_s47_a_mount_unit_counts_as_fstab_does(tmp_path: Path, etc: Path) -> None:
    unit = etc / "systemd" / "system" / "data.mount"
    unit.write_text(f"[Mount]\nWhat=/dev/vdb\n  Where = {tmp_path}/data \nType=xfs\n")
    assert unmounted_above(tmp_path / "data", etc) == (tmp_path / "data", unit)


def test_other_mount_points_and_mounted_ones_do_not_count(tmp_path: Path, etc: Path) -> None:
    (etc / "fstab").write_text(
        f"a {tmp_path}/database ext4\nb / ext4\nc /proc proc\nd {tmp_path}/data/below ext4\nbad\n"
    )
    assert unmounted_above(tmp_path / "data", etc) is None
    assert unmounted_above(Path("/proc/sys"), etc) is None


def test_names_with_blanks_are_read_as_fstab_writes_them(tmp_path: Path, etc: Path) -> None:
    (etc / "fstab").write_text(f"a {tmp_path}/my\\040disk ext4\n")
    assert unmounted_above(tmp_path / "my disk" / "root", etc) == (tmp_path / "my disk", etc / "fstab")


def test_a_path_through_a_link_is_where_it_leads(tmp_path: Path, etc: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    (etc / "fstab").write_text(f"a {tmp_path}/data ext4\n")
    assert unmounted_above(tmp_path / "link" / "root", etc) is not None


def test_no_configuration_says_nothing(tmp_path: Path) -> None:
    assert unmounted_above(tmp_path, tmp_path / "none") is None
