"""The life of containers: create, start, stop, remove, and noticing that one has ended.

A container is a row, a directory ROOT/containers/<id> and, while it runs, a task, a mounted root filesystem and a
place on its networks. Everything but the first two can be rebuilt: a start builds it, and whoever next holds the
turn clears it away after the container has ended (``reap``).
"""

from __future__ import annotations

import os
import secrets
import signal
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

from reconciler.engine.embedded import volumes
from reconciler.engine.embedded.container_rows import ContainerRow, Settings
from reconciler.engine.embedded.container_spec import StartSpec, anonymous_targets, ordered, plain, process_of
from reconciler.engine.embedded.container_state import ended_at, state_of
from reconciler.engine.embedded.records import dump
from reconciler.engine.embedded.state import State
from reconciler.engine.embedded.wiring import Wiring, refresh_hosts, write_name_files
from reconciler.errors import ConflictError, NotFoundError, ReconcilerError, RuntimeFailure
from reconciler.linux import durable
from reconciler.linux.processes import boot_id
from reconciler.linux.tree import remove_tree
from reconciler.log import Logger
from reconciler.model.address import Address
from reconciler.model.canonical import Form
from reconciler.model.policy import next_streak
from reconciler.model.resources import Container, FileMount
from reconciler.oci.config import ImageConfig
from reconciler.oci.digest import Digest
from reconciler.runtime.runtime import Runtime
from reconciler.runtime.spec import BundleSpec, MountSpec
from reconciler.runtime.task import Task, TaskState
from reconciler.store.identity import forget_place
from reconciler.store.images import ImageRecord

_log = Logger("engine")


