"""Syncs of the reference engine: between repositories of the registry in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from reconciler.clock import Clock
from reconciler.engine.memory_registry import MemoryRegistry
from reconciler.engine.port import Outcome
from reconciler.engine.sync_view import look
from reconciler.errors import ConflictError, NotFoundError, RegistryError
from reconciler.model.action import CopyReferrers, CopyTag, DropSync, PruneTag, SetSync
from reconciler.model.address import Address
from reconciler.model.canonical import form
from reconciler.model.facts import Known, RemoteTag, Unknown
from reconciler.model.observed import Interest, Observed, ObservedSync, SyncTag, SyncView
from reconciler.model.resources import Sync
from reconciler.oci.companion import MOST_DEEP, companion_of
from reconciler.oci.digest import Digest
from reconciler.oci.reference import Reference

RETRY = 60.0


class MemorySyncs:
    """The syncs that a root in memory has recorded, and the copies that they make."""

    def __init__(self, registry: MemoryRegistry, clock: Clock) -> None:
        self._registry = registry
        self._clock = clock
        self._recorded: dict[Address, ObservedSync] = {}
        self._seen: dict[tuple[str, str, Digest], float] = {}

    def observed(self, interest: Interest) -> Iterator[tuple[Address, ObservedSync]]:
        """The syncs recorded or asked about; the registries of those asked about are asked."""
        for address in sorted(self._recorded.keys() | interest.syncs.keys()):
            known = self._recorded.get(address, ObservedSync())
            sync = interest.syncs.get(address)
            is_due = known.due_at is None or known.due_at <= self.now() or (sync and known.form != form(sync))
            asked = is_due or not interest.only_due
            yield address, replace(known, view=look(sync, self) if sync is not None and asked else None)

    def note(self, interest: Interest, observed: Observed, pending: Collection[Address]) -> None:
        """See ``Engine.note``."""
        for address, sync in interest.syncs.items():
            found = observed.resources.get(address)
            if not isinstance(found, ObservedSync) or found.view is None:
                continue
            if isinstance(found.view, SyncView):
                self._see(sync.source, found.view.seen)
            failure = found.view if isinstance(found.view, Unknown) else next(iter(found.view.failed.values()), None)
            wait = min(RETRY, sync.interval) if failure else 0.0 if address in pending else sync.interval
            known = self._recorded.get(address, ObservedSync())
            counted = len(found.view.chosen) if isinstance(found.view, SyncView) else known.counted
            self._recorded[address] = replace(
                known,
                checked_at=observed.now,
                due_at=observed.now + wait,
                counted=counted,
                error=failure.reason if failure else "",
            )

    def perform(self, action: SetSync | DropSync | CopyTag | CopyReferrers | PruneTag) -> Outcome:
        match action:
            case SetSync():
                known = self._recorded.get(action.address, ObservedSync())
                self._recorded[action.address] = replace(known, form=action.form, stack=action.stack)
                return Outcome(self._recorded[action.address] != known)
            case DropSync():
                return Outcome(self._recorded.pop(action.address, None) is not None)
            case CopyTag():
                return self._copy(action)
            case CopyReferrers():
                return self._attach(action)
            case PruneTag():
                return self._prune(action)

    def _copy(self, action: CopyTag) -> Outcome:
        source, target = Reference.parse(action.sync.source), Reference.parse(action.sync.target)
        for host in (source.registry, target.registry):
            if host in self._registry.down:
                raise RegistryError(f"{host} does not answer", hint="try again later")
        if action.sync.referrers:
            self._attach(action)
        if action.source not in self._registry.manifests:
            raise NotFoundError(f"{source.name} has no {action.source.short} any more", hint="plan again")
        blobs = self._registry.manifests.setdefault(action.wanted, self._registry.manifests[action.source])
        name = f"{action.sync.target}:{action.tag}"
        changed = self._registry.tags.get(name) != action.wanted
        self._registry.tags[name] = action.wanted
        return Outcome(changed, action.wanted, bytes_pushed=sum(blob.size for blob in blobs) if changed else 0)

    def _attach(self, action: CopyTag | CopyReferrers) -> Outcome:
        registry, sync = self._registry, action.sync
        before = registry.referrers.copy()
        subjects = {
            *registry.indexes.get(action.source, ()),
            *({action.source} if action.source == action.wanted else ()),
        }
        for _ in range(MOST_DEEP):
            found = self.referrers(sync.source, subjects, ())
            for subject, listed in found.items():
                if listed:
                    registry.refer(sync.target, subject, *listed)
            named = {
                digest for tag, digest in registry.repository(sync.source).items() if companion_of(tag) in subjects
            }
            subjects = named.union(*found.values())
        return Outcome(registry.referrers != before, action.wanted)

    def _prune(self, action: PruneTag) -> Outcome:
        repository = action.sync.target
        there = self._registry.repository(repository)
        found = there.get(action.tag)
        if found is None:
            return Outcome(changed=False)
        if found != action.digest:
            raise ConflictError(f"{repository}:{action.tag} was moved to {found.short} meanwhile", hint="plan again")
        for tag in [tag for tag, digest in there.items() if digest == action.digest]:
            del self._registry.tags[f"{repository}:{tag}"]
        return Outcome()

    # What a look at a sync needs: ``sync_view.Repositories``

    def tags(self, repository: str) -> Collection[str]:
        self._require(repository)
        found = self._registry.repository(repository)
        if not found:
            raise NotFoundError(f"there is no repository {repository}", hint="check its name")
        return found

    def digests(self, repository: str, tags: Collection[str]) -> Mapping[str, RemoteTag]:
        found = self._registry.repository(repository)
        return {tag: Known(found[tag]) for tag in tags if tag in found}

    def wanted(self, sync: Sync, digests: Collection[Digest]) -> Mapping[Digest, RemoteTag]:
        narrowed = {
            digest: Digest.of(f"{digest} {sorted(map(str, sync.platforms))}".encode())
            for digest in digests
            if digest in self._registry.indexes
        }
        return {digest: Known(narrowed.get(digest, digest)) for digest in digests}

    def nested(self, _sync: Sync, digests: Collection[Digest]) -> frozenset[Digest]:
        return frozenset(part for digest in digests for part in self._registry.indexes.get(digest, ()))

    def keeps_referrers(self, _repository: str, _digest: Digest) -> bool:
        return True

    def referrers(
        self, repository: str, subjects: Collection[Digest], _tags: Collection[str]
    ) -> Mapping[Digest, frozenset[Digest]]:
        return {subject: self._registry.referrers.get((repository, subject), frozenset()) for subject in subjects}

    def parts(self, _sync: Sync, items: Collection[SyncTag]) -> Mapping[Digest, Collection[Digest]]:
        return {item.wanted: self._registry.indexes.get(item.source, ()) for item in items}

    def looked_into(self) -> Mapping[Digest, tuple[Digest, ...]]:
        return {}

    def present(self, _repository: str, digests: Collection[Digest]) -> frozenset[Digest]:
        return frozenset(digests)

    def size(self, _sync: Sync, digests: Collection[Digest]) -> tuple[int | None, str]:
        blobs = {blob.digest: blob.size for digest in digests for blob in self._registry.manifests.get(digest, ())}
        return sum(blobs.values()), ""

    def first_seen(self, repository: str, digests: Mapping[str, Digest]) -> Mapping[str, float]:
        found = {tag: self._seen.get((repository, tag, digest)) for tag, digest in digests.items()}
        return {tag: moment for tag, moment in found.items() if moment is not None}

    def _see(self, repository: str, digests: Mapping[str, Digest]) -> None:
        for tag, digest in digests.items():
            self._seen.setdefault((repository, tag, digest), self.now())

    def now(self) -> float:
        return self._clock.now().timestamp()

    def _require(self, repository: str) -> None:
        host = Reference.parse(repository).registry
        if host in self._registry.down:
            raise RegistryError(f"{host} does not answer", hint="try again later")
