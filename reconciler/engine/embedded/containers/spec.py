"""From what a spec asks for and an image says to what the runtime is given."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from reconciler.engine.embedded.records import dump
from reconciler.errors import RuntimeFailure
from reconciler.model.canonical import Form
from reconciler.model.resources import Container, Sensitive, Text
from reconciler.oci.config import ImageConfig
from reconciler.runtime.process import assemble_args, assemble_environment
from reconciler.runtime.spec import BundleSpec, MountSpec, ProcessSpec
from reconciler.value import dataclass


@dataclass(frozen=True, slots=True)
class StartSpec:
    """All that a start needs and that never changes over the life of a container.

    It is kept in ROOT/containers/<id>/spec.json, mode 0600: the environment may hold secrets.
    """

    process: ProcessSpec
    mounts: tuple[MountSpec, ...] = ()
    hostname: str = ""
    memory_limit: int | None = None
    init: bool = False

    def to_json(self, record: Form | None = None) -> str:
        """``record`` is what to keep of the container's row (``ContainerRow.to_record``)."""
        return dump({**asdict(self), **({"record": record} if record is not None else {})})

    @classmethod
    def from_json(cls, text: str) -> StartSpec:
        document = json.loads(text)
        document.pop("record", None)
        process = document.pop("process")
        mounts = document.pop("mounts")
        return cls(
            ProcessSpec(**{**process, "args": tuple(process["args"]), "env": tuple(process["env"])}),
            tuple(MountSpec(**{**mount, "options": tuple(mount["options"])}) for mount in mounts),
            **document,
        )

    def bundle(self, container_id: str, rootfs: Path, netns: Path, cgroup: str) -> BundleSpec:
        return BundleSpec(
            id=container_id,
            rootfs=rootfs,
            process=self.process,
            cgroup=cgroup,
            hostname=self.hostname,
            mounts=self.mounts,
            netns=netns,
            memory_limit=self.memory_limit,
            init=self.init,
        )


def process_of(container: Container, image: ImageConfig, *, terminal: bool = False) -> tuple[ProcessSpec, list[str]]:
    """The process, and one note for each environment entry of the image that was left out (CVE-2026-57231 class)."""
    args = assemble_args(image.entrypoint, image.cmd, container.entrypoint, container.command)
    overrides = [(name, plain(value)) for name, value in container.environment]
    env, dropped = assemble_environment(image.env, overrides)
    spec = ProcessSpec(
        args=args,
        env=env,
        cwd=container.working_dir or image.working_dir or "/",
        user=container.user or image.user,
        terminal=terminal,
    )
    return spec, [f"environment entry {name!a} of the image has no value and was left out" for name in dropped]


def anonymous_targets(container: Container, image: ImageConfig) -> list[str]:
    """The targets that get an anonymous volume: the image's VOLUMEs and the spec's, where nothing else is mounted.

    Raises ``RuntimeFailure`` for a VOLUME that is empty, relative or climbs.
    """
    taken = {posixpath.normpath(mount.target) for mount in container.mounts if mount.source or mount.kind != "volume"}
    wanted = [mount.target for mount in container.mounts if mount.kind == "volume" and not mount.source]
    for target in image.volumes:
        if not target.startswith("/") or ".." in target.split("/") or posixpath.normpath(target) == "/":
            raise RuntimeFailure(f"the image has a VOLUME {target!a}, which is no absolute path", hint="mend the image")
        wanted.append(target)
    unique = dict.fromkeys(posixpath.normpath(target) for target in wanted)
    return [target for target in unique if target not in taken]


def ordered(mounts: Iterable[MountSpec]) -> tuple[MountSpec, ...]:
    """Parents before children: a mount must not hide one that lies below it."""
    return tuple(sorted(mounts, key=lambda mount: posixpath.normpath(mount.target).count("/")))


def plain(value: Text) -> str:
    """The value itself, for the container and nobody else."""
    return value.value if isinstance(value, Sensitive) else value
