"""The host's seccomp profile, translated for the OCI runtime.

The file is in the format of containers/common (and Docker): rules that hold only for some architectures or
capabilities. The OCI runtime specification (``linux.seccomp``) has no conditions, so they are decided here.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from reconciler.errors import HostError

PROFILE = Path("/usr/share/containers/seccomp.json")
_PACKAGE_HINT = "Install the package golang-github-containers-common, which brings the seccomp profile."
# uname -m -> (the name in a rule's conditions, the name in archMap)
_ARCHITECTURES = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "armv7l": ("arm", "SCMP_ARCH_ARM"),
    "i686": ("x86", "SCMP_ARCH_X86"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
}


def load_profile(capabilities: frozenset[str], path: Path = PROFILE) -> dict[str, Any]:
    """``linux.seccomp`` for a process with these capabilities on this machine. The result is shared: do not change it.

    Raises ``HostError`` when the profile is missing or not readable: running without one is never a silent default.
    """
    try:
        modified = path.stat().st_mtime_ns
        return _load(path, modified, capabilities, os.uname().machine)
    except FileNotFoundError:
        raise HostError(f"the seccomp profile {path} is missing", hint=_PACKAGE_HINT) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HostError(f"the seccomp profile {path} cannot be understood: {error!r}", hint=_PACKAGE_HINT) from None


@lru_cache(maxsize=16)
def _load(path: Path, _modified: int, capabilities: frozenset[str], machine: str) -> dict[str, Any]:
    return translate(json.loads(path.read_bytes()), capabilities, machine)


def translate(profile: dict[str, Any], capabilities: Iterable[str], machine: str) -> dict[str, Any]:
    """The profile without its conditions, for ``machine`` (as uname names it) and these capabilities."""
    held = frozenset(capabilities)
    arch, scmp_arch = _ARCHITECTURES[machine]
    result: dict[str, Any] = {"defaultAction": profile["defaultAction"]}
    number = _errno(profile, "defaultErrno", "defaultErrnoRet")
    if number is not None:
        result["defaultErrnoRet"] = number
    for entry in profile.get("archMap") or ():
        if entry["architecture"] == scmp_arch:
            result["architectures"] = [scmp_arch, *(entry.get("subArchitectures") or ())]
    result["syscalls"] = [_rule(rule) for rule in profile["syscalls"] if _applies(rule, arch, held)]
    return result


def _applies(rule: dict[str, Any], arch: str, capabilities: frozenset[str]) -> bool:
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    arches = includes.get("arches") or ()
    return (
        (not arches or arch in arches)
        and capabilities.issuperset(includes.get("caps") or ())
        and arch not in (excludes.get("arches") or ())
        and capabilities.isdisjoint(excludes.get("caps") or ())
    )


def _rule(rule: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {"names": rule.get("names") or [rule["name"]], "action": rule["action"]}
    if rule.get("args"):
        result["args"] = rule["args"]
    number = _errno(rule, "errno", "errnoRet")
    if number is not None:
        result["errnoRet"] = number
    return result


def _errno(document: dict[str, Any], name: str, number: str) -> int | None:
    """The error a refused call returns: by name in newer profiles, by number in older ones."""
    if document.get(name):
        return int(getattr(errno, document[name]))
    value = document.get(number)
    return None if value is None else int(value)
