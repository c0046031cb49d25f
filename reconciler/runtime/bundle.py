"""OCI bundles: ``config.json`` of the OCI runtime specification, with the defaults of Docker's containers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from posixpath import normpath
from typing import Any

from reconciler.errors import HostError, RuntimeFailure
from reconciler.linux import durable
from reconciler.linux.cgroups import Cgroups
from reconciler.linux.rooted import Rooted
from reconciler.runtime import seccomp
from reconciler.runtime.executable import find_executable, read_elf
from reconciler.runtime.process import complete_environment
from reconciler.runtime.spec import KERNEL_TREES, BundleSpec, MountSpec, ProcessSpec
from reconciler.runtime.users import resolve_user

# What Docker and podman leave to a container's root.
CAPABILITIES = (
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)
_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
# Programs without privileges may bind low ports and send pings: both stay inside the container's network namespace.
_SYSCTLS = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
_BASE_MOUNTS = (
    ("/proc", "proc", "proc", ("nosuid", "noexec", "nodev")),
    ("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    ("/dev/pts", "devpts", "devpts", ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")),
    ("/sys", "sysfs", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
    ("/sys/fs/cgroup", "cgroup", "cgroup", ("nosuid", "noexec", "nodev", "relatime", "ro")),
    ("/dev/mqueue", "mqueue", "mqueue", ("nosuid", "noexec", "nodev")),
    ("/dev/shm", "tmpfs", "shm", ("nosuid", "noexec", "nodev", "mode=1777", "size=65536k")),
)
# On /dev, which is a tmpfs of the container: elsewhere the mount point would become part of its writable layer.
_INIT_TARGET = "/dev/init"
_INIT_PROGRAMS = tuple(
    Path(path)
    for path in (
        "/usr/bin/catatonit",
        "/usr/libexec/podman/catatonit",
        "/usr/libexec/catatonit/catatonit",
        "/usr/bin/tini-static",
        "/usr/bin/tini",
        "/usr/bin/docker-init",
    )
)


def write_bundle(directory: Path, spec: BundleSpec, cgroups: Cgroups) -> None:
    """Checks ``spec`` against its root and writes ``config.json`` to ``directory``.

    The working directory is made in the root when missing. Raises ``RuntimeFailure``: 127 and 126 as
    ``find_executable``, 125 for a user, a working directory or a mount that cannot be; ``HostError`` when the host
    lacks a part.
    """
    _check_mounts(spec.mounts)
    try:
        root = Rooted(spec.rootfs, [(m.target, Path(m.source) if m.kind == "bind" else None) for m in spec.mounts])
    except OSError as error:
        raise RuntimeFailure(f"the root filesystem of {spec.id} cannot be used: {error}") from None
    with root:
        _check_kernel_trees(root)
        process = resolve_process(root, spec.process, spec.hostname, make_cwd=True)
    document = runtime_config(spec, process, cgroups)
    write_private(directory / "config.json", json.dumps(document))


def write_private(path: Path, text: str) -> None:
    """Writes a file that only root reads: a process's environment may hold secrets."""
    durable.write_file(path, text.encode(), point="bundle", sync=False)


def resolve_process(root: Rooted, spec: ProcessSpec, hostname: str, *, make_cwd: bool) -> dict[str, Any]:
    """The ``process`` object of the OCI runtime specification for a process in ``root``, with nothing left to guess."""
    user = resolve_user(root, spec.user)
    cwd = _working_directory(root, spec.cwd, make=make_cwd)
    env = complete_environment(spec.env, home=user.home, hostname=hostname, terminal=spec.terminal)
    find_executable(root, spec.args, env, cwd)
    # As Docker: a process that is not root starts without capabilities, but may gain them through set-uid programs.
    effective = list(CAPABILITIES) if user.uid == 0 else []
    return {
        "terminal": spec.terminal,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)},
        "args": list(spec.args),
        "env": list(env),
        "cwd": cwd,
        "capabilities": {
            "bounding": list(CAPABILITIES),
            "permitted": effective,
            "effective": effective,
        },
        "noNewPrivileges": False,
    }


