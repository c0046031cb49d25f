"""The reference engine: a root in memory, with a registry in memory. What an engine must do, without a machine.

It keeps the promises of the port (idempotent actions, refusals, what an observation tells), so that laws about plans
can be tested on it by the thousand. Nothing happens by itself but what the controls at the end of the class do.
"""

# ruff: noqa: ARG002 - the port has arguments that a root in memory does not need.
from __future__ import annotations

import hashlib
import hmac
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

from reconciler.clock import Clock, ManualClock
from reconciler.engine.memory_containers import MemoryContainers, commit_key, fingerprint, is_job, share_a_port
from reconciler.engine.memory_kept import Kept, drop, put, stacks_of
from reconciler.engine.memory_registry import MemoryRegistry
from reconciler.engine.memory_syncs import MemorySyncs
from reconciler.engine.memory_tracking import MemoryRepository, Sightings
from reconciler.engine.port import Event, Generation, HostFacts, Outcome, Progress
from reconciler.engine.tag_pick import resolve_tracked
from reconciler.errors import ConflictError, LockedError, NotFoundError, RegistryError
from reconciler.model import action as act
from reconciler.model.address import Address
from reconciler.model.canonical import form_digest
from reconciler.model.capabilities import Capabilities
from reconciler.model.desired import HostMirrors, Pin, Resolution
from reconciler.model.facts import Absent, Known, Unknown
from reconciler.model.observed import (
    Drift,
    Interest,
    Observed,
    ObservedContainer,
    ObservedFact,
    ObservedImage,
    ObservedNetwork,
    ObservedResource,
    ObservedSync,
    ObservedTag,
    ObservedVolume,
)
from reconciler.model.resources import Pull
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.media import OCI_LAYER_GZIP
from reconciler.oci.reference import Reference


