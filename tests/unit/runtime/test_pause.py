"""Pauses of containers, noted before they begin so that none outlives who began it."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.errors import NotFoundError
from reconciler.linux.cgroups import Cgroups
from reconciler.linux.processes import ProcessId
from reconciler.runtime.pause import Pauses
from reconciler.runtime.task import Task


@pytest.fixture
def task(tmp_path: Path) -> Task:
    group = tmp_path / "cgroup/freezer/one"
    group.mkdir(parents=True)
    (group / "freezer.state").write_text("THAWED")
    init = ProcessId(1, 1, "boot")
    return Task("one", init, init, tmp_path, tmp_path, tmp_path, "/one", tmp_path)


@pytest.fixture
def pauses(tmp_path: Path) -> Pauses:
    (tmp_path / "run").mkdir()
    return Pauses(tmp_path / "run/paused", Cgroups(tmp_path / "cgroup"))


def state(tmp_path: Path) -> str:
    return (tmp_path / "cgroup/freezer/one/freezer.state").read_text()


def test_a_pause_ends_with_its_block_however_that_ends(pauses: Pauses, task: Task, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), pauses.of(task) as still:
        assert still
        assert state(tmp_path) == "FROZEN"
        assert (tmp_path / "run/paused/one").exists()
        raise KeyboardInterrupt
    assert state(tmp_path) == "THAWED"
    assert not (tmp_path / "run/paused").exists()


def test_a_pause_that_was_cut_off_is_ended_by_the_next_who_looks(pauses: Pauses, task: Task, tmp_path: Path) -> None:
    assert pauses.end_left(lambda _: task) == []
    cut_off = pauses.of(task)
    cut_off.__enter__()  # and whoever did so was killed
    assert state(tmp_path) == "FROZEN"
    assert pauses.end_left(lambda _: task) == ["one"]
    assert state(tmp_path) == "THAWED"
    assert pauses.end_left(lambda _: task) == []
    assert not (tmp_path / "run/paused").exists()


def test_the_note_of_a_container_that_is_gone_goes_too(pauses: Pauses, task: Task, tmp_path: Path) -> None:
    cut_off = pauses.of(task)
    cut_off.__enter__()

    def gone(_: str) -> Task:
        raise NotFoundError("no task")

    assert pauses.end_left(gone) == ["one"]
    assert not (tmp_path / "run/paused").exists()


def test_a_host_that_cannot_pause_says_so_and_goes_on(task: Task, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with Pauses(tmp_path / "run/paused", Cgroups(tmp_path / "none")).of(task) as still:
        assert not still
    assert not (tmp_path / "run/paused").exists()
