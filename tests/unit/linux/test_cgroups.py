"""Control groups of both versions, as trees of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.errors import HostError
from reconciler.linux.cgroups import Cgroups

_GROUP = "/reconciler/root/c1"


@pytest.fixture
def v1(tmp_path: Path) -> Cgroups:
    for name in ("memory", "freezer", "systemd"):
        (tmp_path / name / _GROUP[1:]).mkdir(parents=True)
    (tmp_path / "unified").mkdir()
    (tmp_path / "cpuacct").symlink_to("memory")
    return Cgroups(tmp_path)


@pytest.fixture
def v2(tmp_path: Path) -> Cgroups:
    (tmp_path / _GROUP[1:]).mkdir(parents=True)
    (tmp_path / "cgroup.controllers").write_text("memory pids\n")
    return Cgroups(tmp_path)


def test_x07_oom_kills_v1(v1):
    assert v1.oom_kills(_GROUP) == 0
    file = v1.mount / "memory" / _GROUP[1:] / "memory.oom_control"
    file.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    assert v1.oom_kills(_GROUP) == 2


def test_x07_oom_kills_v2(v2):
    assert v2.oom_kills(_GROUP) == 0
    (v2.mount / _GROUP[1:] / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 3\noom_kill 1\noom_group_kill 0\n")
    assert v2.oom_kills(_GROUP) == 1
    assert v2.oom_kills("/gone") == 0


def test_x17_freezing_v1(v1):
    state = v1.mount / "freezer" / _GROUP[1:] / "freezer.state"
    v1.thaw(_GROUP)
    assert not state.exists()
    state.write_text("FROZEN\n")
    assert v1.frozen(_GROUP)
    v1.thaw(_GROUP)
    assert state.read_text().startswith("THAWED")


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_d22_what_cannot_be_frozen_runs_on(version, request):
    cgroups = request.getfixturevalue(version)
    assert not cgroups.freeze("/gone", 1)  # or the host has no freezer
    if version == "v1":
        state, frozen, thawed = cgroups.mount / "freezer" / _GROUP[1:] / "freezer.state", "FROZEN", "THAWED"
    else:
        (cgroups.mount / _GROUP[1:] / "cgroup.events").write_text("frozen 0\n")
        state, frozen, thawed = cgroups.mount / _GROUP[1:] / "cgroup.freeze", "1", "0"
    state.write_text("")
    if version == "v1":
        assert cgroups.freeze(_GROUP, 1)
        assert state.read_text() == frozen
    else:
        assert not cgroups.freeze(_GROUP, 0)  # a process that waits for a dead disk is never frozen
        assert state.read_text() == thawed
        (cgroups.mount / _GROUP[1:] / "cgroup.events").write_text("frozen 1\n")
        assert cgroups.freeze(_GROUP, 1)
        assert state.read_text() == frozen


def test_x17_freezing_v2(v2):
    group = v2.mount / _GROUP[1:]
    (group / "cgroup.events").write_text("populated 1\nfrozen 1\n")
    (group / "cgroup.freeze").write_text("1\n")
    assert v2.frozen(_GROUP)
    v2.thaw(_GROUP)
    assert (group / "cgroup.freeze").read_text() == "0\n"
    (group / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    assert not v2.frozen(_GROUP)


def test_kill_v2_is_one_write(v2):
    file = v2.mount / _GROUP[1:] / "cgroup.kill"
    file.write_text("")
    v2.kill(_GROUP)
    assert file.read_text() == "1"


def test_processes_are_of_the_groups_below_too(v2):
    (v2.mount / _GROUP[1:] / "cgroup.procs").write_text("5\n6\n")
    inner = v2.mount / _GROUP[1:] / "inner"
    inner.mkdir()
    (inner / "cgroup.procs").write_text("7\n")
    assert v2.processes(_GROUP) == {5, 6, 7}


def test_directories_of_each_hierarchy_once(v1, v2):
    assert v1.unified is True  # the two fixtures share a mount: the version 2 file decides
    (v2.mount / "cgroup.controllers").unlink()
    assert {path.relative_to(v1.mount).parts[0] for path in v1.directories(_GROUP)} == {"memory", "freezer", "systemd"}


def test_adopt_v1_uses_the_hierarchies_that_services_are_tracked_by(v1):
    for name in ("systemd", "unified"):
        directory = v1.mount / name / "reconciler/conmon"
        directory.mkdir(parents=True)
        (directory / "cgroup.procs").touch()
    v1.adopt("/reconciler/conmon", 4711)
    written = {
        path.relative_to(v1.mount).parts[0] for path in v1.mount.rglob("cgroup.procs") if path.read_text() == "4711"
    }
    assert written == {"systemd", "unified"}


def test_remove_takes_the_groups_below(v1):
    (v1.mount / "memory" / _GROUP[1:] / "inner").mkdir()
    assert v1.remove("/reconciler/root")
    assert not v1.directories("/reconciler/root")
    assert (v1.mount / "memory/reconciler").is_dir()
    assert v1.remove("/reconciler/root")


@pytest.mark.parametrize("group", ["", "/", "/a/../..", "/a//b"])
def test_a_path_that_is_no_group_is_refused(v1, group):
    with pytest.raises(HostError):
        v1.kill(group)