class MemoryEngine:
    """An ``Engine``. ``fault`` is called before and after each action, and fails it by raising a ``ReconcilerError``:
    before it has done anything, or after it has done everything but say so."""

    def __init__(
        self,
        registry: MemoryRegistry | None = None,
        clock: Clock | None = None,
        capabilities: Capabilities | None = None,
        root_id: str = "memory",
    ) -> None:
        self.registry = registry if registry is not None else MemoryRegistry()
        self.clock = clock or ManualClock()
        self.root_id = root_id
        self.fault: Callable[[act.Action, Literal["before", "after"]], None] | None = None
        self.forwarding: Literal["on", "off", "leave"] = "off"
        self.external: set[Address] = set()
        self.host_files = HostMirrors()
        self.exit_codes: dict[Address, int] = {}
        self.performed: list[act.Action] = []
        self.volume_data: dict[Address, str] = {}
        self._capabilities = capabilities or Capabilities()
        self._kept = Kept()
        self._containers = MemoryContainers(self.clock)
        self._syncs = MemorySyncs(self.registry, self.clock)
        self._sightings = Sightings(self.clock)
        self._sources: dict[str, frozenset[str]] = {}
        self._generations: list[Generation] = []
        self._lock = threading.RLock()
        self._turn = threading.Lock()

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def seal(self, value: bytes) -> str:
        return hmac.new(self.root_id.encode(), value, hashlib.sha256).hexdigest()

    # Looking

    def host_mirrors(self) -> HostMirrors:
        return self.host_files

    def resolve(self, pulls: Mapping[Address, Pull], hosts: HostFacts) -> Mapping[Address, Resolution]:
        with self._lock:
            self.registry.blocked = self._blocked(hosts)
            found = {address: self._resolve(pull, self._kept.images.get(address)) for address, pull in pulls.items()}
            self._sightings.pick({address: pin.why if isinstance(pin, Pin) else "" for address, pin in found.items()})
            return found

    def _blocked(self, hosts: HostFacts) -> dict[str, str]:
        """Registries that nobody may ask, and the file that says so: as declared now, else as recorded."""
        facts = {address.name: found.form for address, found in self._kept.facts.items() if address.kind == "mirror"}
        found = {name: str(form["from_file"]) for name, form in facts.items() if form.get("blocked")}
        if hosts.files_read:
            found.clear()
        declared = {item.host for item in hosts.mirrors if not item.blocked}
        named = {item.host: item.from_file for item in hosts.mirrors if item.blocked}
        return {name: file for name, file in {**found, **named}.items() if name not in declared}

    def _resolve(self, pull: Pull, image: ObservedImage | None = None) -> Resolution:
        if (selection := pull.picks) is not None:
            repository = MemoryRepository(pull, self.registry, self._sightings, self._resolve, self._kept.pulled, image)
            return resolve_tracked(pull, selection, repository)
        stored = self._stored(pull.reference)
        if stored and pull.policy in ("missing", "never"):
            return Pin(stored, answered_by="store")
        if pull.policy == "never":
            return Absent("not on this host")
        is_blocked = pull.reference.registry in self.registry.blocked
        match self.registry.head(pull.reference):
            case Known(found):
                return Pin(found, blobs=() if found == stored else self.registry.manifests[found])
            case Unknown(reason) if stored and not is_blocked:
                return Pin(stored, answered_by="store", note=f"{reason}; going by what is stored")
            case answer:
                return answer

    def _stored(self, reference: Reference) -> Digest | None:
        found = reference.digest or self._kept.pulled.get(str(reference))
        whole = all(image.complete for image in self._kept.images.values() if image.digest == found)
        return found if found in self._kept.manifests and whole else None

    def observe(self, interest: Interest, hosts: HostFacts | None = None) -> Observed:
        with self._lock:
            from_source = self._sources.get(interest.source, frozenset()) if interest.source else frozenset()
            mine: dict[Address, ObservedResource] = {}
            others: dict[Address, ObservedFact | ObservedTag | ObservedSync | ObservedContainer] = {}
            asked = None if interest.stacks is None else interest.stacks | from_source
            for address, found in self._everything(interest):
                unowned = isinstance(found, ObservedSync) and not found.stack
                if asked is None or unowned or stacks_of(address, found) & asked:
                    mine[address] = found
                elif isinstance(found, (ObservedFact, ObservedTag, ObservedSync, ObservedContainer)):
                    others[address] = found
            for address in interest.remote_tags - mine.keys() - others.keys():
                mine[address] = self._tag(address, interest)
            for address in interest.addresses & self.external:
                known = ObservedNetwork if address.kind == "network" else ObservedVolume
                mine[address] = known({"external": True})
            unnamed = self._containers.leftovers()
            return Observed(
                root_id=self.root_id,
                now=self.clock.now().timestamp(),
                resources=mine,
                leftovers=tuple(i for i in unnamed if asked is None or stacks_of(i.address, i) & asked),
                blobs=interest.blobs & {blob.digest for blobs in self._kept.manifests.values() for blob in blobs},
                source_stacks=from_source,
                other_stacks=others,
                forwarding=self.forwarding,
            )

    def _everything(self, interest: Interest) -> Iterator[tuple[Address, ObservedResource]]:
        kept = self._kept
        yield from kept.facts.items()
        yield from kept.networks.items()
        yield from kept.volumes.items()
        for address, image in kept.images.items():
            yield address, replace(image, picked=self._sightings.picks.get(address, ""))
        for address in kept.tags:
            yield address, self._tag(address, interest)
        yield from self._syncs.observed(interest)
        for found in self._containers.named():
            wanted = found.address in interest.fingerprints and not found.alive
            yield found.address, replace(found, fingerprint=fingerprint(found)) if wanted else found

    def _tag(self, address: Address, interest: Interest) -> ObservedTag:
        known = self._kept.tags.get(address, ObservedTag(local=None))
        if address not in interest.remote_tags:
            return known
        return replace(known, remote=self.registry.head(Reference.parse(address.name)))

    # Writing

    @contextmanager
    def turn(self, timeout: float | None) -> Iterator[None]:
        if not self._turn.acquire(timeout=-1 if timeout is None else timeout):
            raise LockedError(f"another writer holds root {self.root_id}", hint="wait for it to end")
        try:
            yield
        finally:
            self._turn.release()

    def record(self, generation: Generation) -> int:
        with self._lock:
            number = len(self._generations) + 1
            now = self.clock.now().timestamp()
            self._generations.append(replace(generation, number=number, created_at=now))
            if generation.source:
                self._sources = {name: held - generation.stacks for name, held in self._sources.items()}
                self._sources[generation.source] = generation.stacks
            return number

    def note(self, interest: Interest, observed: Observed, pending: Collection[Address]) -> None:
        with self._lock:
            self._syncs.note(interest, observed, pending)
            self._sightings.note()

    def generations(self) -> Sequence[Generation]:
        return tuple(self._generations)

    def perform(self, action: act.Action, progress: Progress) -> Outcome:
        with self._lock:
            if self.fault:
                self.fault(action, "before")
            outcome = self._perform(action)
            self.performed.append(action)
            if self.fault:
                self.fault(action, "after")
            return outcome

    def _perform(self, action: act.Action) -> Outcome:
        match action:
            case act.SetFact():
                return put(self._kept.facts, action.address, ObservedFact(action.form, action.stacks))
            case act.DropFact():
                return self._drop_fact(action)
            case act.EnsureNetwork():
                return self._ensure_network(action)
            case act.RemoveNetwork():
                return self._remove_network(action.address)
            case act.EnsureVolume():
                return self._ensure_volume(action)
            case act.ReleaseVolume():
                return self._release_volume(action)
            case act.PullImage():
                return self._pull(action)
            case act.ImportImage() | act.LoadImage():
                made = Digest.of(form_digest(action.form).encode())
                return self._store(action.address, ObservedImage(action.form, made), ())
            case act.CommitImage():
                return self._commit(action)
            case act.ReleaseImage():
                return drop(self._kept.images, action.address)
            case act.SetTag():
                return self._set_tag(action)
            case act.DropTag():
                return drop(self._kept.tags, action.address)
            case act.PushTag():
                return self._push(action)
            case act.SetSync() | act.DropSync() | act.CopyTag() | act.CopyReferrers() | act.PruneTag():
                return self._syncs.perform(action)
            case act.CreateContainer():
                return self._create(action)
            case act.StartContainer():
                return self._start(action)
            case act.StopContainer():
                return self._containers.stop(action.container_id)
            case act.RemoveContainer():
                return self._containers.remove(action.container_id)
            case act.UpdateContainer():
                return self._containers.update(action.container_id, action.address, action.form)

    def _drop_fact(self, action: act.DropFact) -> Outcome:
        found = self._kept.facts.get(action.address)
        if found and action.remaining:
            return put(self._kept.facts, action.address, replace(found, stacks=action.remaining))
        return drop(self._kept.facts, action.address)

    def _ensure_network(self, action: act.EnsureNetwork) -> Outcome:
        found = self._kept.networks.get(action.address)
        if found and found.form.get("subnet") != action.form.get("subnet"):
            raise ConflictError(f"{action.address} exists with another subnet", hint="remove it first")
        turned_on, self.forwarding = self.forwarding != "on", "on"
        return Outcome(put(self._kept.networks, action.address, ObservedNetwork(action.form)).changed or turned_on)

    def _remove_network(self, address: Address) -> Outcome:
        for found in self._containers.alive():
            if str(address) in found.form.get("networks", ()):
                raise ConflictError(f"{address} is used by {found.address}", hint="stop that container first")
        return drop(self._kept.networks, address)

    def _ensure_volume(self, action: act.EnsureVolume) -> Outcome:
        self.volume_data.setdefault(action.address, f"data of {action.address}")
        return put(self._kept.volumes, action.address, ObservedVolume(action.form))

    def _release_volume(self, action: act.ReleaseVolume) -> Outcome:
        if action.delete_data:
            self.volume_data.pop(action.address, None)
        return drop(self._kept.volumes, action.address)

    def _pull(self, action: act.PullImage) -> Outcome:
        kept, pin, host = self._kept, action.pin, action.pull.reference.registry
        blobs = kept.manifests.get(pin.digest)
        fetched = 0
        if blobs is None or self._stored(action.pull.reference) != pin.digest:
            if host in self.registry.down:
                raise RegistryError(f"{host} does not answer", hint="try again later")
            if pin.digest not in self.registry.manifests:
                raise NotFoundError(f"{host} has no {pin.digest.short}", hint="plan again")
            here = {blob.digest for known in kept.manifests.values() for blob in known}
            blobs = self.registry.manifests[pin.digest]
            fetched = sum({blob.digest: blob.size for blob in blobs if blob.digest not in here}.values())
        kept.pulled[str(action.pull.reference)] = pin.digest
        outcome = self._store(action.address, ObservedImage(action.form, pin.digest, index=pin.index), blobs)
        return replace(outcome, bytes_pulled=fetched)

    def _commit(self, action: act.CommitImage) -> Outcome:
        found = self._containers.at(action.commit.container)
        if action.key is None or not found.succeeded or action.key != commit_key(found):
            raise ConflictError(f"{found.address} is not what was to be committed", hint="plan again")
        made = Digest.of(f"{found.image} {fingerprint(found)} {form_digest(action.form)}".encode())
        layer = Descriptor(OCI_LAYER_GZIP, Digest.of(fingerprint(found).encode()), 100)
        blobs = (*self._kept.manifests.get(found.image, ()), layer)
        return self._store(action.address, ObservedImage(action.form, made, commit=action.key), blobs)

    def _store(self, address: Address, image: ObservedImage, blobs: tuple[Descriptor, ...]) -> Outcome:
        self._kept.manifests[image.digest] = blobs
        for other, found in self._kept.images.items():
            if found.digest == image.digest:
                self._kept.images[other] = replace(found, complete=True)
        return replace(put(self._kept.images, address, image), digest=image.digest)

    def _set_tag(self, action: act.SetTag) -> Outcome:
        self._require_image(action.digest, action.address)
        known = self._kept.tags.get(action.address, ObservedTag(local=None))
        changed = replace(known, local=action.digest, stack=action.stack, form=action.form)
        return put(self._kept.tags, action.address, changed)

    def _push(self, action: act.PushTag) -> Outcome:
        digest = self._require_image(action.digest, action.address)
        reference = action.tag.reference
        match self.registry.head(reference):
            case Unknown(reason):
                raise RegistryError(reason, hint="try again later")
            case Known(there) if there != digest and there != action.expected:
                raise ConflictError(f"{reference} was moved to {there.short} meanwhile", hint="plan again")
            case Absent() if action.expected is not None:
                raise ConflictError(f"{reference} was deleted meanwhile", hint="plan again")
        known = self._kept.tags.get(action.address, ObservedTag(local=digest))
        count = known.repaired if known.pushed == digest else 0
        self._kept.tags[action.address] = replace(known, pushed=digest, repaired=count + action.repair)
        self.registry.manifests[digest] = self._kept.manifests[digest]
        changed = self.registry.tags.get(str(reference)) != digest
        self.registry.tags[str(reference)] = digest
        return Outcome(changed)

    def _require_image(self, digest: Digest | None, address: Address) -> Digest:
        if digest is None or digest not in self._kept.manifests:
            raise NotFoundError(f"the image of {address} is not on this host", hint="plan again")
        return digest

    def _create(self, action: act.CreateContainer) -> Outcome:
        self._require_image(action.image, action.address)
        return self._containers.create(action)

    def _start(self, action: act.StartContainer) -> Outcome:
        id_ = action.container_id or self._containers.at(action.address).id
        found = self._containers.get(id_, action.address)
        for name in found.form.get("networks", ()):
            network = Address.parse(name)
            if network not in self._kept.networks and network not in self.external:
                raise NotFoundError(f"{found.address} needs {name}, which is not there", hint="plan again")
        for other in self._containers.alive():
            if other.id != found.id and share_a_port(found.form, other.form):
                raise ConflictError(f"{found.address} publishes a port of {other.address}", hint="stop that one first")
        return self._containers.start(action)

    # Waiting, and what happens by itself

    def wait(self, timeout: float) -> Sequence[Event]:
        """Ends every job that runs, with its code in ``exit_codes`` or 0. Never blocks: nothing else could happen."""
        with self._lock:
            for found in list(self._containers.named()):
                if found.status == "running" and is_job(found.form):
                    self._containers.end(found.address, self.exit_codes.get(found.address, 0))
            events, self._containers.events = tuple(self._containers.events), []
            return events

    @property
    def containers(self) -> MemoryContainers:
        """For tests: to end, pause or remove containers behind the reconciler's back."""
        return self._containers

    def tag_by_hand(self, address: Address, digest: Digest) -> None:
        """A local tag that belongs to no stack, as ``image tag`` makes it."""
        self._kept.tags[address] = ObservedTag(local=digest)

    def lose_image(self, address: Address) -> None:
        """A blob of the image disappears from the disk."""
        self._kept.images[address] = replace(self._kept.images[address], complete=False)

    def drift_network(self, address: Address, *drifts: Drift) -> None:
        self._kept.networks[address] = replace(self._kept.networks[address], drift=drifts)
