"""Identities of processes."""

from __future__ import annotations

import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.errors import InvalidError
from reconciler.linux.processes import ProcessId, signal_number, start_time


@pytest.fixture
def sleeper():
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    process.kill()
    process.wait()


def test_lives_then_ends(sleeper):
    identity = ProcessId.of(sleeper.pid)
    assert identity is not None
    assert identity.alive()
    assert identity.wait(0) is False
    assert identity.signal(signal.SIGKILL)
    assert identity.wait(10)
    assert not identity.alive()  # a zombie: its parent has not asked for its code
    assert identity.signal(signal.SIGKILL) is False
    sleeper.wait()
    assert ProcessId.of(sleeper.pid) is None


@pytest.mark.parametrize("other", [{"start_time": 1}, {"boot_id": "another"}])
def test_x25_another_process_of_that_pid_is_left_alone(sleeper, other):
    identity = ProcessId.of(sleeper.pid)
    assert identity is not None
    recycled = replace(identity, **other)
    assert not recycled.alive()
    assert recycled.signal(signal.SIGKILL) is False
    assert recycled.wait(0) is True
    assert sleeper.poll() is None


def test_a_command_name_may_hold_anything(tmp_path):
    fields = ["S", *(str(n) for n in range(4, 53))]
    (tmp_path / "7").mkdir()
    (tmp_path / "7/stat").write_text("7 (a) b (c) Z) " + " ".join(fields) + "\n")
    assert start_time(7, tmp_path) == 22
    assert start_time(8, tmp_path) is None


def test_no_descriptor_is_left(sleeper):
    identity = ProcessId.of(sleeper.pid)
    assert identity is not None
    before = len(list(Path("/proc/self/fd").iterdir()))
    identity.signal(0)
    identity.wait(0)
    replace(identity, start_time=1).open()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(
    ("text", "number"),
    [("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGRTMIN+3", signal.SIGRTMIN + 3), ("RTMIN", signal.SIGRTMIN)],
)
def test_signal_names(text, number):
    assert signal_number(text) == number


@pytest.mark.parametrize("text", ["", "SIG", "0", "99", "-9", "TERM+1", "RTMIN+x", "RTMIN+99", "_DFL"])
def test_what_is_no_signal(text):
    with pytest.raises(InvalidError):
        signal_number(text)