class Containers:
    """Every method but ``state_of`` needs the turn. Safe to use from several threads for different containers."""

    def __init__(self, state: State, runtime: Runtime, wiring: Wiring) -> None:
        self._state = state
        self._runtime = runtime
        self._wiring = wiring

    @property
    def cgroup(self) -> str:
        return f"/reconciler-{self._state.identity.id}"

    # Looking

    def state_of(self, row: ContainerRow) -> TaskState:
        """See ``container_state.state_of``."""
        return state_of(self._state, self._runtime, row)

    def task(self, row: ContainerRow) -> Task:
        """The processes of a container that was started. Raises ``NotFoundError`` when there are none on record."""
        return self._runtime.task(row.id)

    def ended_at(self, row: ContainerRow) -> float:
        """See ``container_state.ended_at``."""
        return ended_at(self._state, row)

    def reap(self) -> list[ContainerRow]:
        """Records the end of every container that has ended, and takes away what it had while it ran."""
        ended = []
        for row in self._state.containers.all():
            if row.started_at is None or row.finished_at is not None:
                continue
            found = self.state_of(row)
            if found.status == "exited":
                self._finish(row, found)
                ended.append(row)
        return ended

    def mounted_sources(self) -> set[str]:
        """The host paths that containers bind, running or not."""
        found: set[str] = set()
        for row in self._state.containers.all():
            path = self._state.container_dir(row.id) / "spec.json"
            with suppress(FileNotFoundError):
                found.update(mount.source for mount in StartSpec.from_json(path.read_text()).mounts)
        return found

    # Changing

    def create(
        self,
        container: Container,
        image: Digest,
        *,
        name: str | None,
        address: Address | None,
        form: Form,
        inherit: ContainerRow | None = None,
        terminal: bool = False,
        stdin: bool = False,
    ) -> ContainerRow:
        """Makes a container that can be started: everything that can be checked without running it, is.

        ``inherit`` is the container it is to replace: anonymous volumes are taken over by target. Nothing is left of
        one that could not be made. Raises ``RuntimeFailure`` (125, 126, 127) among others.
        """
        record = self._state.images.get(image)
        if record is None:
            raise NotFoundError(f"image {image.short} is not on this host", hint="pull it first")
        config = self._state.config(record)
        container_id = secrets.token_hex(32)
        directory = self._state.container_dir(container_id)
        with ExitStack() as undo:
            undo.callback(self._discard, container_id)
            self._state.snapshots.create(container_id, record.chain_ids)
            process, notes = process_of(container, config, terminal=terminal)
            for note in notes:
                _log.warning("image-environment", container=container_id[:12], note=note)
            hostname = container_id[:12]
            anonymous = self._anonymous(container, config, inherit)
            mounts = self._mounts(container, directory, anonymous)
            spec = StartSpec(process, mounts, hostname, container.mem_limit, container.init)
            durable.write_file(directory / "spec.json", spec.to_json().encode(), point="container.spec")
            row = ContainerRow(
                id=container_id,
                name=name,
                address=address,
                form=form,
                settings=Settings(
                    args=process.args,
                    hostname=hostname,
                    networks=tuple(str(network) for network in container.networks),
                    ports=container.ports,
                    restart=container.restart.policy,
                    stop_signal=container.stop_signal or config.stop_signal or "SIGTERM",
                    stop_grace_period=container.stop_grace_period,
                    terminal=terminal,
                    stdin=stdin,
                    volumes=tuple(self._volume_names(container)),
                    anonymous=tuple((volume, target) for target, volume in anonymous.items()),
                    labels=dict(container.labels),
                    stubs=tuple(mount.target for mount in mounts),
                ),
                image=image,
                created_at=time.time(),
            )
            write_name_files(directory / "names", row, ())
            self._state.containers.add(row)
            undo.callback(self._state.containers.drop, container_id)
            self._prepare_root(row, spec)
            undo.pop_all()
        return row

    def start(self, row: ContainerRow) -> None:
        """Starts a container that is not running; a no-op for one that is. What was set up is undone on a failure."""
        self.prepare(row)
        self.release(row)

    def prepare(self, row: ContainerRow) -> None:
        """Everything of a start but running the program, so that a terminal can be attached before the first output.

        A no-op for a container that runs.
        """
        if self.state_of(row).running:
            return
        self._runtime.delete(row.id)
        spec = StartSpec.from_json((self._state.container_dir(row.id) / "spec.json").read_text())
        with ExitStack() as undo:
            undo.callback(self._take_down, row)
            self._prepare_root(row, spec)
            endpoints = self._wiring.connect(row)
            write_name_files(self._names(row), row, [endpoint.address for endpoint in endpoints])
            refresh_hosts(self._state, self._wiring, row.settings.networks)
            exits = self._state.container_dir(row.id) / "exit"
            exits.mkdir(exist_ok=True)
            task = self._runtime.create(
                self._state.container_dir(row.id),
                self._bundle(row, spec),
                self._state.log_path(row.id),
                exits,
                terminal=row.settings.terminal,
                stdin=row.settings.stdin,
            )
            self._wiring.publish(row, endpoints)
            self._state.containers.update(row.id, pid=task.pid, pid_start=task.init.start_time, boot_id=boot_id())
            undo.pop_all()

    def release(self, row: ContainerRow) -> None:
        """Runs the program of a prepared container and counts the run."""
        if self.state_of(row).status == "running":
            return
        if row.finished_at is not None and row.started_at is not None:
            streak = next_streak(row.streak, row.finished_at - row.started_at)
        else:
            streak = 0
        # The run is counted before it begins: a crash in between leaves a run that ended unknown, never a free one.
        self._state.containers.update(
            row.id, run=row.run + 1, streak=streak, started_at=time.time(), finished_at=None, exit_code=None, oom=False
        )
        try:
            self._runtime.start(row.id)
        except ReconcilerError:
            self._finish(self._state.containers.get(row.id), TaskState("exited", None, None))
            raise

    def resume(self, row: ContainerRow) -> bool:
        """Lets a paused container run on; False when it is not paused."""
        return self._runtime.resume(row.id)

    def stop(self, row: ContainerRow, timeout: float | None = None) -> bool:
        """Stops a container by its own signal and grace period; False when it was not running.

        ``timeout`` overrides the grace period in seconds; -1 waits for ever.
        """
        if not self.state_of(row).running:
            return False
        grace = row.settings.stop_grace_period if timeout is None else timeout
        found = self._runtime.stop(row.id, signal_number(row.settings.stop_signal), None if grace < 0 else grace)
        self._finish(self._state.containers.get(row.id), found)
        return True

    def remove(self, row: ContainerRow, *, force: bool = True) -> None:
        """Removes a container, its writable layer and its anonymous volumes; stops it first if ``force``."""
        current = self.state_of(row)
        if current.running:
            if not force:
                raise ConflictError(f"container {row.shown} is running", hint="stop it first, or use --force")
            self.stop(row)
        self._take_down(row)
        # Row first, bytes after: what is left without a row is swept, a row without bytes would be a lie.
        heirs = {name for other in self._state.containers.all() if other.id != row.id for name, _ in _anonymous(other)}
        self._state.containers.drop(row.id)
        self._state.snapshots.remove(row.id)
        remove_tree(self._state.container_dir(row.id), point="container.remove")
        for name, _ in row.settings.anonymous:
            if name not in heirs:
                volumes.delete(self._state.root, self._state.volumes, name)

    def update(self, row: ContainerRow, container: Container, form: Form) -> None:
        """Changes in place what needs no new container (``Capabilities.in_place``) and stores the new form."""
        config = self._state.config(self._image(row))
        settings = replace(
            row.settings,
            restart=container.restart.policy,
            stop_signal=container.stop_signal or config.stop_signal or "SIGTERM",
            stop_grace_period=container.stop_grace_period,
            labels=dict(container.labels),
        )
        self._state.containers.update(row.id, form=dump(form), settings=settings.to_json())

    def sweep(self) -> None:
        """Takes away what a killed process left: directories without a row, and the leavings of unfinished starts."""
        rows = {row.id: row for row in self._state.containers.all()}
        directory = self._state.root / "containers"
        for path in directory.iterdir() if directory.is_dir() else ():
            if path.name not in rows:
                self._unmount(path.name)
                remove_tree(path, point="container.sweep")
        for task in self._runtime.ids():
            if task not in rows:
                self._runtime.delete(task)

    def tidy(self) -> None:
        """Takes away what tasks share, when none is left: the parent control group and the runtime directory."""
        if self._runtime.ids():
            return
        for directory in ("netns", "rootfs"):
            with suppress(OSError):
                (self._state.run / directory).rmdir()
        self._runtime.release(self.cgroup)
        forget_place(self._state.identity)

    # Parts

    def _finish(self, row: ContainerRow, found: TaskState) -> None:
        self._state.containers.update(
            row.id,
            finished_at=self.ended_at(row),
            exit_code=found.exit_code,
            oom=found.oom,
            pid=None,
            pid_start=None,
        )
        self._take_down(row)

    def _take_down(self, row: ContainerRow) -> None:
        """Task, network and mount; each a no-op when it is not there."""
        self._runtime.delete(row.id)
        self._wiring.disconnect(row.id)
        self._unmount(row.id)
        refresh_hosts(self._state, self._wiring, row.settings.networks)

    def _prepare_root(self, row: ContainerRow, spec: StartSpec) -> None:
        """Mounts the root filesystem, fills fresh volumes from it, and checks that the program could run."""
        rootfs = self._state.rootfs(row.id)
        rootfs.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._state.snapshots.mount(row.id, rootfs)
        for name, target in [*row.settings.anonymous, *self._declared(spec)]:
            volume = self._state.volumes.get(name)
            volumes.fill(self._state.root, self._state.volumes, volume, rootfs, target)
        self._runtime.verify(self._state.container_dir(row.id), self._bundle(row, spec))

    def _bundle(self, row: ContainerRow, spec: StartSpec) -> BundleSpec:
        state = self._state
        return spec.bundle(row.id, state.rootfs(row.id), state.netns(row.id), f"{self.cgroup}/{row.id}")

    def _image(self, row: ContainerRow) -> ImageRecord:
        record = self._state.images.get(row.image)
        if record is None:
            raise NotFoundError(f"the image {row.image.short} of container {row.shown} is gone", hint="pull it again")
        return record

    def _declared(self, spec: StartSpec) -> list[tuple[str, str]]:
        by_path = {str(row.path(self._state.root)): row.name for row in self._state.volumes.all().values() if row.owner}
        return [(by_path[mount.source], mount.target) for mount in spec.mounts if mount.source in by_path]

    def _mounts(self, container: Container, directory: Path, anonymous: dict[str, str]) -> tuple[MountSpec, ...]:
        names = directory / "names"
        found = [
            MountSpec(str(names / "resolv.conf"), "/etc/resolv.conf"),
            MountSpec(str(names / "hostname"), "/etc/hostname"),
            MountSpec(str(names / "hosts"), "/etc/hosts"),
        ]
        for target, volume in anonymous.items():
            row = self._state.volumes.get(volume)
            found.append(MountSpec(str(row.path(self._state.root)), target))
        for mount in container.mounts:
            if mount.kind == "bind":
                found.append(MountSpec(mount.source, mount.target, mount.read_only))
            elif mount.kind == "tmpfs":
                found.append(MountSpec("tmpfs", mount.target, mount.read_only, kind="tmpfs"))
            elif mount.source:
                row = self._state.volumes.at(Address.parse(mount.source))
                found.append(MountSpec(str(row.path(self._state.root)), mount.target, mount.read_only))
        found += self._files(directory / "files", (*container.configs, *container.secrets))
        overridden = {mount.target for mount in container.mounts}
        return ordered(mount for index, mount in enumerate(found) if index >= 3 or mount.target not in overridden)

    def _files(self, directory: Path, files: tuple[FileMount, ...]) -> list[MountSpec]:
        """Writes configs and secrets beside the container: read-only binds, readable as their mode says."""
        if not files:
            return []
        directory.mkdir(mode=0o700, exist_ok=True)
        found = []
        for index, file in enumerate(files):
            path = directory / str(index)
            data = plain(file.content).encode("utf-8", "surrogateescape")
            durable.write_file(path, data, point="container.file", mode=file.mode)
            path.chmod(file.mode)
            os.chown(path, file.uid, file.gid)
            found.append(MountSpec(str(path), file.target, read_only=True))
        return found

    def _anonymous(self, container: Container, image: ImageConfig, inherit: ContainerRow | None) -> dict[str, str]:
        """Target to name of the anonymous volume there; those of a predecessor are taken over."""
        inherited = {target: name for name, target in _anonymous(inherit)} if inherit else {}
        found = {}
        for target in anonymous_targets(container, image):
            name = inherited.get(target) or secrets.token_hex(16)
            volumes.ensure(self._state.root, self._state.volumes, name, form={}, owner="")
            found[target] = name
        return found

    def _volume_names(self, container: Container) -> list[str]:
        named = [mount.source for mount in container.mounts if mount.kind == "volume" and mount.source]
        return [self._state.volumes.at(Address.parse(source)).name for source in named]

    def _discard(self, container_id: str) -> None:
        self._runtime.delete(container_id)
        self._unmount(container_id)
        self._state.snapshots.remove(container_id)
        remove_tree(self._state.container_dir(container_id), point="container.discard")

    def _unmount(self, container_id: str) -> None:
        rootfs = self._state.rootfs(container_id)
        self._state.snapshots.unmount(rootfs)
        with suppress(FileNotFoundError):
            rootfs.rmdir()

    def _names(self, row: ContainerRow) -> Path:
        return self._state.container_dir(row.id) / "names"


def signal_number(name: str) -> int:
    """``SIGTERM``, ``TERM`` or ``15``. Raises ``RuntimeFailure``."""
    if name.isdecimal() and 1 <= int(name) <= 64:
        return int(name)
    number = getattr(signal, name.upper() if name.upper().startswith("SIG") else f"SIG{name.upper()}", None)
    if not isinstance(number, signal.Signals):
        raise RuntimeFailure(f"unknown stop signal {name[:40]!a}", hint="write a name such as SIGTERM, or a number")
    return int(number)


def _anonymous(row: ContainerRow) -> tuple[tuple[str, str], ...]:
    return row.settings.anonymous
