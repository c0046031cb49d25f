"""The config.json of a bundle."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.errors import RuntimeFailure
from reconciler.linux.cgroups import Cgroups
from reconciler.runtime import seccomp
from reconciler.runtime.bundle import write_bundle
from reconciler.runtime.spec import BundleSpec, MountSpec, ProcessSpec


@pytest.fixture(autouse=True)
def profile(monkeypatch):
    monkeypatch.setattr(seccomp, "load_profile", lambda _capabilities: {"defaultAction": "SCMP_ACT_ERRNO"})


@pytest.fixture
def spec(tmp_path: Path) -> BundleSpec:
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/sh")
    return BundleSpec(id="c1", rootfs=root, process=ProcessSpec(("sh",)), cgroup="/reconciler/c1")


@pytest.fixture
def write(tmp_path: Path):
    hierarchies = tmp_path / "cgroup"
    (hierarchies / "memory").mkdir(parents=True)

    def write(spec: BundleSpec) -> dict:
        write_bundle(tmp_path, spec, Cgroups(hierarchies))
        return json.loads((tmp_path / "config.json").read_text())

    write.hierarchies = hierarchies
    return write


def refused(write, spec: BundleSpec, **process: str) -> str:
    with pytest.raises(RuntimeFailure) as caught:
        write(replace(spec, process=replace(spec.process, **process)))
    assert caught.value.code == 125
    return str(caught.value)


@pytest.mark.parametrize(
    "cwd", ["/proc/self/fd/7", "/proc/1/cwd", "/proc", "proc/self/cwd", "//proc/../proc/self/fd/7"]
)
def test_x28_working_directory_in_proc_is_refused(write, spec, cwd):
    assert "/proc" in refused(write, spec, cwd=cwd)
    assert not (spec.rootfs / "proc").exists()


def test_x28_a_link_into_proc_is_refused(write, spec):
    (spec.rootfs / "work").symlink_to("/proc/self/fd")
    assert "/proc" in refused(write, spec, cwd="/work/7")


def test_x29_working_directory_is_made_inside(write, spec, tmp_path):
    (spec.rootfs / "srv").symlink_to("../../../../../../opt/data")
    config = write(replace(spec, process=replace(spec.process, cwd="/srv/app")))
    assert config["process"]["cwd"] == "/opt/data/app"
    assert (spec.rootfs / "opt/data/app").is_dir()


def test_x29_nothing_is_made_below_a_mount(write, spec, tmp_path):
    (tmp_path / "data").mkdir()
    mounted = replace(spec, mounts=(MountSpec(str(tmp_path / "data"), "/data"),))
    config = write(replace(mounted, process=replace(spec.process, cwd="/data/new")))
    assert config["process"]["cwd"] == "/data/new"
    assert list((tmp_path / "data").iterdir()) == []


def test_x31_working_directory_is_a_file_relative_empty(write, spec):
    assert "'/bin/sh'" in refused(write, spec, cwd="/bin/sh")
    assert write(replace(spec, process=replace(spec.process, cwd="srv")))["process"]["cwd"] == "/srv"
    assert write(replace(spec, process=replace(spec.process, cwd="")))["process"]["cwd"] == "/"


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_x43_kernel_trees_that_are_links_are_refused(write, spec, name):
    (spec.rootfs / name).symlink_to("/bin")
    assert f"/{name}" in refused(write, spec)


def test_ids_groups_and_capabilities(write, spec):
    process = write(replace(spec, process=replace(spec.process, user="7:8")))["process"]
    assert process["user"] == {"uid": 7, "gid": 8, "additionalGids": []}
    assert process["capabilities"]["effective"] == []
    assert "CAP_CHOWN" in process["capabilities"]["bounding"]
    assert "CAP_SYS_ADMIN" not in process["capabilities"]["bounding"]
    assert "CAP_CHOWN" in write(spec)["process"]["capabilities"]["effective"]


def test_memory_limit_with_and_without_swap_accounting(write, spec):
    limited = replace(spec, memory_limit=64 << 20)
    assert write(limited)["linux"]["resources"]["memory"] == {"limit": 64 << 20}
    (write.hierarchies / "memory/memory.memsw.limit_in_bytes").touch()
    assert write(limited)["linux"]["resources"]["memory"] == {"limit": 64 << 20, "swap": 128 << 20}


def test_namespaces_on_both_cgroup_versions(write, spec):
    def kinds() -> set[str]:
        return {entry["type"] for entry in write(spec)["linux"]["namespaces"]}

    assert kinds() == {"pid", "mount", "ipc", "uts", "network"}
    (write.hierarchies / "cgroup.controllers").touch()
    assert kinds() == {"pid", "mount", "ipc", "uts", "network", "cgroup"}
    given = write(replace(spec, netns=Path("/run/netns/x")))["linux"]["namespaces"]
    assert {"type": "network", "path": "/run/netns/x"} in given


def test_mounts_come_after_the_kernels(write, spec, tmp_path):
    mounts = (
        MountSpec(str(tmp_path), "/data", read_only=True),
        MountSpec("", "/tmp", kind="tmpfs", options=("size=1m",)),
    )
    written = write(replace(spec, mounts=mounts))["mounts"]
    assert written[0]["destination"] == "/proc"
    assert written[-2] == {
        "destination": "/data",
        "type": "bind",
        "source": str(tmp_path),
        "options": ["rbind", "rprivate", "ro"],
    }
    assert written[-1]["options"] == ["nosuid", "nodev", "rw", "size=1m"]


@pytest.mark.parametrize("target", ["data", "", "/", "/.."])
def test_bad_mount_targets(write, spec, tmp_path, target):
    assert repr(target) in refused(write, replace(spec, mounts=(MountSpec(str(tmp_path), target),)))