def runtime_config(spec: BundleSpec, process: dict[str, Any], cgroups: Cgroups) -> dict[str, Any]:
    """The whole ``config.json``: a pure function but for reading which program serves as init and the profile."""
    mounts = [_mount(target, kind, source, options) for target, kind, source, options in _BASE_MOUNTS]
    mounts += [_user_mount(mount) for mount in spec.mounts]
    if spec.init:
        mounts.append(_mount(_INIT_TARGET, "bind", str(find_init()), ("bind", "ro", "nosuid", "nodev")))
        process = {**process, "args": [_INIT_TARGET, "--", *process["args"]]}
    namespaces: list[dict[str, str]] = [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")]
    namespaces.append({"type": "network"} if spec.netns is None else {"type": "network", "path": str(spec.netns)})
    if cgroups.unified:
        namespaces.append({"type": "cgroup"})
    resources: dict[str, Any] = {"devices": [{"allow": False, "access": "rwm"}]}
    if spec.memory_limit is not None:
        resources["memory"] = {"limit": spec.memory_limit}
        if cgroups.swap_accounted():  # memory and swap together, twice the memory as Docker has it
            resources["memory"]["swap"] = 2 * spec.memory_limit
    return {
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": str(spec.rootfs), "readonly": spec.readonly_rootfs},
        "hostname": spec.hostname or spec.id[:12],
        "mounts": mounts,
        "annotations": dict(spec.annotations),
        "linux": {
            "resources": resources,
            "cgroupsPath": spec.cgroup,
            "namespaces": namespaces,
            "sysctl": _SYSCTLS,
            "seccomp": seccomp.load_profile(frozenset(CAPABILITIES)),
            "maskedPaths": _MASKED,
            "readonlyPaths": _READ_ONLY,
        },
    }


def find_init() -> Path:
    """The host's small init program, which reaps orphans and passes signals on. A dynamic one would
    need its loader in every image.

    Raises ``HostError`` naming the package when there is none.
    """
    for path in _INIT_PROGRAMS:
        if path.exists() and _is_static(path):
            return path
    raise HostError(
        "`init: true` needs a small init program, and this host has none", hint="Install the package catatonit."
    )


def _is_static(path: Path) -> bool:
    with path.open("rb") as file:
        return read_elf(file.read(4096))[1] == ""


def _working_directory(root: Rooted, cwd: str, *, make: bool) -> str:
    """The canonical working directory. One below /proc could be a door to the host's files (CVE-2024-21626)."""
    path = normpath("/" + cwd)
    try:
        for step in (root.locate(cwd), path):
            if step == "/proc" or step.startswith("/proc/"):
                raise RuntimeFailure(
                    f"working directory {cwd!r} leads into /proc", hint="Choose a directory of the image's own."
                )
        return root.makedirs(cwd) if make else root.resolve(cwd)
    except OSError as error:
        raise RuntimeFailure(f"working directory {cwd!r} cannot be used: {error.strerror}") from None


def _check_kernel_trees(root: Rooted) -> None:
    for path in KERNEL_TREES:
        if root.locate(path) != path:
            raise RuntimeFailure(f"the image's {path} is a symbolic link", hint="Use an image where it is a directory.")


def _check_mounts(mounts: tuple[MountSpec, ...]) -> None:
    for mount in mounts:
        if not mount.target.startswith("/") or normpath(mount.target) == "/":
            raise RuntimeFailure(f"mount target {mount.target!r} is not an absolute path below /")
        if mount.kind == "bind" and not (mount.source.startswith("/") and os.path.lexists(mount.source)):
            raise RuntimeFailure(
                f"mount source {mount.source!r} for {mount.target} does not exist",
                hint="Create it first, or use a volume.",
            )


def _user_mount(mount: MountSpec) -> dict[str, Any]:
    access = "ro" if mount.read_only else "rw"
    if mount.kind == "bind":
        return _mount(mount.target, "bind", mount.source, ("rbind", "rprivate", access, *mount.options))
    return _mount(mount.target, mount.kind, mount.source or mount.kind, ("nosuid", "nodev", access, *mount.options))


def _mount(target: str, kind: str, source: str, options: tuple[str, ...]) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": list(options)}
