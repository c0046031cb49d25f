"""What a container is to be, as values. Nothing here is looked up or defaulted from an image any more."""

from __future__ import annotations

from pathlib import Path

from reconciler.value import dataclass

DEFAULT_STOP_TIMEOUT = 10.0
KERNEL_TREES = ("/proc", "/sys", "/dev")
"""What every container has mounted by the OCI runtime, which makes the mount points where the image has none."""


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A process in a container. ``env`` are ``NAME=value`` strings; ``user`` has the forms of an image's USER."""

    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str = "/"
    user: str = ""
    terminal: bool = False


@dataclass(frozen=True, slots=True)
class MountSpec:
    """A mount at ``target`` inside. A bind (``kind`` "bind") shows the absolute host path ``source``.

    Any other kind is a filesystem type, such as ``tmpfs``; its ``source`` is a label only.
    """

    source: str
    target: str
    read_only: bool = False
    kind: str = "bind"
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BundleSpec:
    """One container.

    ``id`` is unique in a ``Runtime``. ``netns`` is a namespace that the caller wired, or None for one of its own with
    loopback alone. ``cgroup`` is the group's absolute path below the hierarchies' mounts. ``memory_limit`` is bytes.
    """

    id: str
    rootfs: Path
    process: ProcessSpec
    cgroup: str
    hostname: str = ""
    mounts: tuple[MountSpec, ...] = ()
    netns: Path | None = None
    memory_limit: int | None = None
    init: bool = False
    readonly_rootfs: bool = False
    annotations: tuple[tuple[str, str], ...] = ()
