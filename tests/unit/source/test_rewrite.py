"""Spec files written again: whole, over what was read, and in their place."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest

from reconciler.errors import ConflictError, HostError
from reconciler.linux import watch
from reconciler.linux.watch import Operation, Phase
from reconciler.source.rewrite import place_of, rewrite
from reconciler.spec.tree import LocalTree, SpecFile
from reconciler.testing.faults import FaultAt


def read(path: Path) -> SpecFile:
    (file,) = LocalTree().find([str(path)], recursive=False)
    return file


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"old")
    return path


def test_a_file_keeps_its_mode_and_its_owner(spec: Path) -> None:
    spec.chmod(0o664)
    owner = (1234, 5678) if os.geteuid() == 0 else (os.getuid(), os.getgid())
    os.chown(spec, *owner)
    rewrite(read(spec), b"new")
    status = spec.stat()
    assert spec.read_bytes() == b"new"
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o664, *owner)
    assert [*spec.parent.iterdir()] == [spec]


def test_a_file_keeps_its_access_list_and_its_attributes(spec: Path) -> None:
    # Version 2: owner rw-, user 1234 r--, group ---, mask r--, others ---.
    entries = [(0x01, 6, -1), (0x02, 4, 1234), (0x04, 0, -1), (0x10, 4, -1), (0x20, 0, -1)]
    access = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    try:
        os.setxattr(spec, "system.posix_acl_access", access)
        os.setxattr(spec, "user.note", b"mine")
    except OSError as error:
        pytest.skip(f"the filesystem keeps none: {error}")
    before = {name: os.getxattr(spec, name) for name in os.listxattr(spec)}
    rewrite(read(spec), b"new")
    assert {name: os.getxattr(spec, name) for name in os.listxattr(spec)} == before
    assert spec.stat().st_mode & 0o777 == 0o640


def test_a_link_stays_a_link_and_its_target_is_written(spec: Path, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    link = tmp_path / "below/link.yaml"
    link.symlink_to("../a.yaml")
    rewrite(read(link), b"new")
    assert link.is_symlink()
    assert spec.read_bytes() == b"new"
    assert place_of(read(link)) == spec


@pytest.mark.parametrize("now", [b"other", b"old and more", b"ol", b"", None])
def test_a_file_that_changed_since_it_was_read_is_left_alone(spec: Path, now: bytes | None) -> None:
    file = read(spec)
    spec.unlink() if now is None else spec.write_bytes(now)
    with pytest.raises(ConflictError, match=r"a\.yaml changed while it was looked at"):
        rewrite(file, b"new")
    assert (spec.read_bytes() if spec.exists() else None) == now


def test_a_file_that_changes_while_the_new_one_is_written_is_left_alone(spec: Path) -> None:
    file = read(spec)

    def somebody(phase: Phase, operation: Operation) -> None:
        if (phase, operation.kind) == ("after", "fsync"):
            spec.write_bytes(b"theirs")

    with watch.observed(somebody), pytest.raises(ConflictError):
        rewrite(file, b"new")
    assert spec.read_bytes() == b"theirs"
    assert [*spec.parent.iterdir()] == [spec]


def test_a_failure_at_any_step_leaves_the_old_or_the_new_and_nothing_else(spec: Path) -> None:
    heard = FaultAt(0)
    with watch.observed(heard):
        rewrite(read(spec), b"old")
    for step in range(1, len(heard.seen) + 1):
        spec.write_bytes(b"old")
        with watch.observed(FaultAt(step, errno.EROFS)), pytest.raises(HostError, match="Read-only"):
            rewrite(read(spec), b"new")
        assert spec.read_bytes() == (b"new" if step == len(heard.seen) else b"old")
        assert [*spec.parent.iterdir()] == [spec]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write what its mode forbids")
def test_a_file_that_is_read_only_is_left_alone(spec: Path) -> None:
    spec.chmod(0o444)
    with pytest.raises(HostError, match="may not be written"):
        rewrite(read(spec), b"new")
    assert spec.read_bytes() == b"old"
