"""The life of containers: create, start, stop, remove, and noticing that one has ended.

A container is a row, a directory ROOT/containers/<id> and, while it runs, a task, a mounted root filesystem and a
place on its networks. Everything but the first two can be rebuilt: a start builds it, and whoever next holds the
turn clears it away after the container has ended (``reap``, and ``recovery`` for what a killed process left).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from reconciler.engine.embedded.containers.mounts import ContainerMounts
from reconciler.engine.embedded.containers.name_files import NameFiles
from reconciler.engine.embedded.containers.rows import ContainerRow, Settings
from reconciler.engine.embedded.containers.spec import StartSpec, process_of
from reconciler.engine.embedded.containers.state import ended_at, state_of
from reconciler.engine.embedded.images.unpacking import unpack_image
from reconciler.engine.embedded.records import dump
from reconciler.engine.embedded.state import State
from reconciler.errors import ConflictError, HostError, InvalidError, NotFoundError, ReconcilerError
from reconciler.linux import durable
from reconciler.linux.processes import signal_number
from reconciler.log import Logger
from reconciler.model.address import Address
from reconciler.model.canonical import Form
from reconciler.model.policy import next_streak
from reconciler.model.resources import Container
from reconciler.oci.config import ImageConfig
from reconciler.oci.digest import Digest
from reconciler.runtime.runtime import Runtime
from reconciler.runtime.spec import BundleSpec
from reconciler.runtime.task import Task, TaskState
from reconciler.store.identity import forget_place
from reconciler.store.images import ImageRecord

if TYPE_CHECKING:
    from reconciler.engine.embedded.wiring import Wiring

_log = Logger("engine")


class Containers:
    """Every method but ``state_of`` needs the turn. Safe to use from several threads for different containers.

    ``wiring`` is asked for once something is connected, and imported then: many commands only look.
    """

    def __init__(self, state: State, runtime: Runtime, wiring: Callable[[], Wiring], mounts: ContainerMounts) -> None:
        self._state = state
        self._runtime = runtime
        self._wiring = wiring
        self._mounts = mounts
        self._names = NameFiles(state)

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

    def tasks(self) -> tuple[str, ...]:
        """The ids of all containers that have a task, be it half made."""
        return self._runtime.ids()

    def ended_at(self, row: ContainerRow) -> float:
        """See ``container_state.ended_at``."""
        return ended_at(self._state, row)

    def reap(self, rows: Iterable[ContainerRow]) -> list[ContainerRow]:
        """Records the end of those that have ended since they were seen last, takes away what they had, and says which.

        What cannot be taken away now is logged: one container must not stand in the way of all the others.
        """
        ended = []
        for row in rows:
            if row.started_at is None or row.finished_at is not None:
                continue
            found = self.state_of(row)
            if found.status == "exited":
                try:
                    self._record_end(row, found)
                    ended.append(row)
                    self.take_down(row)
                except ReconcilerError as error:
                    _log.warning("not-cleared", container=row.shown, error=str(error), hint=error.hint)
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
        self._wiring().require_free(container.ports)
        config = self._state.config(record)
        container_id = secrets.token_hex(32)
        directory = self._state.container_dir(container_id)
        with ExitStack() as undo:
            undo.callback(self.discard, container_id)
            unpack_image(self._state, image)
            self._state.snapshots.create(container_id, record.chain_ids)
            process, notes = process_of(container, config, terminal=terminal)
            for note in notes:
                _log.warning("image-environment", container=container_id[:12], note=note)
            anonymous = self._mounts.anonymous(container, config, inherit)
            undo.callback(self._mounts.drop_orphans, anonymous.values())
            mounts = self._mounts.of(container, container_id, anonymous)
            hostname = container_id[:12]
            spec = StartSpec(process, mounts, hostname, container.mem_limit, container.init)
            settings = Settings(
                args=process.args,
                hostname=hostname,
                networks=tuple(str(network) for network in container.networks),
                ports=container.ports,
                restart=container.restart.policy,
                stop_signal=_stop_signal(container, config),
                stop_grace_period=container.stop_grace_period,
                terminal=terminal,
                stdin=stdin,
                volumes=self._mounts.volume_names(container),
                anonymous=tuple((volume, target) for target, volume in anonymous.items()),
                labels=dict(container.labels),
                stubs=tuple(mount.target for mount in mounts),
            )
            row = ContainerRow(container_id, name, address, form, settings, image, time.time())
            text = spec.to_json(row.to_record())
            durable.write_file(directory / "spec.json", text.encode(), point="container.spec")
            self._names.write(row, ())
            self._state.containers.add(row)
            undo.callback(self._state.containers.drop, container_id)
            self._mount(row, spec)
            self._runtime.verify(directory, self._bundle(row, spec))
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
        if self._state.images.get(row.image) is not None:
            unpack_image(self._state, row.image)
        self._runtime.delete(row.id)
        self._wiring().disconnect(row.id)
        spec = StartSpec.from_json((self._state.container_dir(row.id) / "spec.json").read_text())
        with ExitStack() as undo:
            undo.callback(self.take_down, row)
            self._mount(row, spec)
            endpoints = self._wiring().place(row)
            self._names.write(row, [endpoint.address for endpoint in endpoints])
            self._names.refresh(self._wiring().networks_of(row.id))
            exits = self._state.container_dir(row.id) / "exit"
            durable.make_directory(exits, point="container.exit", mode=0o755, sync=False)
            with self._wiring().attaching(row, endpoints):
                self._runtime.create(
                    self._state.container_dir(row.id),
                    self._bundle(row, spec),
                    self._state.log_path(row.id),
                    exits,
                    terminal=row.settings.terminal,
                    stdin=row.settings.stdin,
                )
            self._wiring().publish(row, endpoints)
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

    @contextmanager
    def paused(self, row: ContainerRow) -> Iterator[None]:
        """Keeps a container still for the block, if it runs and this host can. One that was paused stays so."""
        with self._runtime.paused(row.id) as still:
            if not still:
                _log.warning("not-paused", container=row.shown, hint="what it changes meanwhile may fail the commit")
            yield

    def resume_left(self) -> None:
        """Lets containers run on that a killed process left paused in its middle."""
        for container_id in self._runtime.resume_left():
            _log.info("resumed", container=container_id)

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
        if self.state_of(row).running:
            if not force:
                raise ConflictError(f"container {row.shown} is running", hint="stop it first, or use --force")
            self.stop(row)
        self.take_down(row)
        # Row first, bytes after: what is left without a row is swept, a row without bytes would be a lie.
        self._state.containers.drop(row.id)
        self._state.snapshots.remove(row.id)
        self._mounts.drop_orphans(name for name, _ in row.settings.anonymous)

    def update(self, row: ContainerRow, container: Container, form: Form) -> None:
        """Changes in place what needs no new container (``Capabilities.in_place``) and stores the new form."""
        config = self._state.config(self._image(row))
        settings = replace(
            row.settings,
            restart=container.restart.policy,
            stop_signal=_stop_signal(container, config),
            stop_grace_period=container.stop_grace_period,
            labels=dict(container.labels),
        )
        self._state.containers.update(row.id, form=dump(form), settings=settings.to_json())

    def take_down(self, row: ContainerRow) -> None:
        """Takes away task, network and mount, each a no-op when it is not there. All are tried before one raises."""
        networks = self._wiring().networks_of(row.id)
        with ExitStack() as parts:
            parts.callback(self._names.refresh, networks)
            parts.callback(self._unmount, row.id)
            parts.callback(self._wiring().disconnect, row.id)
            self._runtime.delete(row.id)

    def discard(self, container_id: str) -> None:
        """Takes away whatever there is of a container that has no row, or has one no more."""
        with ExitStack() as parts:
            parts.callback(self._state.snapshots.remove, container_id)
            parts.callback(self._unmount, container_id)
            parts.callback(self._wiring().disconnect, container_id)
            self._runtime.delete(container_id)

    def tidy(self) -> None:
        """Takes away what tasks share, when none is left: the parent control group and the runtime directory."""
        if self._runtime.ids():
            return
        for directory in ("netns", "rootfs"):
            with suppress(HostError):
                durable.remove_directory(self._state.run / directory, point="container.tidy")
        self._runtime.release(self.cgroup)
        forget_place(self._state.identity)

    # Parts

    def _finish(self, row: ContainerRow, found: TaskState) -> None:
        self._record_end(row, found)
        self.take_down(row)

    def _record_end(self, row: ContainerRow, found: TaskState) -> None:
        self._state.containers.update(
            row.id,
            finished_at=self.ended_at(row),
            exit_code=found.exit_code,
            oom=found.oom,
        )

    def _mount(self, row: ContainerRow, spec: StartSpec) -> None:
        """Mounts the root filesystem and fills fresh volumes from it."""
        rootfs = self._state.rootfs(row.id)
        durable.make_directories(rootfs, point="container.rootfs")
        self._state.snapshots.mount(row.id, rootfs)
        self._mounts.fill(spec, rootfs)

    def _bundle(self, row: ContainerRow, spec: StartSpec) -> BundleSpec:
        state = self._state
        return spec.bundle(row.id, state.rootfs(row.id), state.netns(row.id), f"{self.cgroup}/{row.id}")

    def _image(self, row: ContainerRow) -> ImageRecord:
        record = self._state.images.get(row.image)
        if record is None:
            raise NotFoundError(f"the image {row.image.short} of container {row.shown} is gone", hint="pull it again")
        return record

    def _unmount(self, container_id: str) -> None:
        rootfs = self._state.rootfs(container_id)
        self._state.snapshots.unmount(rootfs)
        durable.remove_directory(rootfs, point="container.rootfs")


def _stop_signal(container: Container, image: ImageConfig) -> str:
    """The signal that stops it, looked at before there is anything to stop. Raises ``InvalidError``."""
    name = container.stop_signal or image.stop_signal or "SIGTERM"
    try:
        signal_number(name)
    except InvalidError:
        raise InvalidError(
            f"unknown stop signal {name[:40]!a}", hint="write `stop_signal:` with a name such as SIGTERM"
        ) from None
    return name
