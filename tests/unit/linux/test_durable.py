"""Files are whole, whatever happens while they are written."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from reconciler.errors import HostError
from reconciler.linux import durable, watch
from reconciler.testing.faults import FaultAt

STEPS = ["note:create", "note:write", "note:fsync", "note:rename", "note:fsync-directory"]


def test_a_file_is_written_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "note"
    fault = FaultAt(0)
    with watch.observed(fault):
        durable.write_file(path, b"text", point="note", mode=0o640)
    assert path.read_bytes() == b"text"
    assert path.stat().st_mode & 0o777 == 0o640
    assert fault.seen == STEPS


@pytest.mark.parametrize("step", range(1, 6))
def test_s29_a_failure_at_any_step_keeps_a_whole_file_and_leaves_nothing_else(tmp_path: Path, step: int) -> None:
    path = tmp_path / "note"
    path.write_bytes(b"old")
    with watch.observed(FaultAt(step, 28)), pytest.raises(HostError, match="No space left") as caught:
        durable.write_file(path, b"new", point="note")
    assert str(tmp_path) in str(caught.value)
    assert "free space" in caught.value.hint
    assert path.read_bytes() == (b"new" if step == 5 else b"old")
    assert list(tmp_path.iterdir()) == [path]


def test_s04_killed_at_any_step_the_file_is_old_or_new(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from reconciler.linux import durable, watch
from reconciler.testing.faults import FaultAt
with watch.observed(FaultAt(int(sys.argv[2]))):
    durable.write_file(Path(sys.argv[1]), b"new", point="note")
"""
    path = tmp_path / "note"
    for step in range(1, 6):
        path.write_bytes(b"old")
        code = subprocess.run([sys.executable, "-c", program, str(path), str(step)], timeout=30).returncode
        assert code == -signal.SIGKILL
        assert path.read_bytes() == (b"new" if step == 5 else b"old")
        durable.sweep_temporaries(tmp_path, point="note.sweep")
        assert list(tmp_path.iterdir()) == [path]


def test_a_directory_is_made_once_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "made"
    durable.make_directory(path, point="note", mode=0o751)
    durable.make_directory(path, point="note", mode=0o700)
    assert path.stat().st_mode & 0o777 == 0o751
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(path)
    for taken in ("file", "link"):
        with pytest.raises(HostError, match="File exists"):
            durable.make_directory(tmp_path / taken, point="note")


def test_removing_says_whether_there_was_something(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert durable.unlink(tmp_path / "file", point="note")
    assert not durable.unlink(tmp_path / "file", point="note")
    with pytest.raises(HostError, match="cannot remove"):
        durable.unlink(tmp_path, point="note")


def test_a_filesystem_is_synced(tmp_path: Path) -> None:
    fault = FaultAt(0)
    with watch.observed(fault):
        durable.sync_filesystem(tmp_path, point="note")
    assert fault.seen == ["note:syncfs"]
    with pytest.raises(HostError, match="No such file"):
        durable.sync_filesystem(tmp_path / "missing", point="note")
