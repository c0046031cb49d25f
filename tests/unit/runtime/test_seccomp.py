"""Translating the host's seccomp profile."""

from __future__ import annotations

import errno
import json

import pytest

from reconciler.errors import HostError
from reconciler.runtime.seccomp import load_profile, translate

_PROFILE = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 38,
    "defaultErrno": "ENOSYS",
    "archMap": [
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
    ],
    "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [], "includes": {}, "excludes": {}},
        {"names": ["modify_ldt"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
        {"names": ["breakpoint"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm", "arm64"]}},
        {"names": ["chroot"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_CHROOT"]}},
        {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {
            "names": ["bpf"],
            "action": "SCMP_ACT_ERRNO",
            "excludes": {"caps": ["CAP_SYS_ADMIN"]},
            "errno": "EPERM",
            "errnoRet": 1,
        },
        {
            "names": ["socket"],
            "action": "SCMP_ACT_ERRNO",
            "args": [{"index": 0, "value": 16, "valueTwo": 0, "op": "SCMP_CMP_EQ"}],
            "excludes": {"caps": ["CAP_SYS_CHROOT"]},
        },
    ],
}


def names(result):
    return [rule["names"][0] for rule in result["syscalls"]]


def test_conditions_are_decided():
    result = translate(_PROFILE, ["CAP_SYS_CHROOT"], "x86_64")
    assert result["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    assert result["defaultErrnoRet"] == errno.ENOSYS
    assert names(result) == ["read", "modify_ldt", "chroot", "bpf"]
    assert result["syscalls"][-1] == {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM}


def test_other_machine_other_capabilities():
    result = translate(_PROFILE, ["CAP_SYS_ADMIN"], "aarch64")
    assert result["architectures"] == ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    assert names(result) == ["read", "breakpoint", "bpf", "socket"]
    assert result["syscalls"][-1]["args"] == _PROFILE["syscalls"][-1]["args"]


def test_missing_profile_is_refused_and_the_package_named(tmp_path):
    with pytest.raises(HostError) as caught:
        load_profile(frozenset(), tmp_path / "seccomp.json")
    assert "golang-github-containers-common" in caught.value.hint


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": 3}'])
def test_damaged_profile_is_refused(tmp_path, text):
    path = tmp_path / "seccomp.json"
    path.write_text(text)
    with pytest.raises(HostError):
        load_profile(frozenset(), path)


def test_a_changed_profile_is_read_again(tmp_path):
    path = tmp_path / "seccomp.json"
    path.write_text(json.dumps(_PROFILE))
    before = load_profile(frozenset(), path)
    assert load_profile(frozenset(), path) is before
    path.write_text(json.dumps({**_PROFILE, "syscalls": []}))
    import os

    os.utime(path, ns=(1, 1))
    assert load_profile(frozenset(), path)["syscalls"] == []
