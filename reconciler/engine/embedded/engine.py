"""The engine port on one root of this host."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.engine.embedded.host import read_host_settings
from reconciler.engine.embedded.machinery import Machinery
from reconciler.engine.embedded.registries import Surroundings
from reconciler.engine.embedded.state import State, WriterState, open_reader, open_writer, was_cut_off
from reconciler.errors import HostError, LockedError
from reconciler.linux import durable
from reconciler.linux.discards import Discards
from reconciler.linux.lock import DirectoryLock
from reconciler.log import Logger
from reconciler.model.address import Address
from reconciler.model.capabilities import Capabilities
from reconciler.oci.digest import Digest
from reconciler.store.identity import forget_place, note_place, prepare_root

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from reconciler.engine.embedded.images.track import Sightings
    from reconciler.engine.embedded.syncs.copies import SyncPerformer
    from reconciler.engine.port import Event, Generation, HostFacts, Outcome, Progress
    from reconciler.model.action import Action
    from reconciler.model.desired import HostMirrors, Resolution
    from reconciler.model.facts import RemoteTag, Unknown
    from reconciler.model.observed import Interest, Observed, SyncView
    from reconciler.model.resources import Pull, Sync
    from reconciler.registry.client import RegistryClient
    from reconciler.registry.copier import Copier
    from reconciler.registry.health import Health

_log = Logger("engine")
_FOREVER = 10 * 365 * 86400.0
# Blobs in flight at once. Registries limit connections of one client, and two cores inflate no more than this.
_TRANSFERS = 6
# Requests that a registry counts and syncs leave to pulls, which somebody waits for.
_SYNC_FLOOR = 20
_IN_PLACE = frozenset({"restart", "stop_signal", "stop_grace_period", "labels"})


class EmbeddedEngine:
    """One root. Outside a turn it reads; the first turn opens the root for writing, making it if it is new.

    Threads may share it; only one at a time may hold the turn.
    """

    def __init__(self, root: Path, surroundings: Surroundings | None = None) -> None:
        self.root = root
        self._surroundings = surroundings or Surroundings()
        self._fetched: dict[Digest, bytes] = {}
        self._consists: dict[Digest, tuple[Digest, ...]] = {}
        self._transfers: Executor | None = None
        self._lock = threading.RLock()
        self._reader: Machinery | None = None
        self._writer: Machinery | None = None
        self._writer_state: WriterState | None = None
        self._clients: dict[tuple[HostFacts, int], RegistryClient] = {}
        self._facts: HostFacts | None = None
        self._copier: Copier | None = None
        self._sightings: Sightings = {}
        self._picks: dict[Address, str] = {}
        self._health: Health | None = None
        self._turn = False

    def __enter__(self) -> EmbeddedEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes connections and files. Containers are left as they are."""
        if self._transfers is not None:
            self._transfers.shutdown(wait=True)
        for client in self._clients.values():
            client.close()
        self._clients.clear()
        for machinery in (self._reader, self._writer):
            if machinery is not None:
                machinery.close()
        self._reader = self._writer = None

    # The port

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(in_place=_IN_PLACE)

    def seal(self, value: bytes) -> str:
        # A root that does not exist yet has no key, and nothing sealed to compare with: the first turn seals again.
        identity = self.view().state.identity
        return identity.seal(value) if identity.exists else ""

    def host_mirrors(self) -> HostMirrors:
        from reconciler.engine.embedded.host_mirrors import host_mirrors

        return host_mirrors(self.view().host.places)

    def resolve(self, pulls: Mapping[Address, Pull], hosts: HostFacts) -> Mapping[Address, Resolution]:
        if not pulls:
            return {}
        from reconciler.engine.embedded.images.resolve import resolve_all
        from reconciler.model.desired import Pin

        view = self.view()
        found = resolve_all(pulls, view.state, partial(self.client, hosts), view.manifests, self._sightings)
        self._picks |= {address: pin.why if isinstance(pin, Pin) else "" for address, pin in found.items()}
        return found

    def observe(self, interest: Interest, hosts: HostFacts | None = None) -> Observed:
        from reconciler.engine.embedded.images.tags import remote_tags

        view = self.view()
        self._facts = hosts

        def ask(tags: frozenset[Address]) -> Mapping[Address, RemoteTag]:
            return remote_tags(self.client(hosts), tags) if tags else {}

        def look(sync: Sync) -> SyncView | Unknown:
            from reconciler.engine.embedded.syncs.repositories import SyncRepositories
            from reconciler.engine.sync_view import look as look_at

            client = self.client(hosts, quota_floor=_SYNC_FLOOR)
            address, measure = Address("sync", sync.target), not interest.only_due
            asked = SyncRepositories(view.state, client, self._fetched, self._consists, address, measure=measure)
            return look_at(sync, asked)

        return view.observer.observe(interest, ask, look, may_set_sysctls=view.host.may_set_sysctls)

    def note(self, interest: Interest, observed: Observed, pending: Collection[Address]) -> None:
        state = self.writer().state
        if self._picks:
            from reconciler.engine.embedded.images import track

            track.note(state, self._sightings, self._picks, observed.now)
            self._sightings.clear()
            self._picks.clear()
        if interest.syncs:
            from reconciler.engine.embedded.syncs.copies import note

            note(state, interest, observed, pending)

    def perform(self, action: Action, progress: Progress) -> Outcome:
        from reconciler.engine.embedded.perform import Performer

        try:
            performer = Performer(self.writer(), partial(self.client, self._facts), self._syncs)
            return performer.perform(action, progress)
        except OSError as error:
            # What goes to disk with care raises our own errors; this is the rest, such as a full disk under /run.
            name = error.filename if isinstance(error.filename, (str, bytes)) else str(self.root)
            raise durable.host_error(
                error, f"{action.verb} {action.address}: system call on", Path(os.fsdecode(name))
            ) from error

    @contextmanager
    def turn(self, timeout: float | None) -> Iterator[None]:
        with ExitStack() as after, self._locked(timeout):
            after.callback(self._empty_discards)
            yield

    @contextmanager
    def _locked(self, timeout: float | None) -> Iterator[None]:
        prepare_root(self.root)
        with DirectoryLock(self.root).acquire(_FOREVER if timeout is None else timeout):
            cut_off = was_cut_off(self.root)
            if cut_off:
                # What a killed process left is seen, and will be built upon, but need not be on disk yet.
                durable.sync_filesystem(self.root, point="recovery")
            writer, state = self._open_writer()
            note_place(state.identity)
            state.clock.look()
            self._turn = True
            try:
                if cut_off or not state.is_bare():
                    writer.recovery.run(cut_off=cut_off)
                yield
            finally:
                self._turn = False
                self._copier = None
                self._consists.clear()
                self._fetched.clear()  # what was pulled is in the store now, and a daemon's turns have no end
                try:
                    self._keep_health(state)
                    if state.is_bare():
                        forget_place(state.identity)
                    else:
                        writer.containers.tidy()
                finally:
                    state.close_pass()

    def _empty_discards(self) -> None:
        """Deletes what the turn took away, while others may have theirs. What cannot be deleted stays for the next."""
        try:
            Discards(self.root).empty()
        except HostError as error:
            _log.warning("not-deleted", error=str(error), hint=error.hint)

    def record(self, generation: Generation) -> int:
        return self.writer().state.generations.add(generation, time.time())

    def generations(self) -> Sequence[Generation]:
        return self.view().state.generations.all()

    def wait(self, timeout: float) -> Sequence[Event]:
        from reconciler.engine.embedded.waiting import wait_for_exit

        view = self.view()
        return wait_for_exit(view.state, view.containers, timeout)

    # For the commands that are not plans

    def keep_health(self, timeout: float | None) -> None:
        """After a look without a pass: keeps how mirrors did, if that is news, unless somebody else holds the turn."""
        if self._health is not None and self._health.has_news and self.view().state.identity.exists:
            with contextlib.suppress(LockedError), self.turn(timeout):
                pass

    def stacks(self) -> frozenset[str]:
        """Every stack that this root holds something of."""
        state = self.view().state
        addresses = [*state.networks.all(), *state.entries.all()]
        addresses += [Address.parse(row.owner) for row in state.volumes.all().values() if row.owner]
        addresses += [row.address for row in state.containers.all() if row.address is not None]
        found = {address.stack for address in addresses} | {row.stack for row in state.tags.all().values()}
        found |= {row.stack for row in state.syncs.all().values()}
        return frozenset(found.union(*(fact.stacks for fact in state.facts.all().values()))) - {""}

    @property
    def run_directory(self) -> Path:
        """The root's directory under /run."""
        return self.view().state.run

    def view(self) -> Machinery:
        """Everything, to read from: the writer's own within a turn or after one, else a fresh reader's."""
        if self._writer is not None:
            return self._writer
        with self._lock:
            if self._reader is None:
                self._reader = self._machinery(open_reader(self.root))
            return self._reader

    def writer(self) -> Machinery:
        """Everything, to write to. Needs the turn."""
        if self._writer is None or not self._turn:
            raise RuntimeError("writing needs the turn")
        return self._writer

    def tell(self, note: str) -> None:
        """Says to the user what did not go as it should."""
        self._surroundings.note(note)

    def client(self, hosts: HostFacts | None = None, *, quota_floor: int = 0) -> RegistryClient:
        """A registry client that goes by ``hosts``, and by what was recorded for hosts not in there.

        With ``quota_floor`` it leaves that many of the requests that a server counts to others.
        """
        from reconciler.engine.embedded.registries import make_client, merged, recorded_facts
        from reconciler.engine.port import HostFacts

        with self._lock:
            facts = merged(hosts or HostFacts(), recorded_facts(self.view().state.facts.all()))
            key = (facts, quota_floor)
            if key not in self._clients:
                self._clients[key] = make_client(
                    facts,
                    self._surroundings,
                    quota_floor=quota_floor,
                    health=self._known_health(),
                    manifest_limit=self.view().host.limits.manifest_bytes,
                )
            return self._clients[key]

    def _known_health(self) -> Health:
        """What is known of servers: at first what others saw of mirrors."""
        from reconciler.clock import SystemClock
        from reconciler.registry.health import Health

        if self._health is None:
            self._health = Health(SystemClock(), self.view().state.mirror_health.all().values())
        return self._health

    def _keep_health(self, state: State) -> None:
        if self._health is not None and self._health.has_news:
            from reconciler.engine.embedded.mirror_health import keep

            keep(self._health.news(), state)

    def _syncs(self) -> SyncPerformer:
        from reconciler.engine.embedded.syncs.copies import SyncPerformer

        client = self.client(self._facts, quota_floor=_SYNC_FLOOR)

        def copier() -> Copier:
            from reconciler.registry.copier import Copier

            with self._lock:
                if self._copier is None:
                    self._copier = Copier(client, self._pool(), self._fetched)
                return self._copier

        return SyncPerformer(self.writer().state, lambda: client, copier)

    def _open_writer(self) -> tuple[Machinery, WriterState]:
        with self._lock:
            if self._writer is None:
                # SQLite shares the log's index within a process: a reader's, which is read-only, would fail the writer.
                if self._reader is not None:
                    self._reader.close()
                    self._reader = None
                self._writer_state = open_writer(self.root)
                self._writer = self._machinery(self._writer_state)
            assert self._writer_state is not None
            return self._writer, self._writer_state

    def _machinery(self, state: State) -> Machinery:
        return Machinery(state, read_host_settings(self.root), self._fetched, self._pool)

    def _pool(self) -> Executor:
        from concurrent.futures import ThreadPoolExecutor

        with self._lock:
            if self._transfers is None:
                self._transfers = ThreadPoolExecutor(_TRANSFERS, thread_name_prefix="transfer")
            return self._transfers
