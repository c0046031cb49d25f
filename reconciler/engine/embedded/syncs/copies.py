"""Carrying out a sync: tags recorded, copied and taken away, and what a look found kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from reconciler.engine.embedded.state import State
from reconciler.engine.embedded.syncs.repositories import narrowed_key
from reconciler.engine.port import Outcome, Progress, ProgressEvent
from reconciler.errors import ConflictError, ReconcilerError, RegistryError
from reconciler.model.action import CopyReferrers, CopyTag, DropSync, PruneTag, SetSync
from reconciler.model.address import Address
from reconciler.model.facts import Unknown
from reconciler.model.observed import Interest, Observed, ObservedSync, SyncView
from reconciler.oci.companion import companion_of
from reconciler.oci.digest import Digest
from reconciler.oci.reference import Reference

if TYPE_CHECKING:
    from reconciler.registry.client import RegistryClient
    from reconciler.registry.copier import Copier

SyncAction = SetSync | DropSync | CopyTag | CopyReferrers | PruneTag


class SyncPerformer:
    """Carries out the actions of syncs. ``copier`` gives what copies during this turn, ``client`` the registries."""

    def __init__(self, state: State, client: Callable[[], RegistryClient], copier: Callable[[], Copier]) -> None:
        self._state = state
        self._client = client
        self._copier = copier

    def perform(self, action: SyncAction, progress: Progress) -> Outcome:
        """See ``Engine.perform``. What fails is noted, so that a daemon asks again sooner than the interval says."""
        match action:
            case SetSync():
                before = self._state.syncs.all().get(action.address)
                self._state.syncs.set(action.address, action.form, action.stack)
                return Outcome(before is None or (before.form, before.stack) != (action.form, action.stack))
            case DropSync():
                return Outcome(self._state.syncs.drop(action.address))
            case CopyTag() | CopyReferrers() | PruneTag():
                try:
                    match action:
                        case CopyTag():
                            return self._copy(action, progress)
                        case CopyReferrers():
                            return self._attach(action, progress)
                        case PruneTag():
                            return self._prune(action)
                except ReconcilerError as error:
                    interval = action.sync.interval
                    self._state.syncs.failed(action.address, time.time(), interval, f"{action.tag}: {error}")
                    raise

    def _copy(self, action: CopyTag, progress: Progress) -> Outcome:
        sync = action.sync
        target = Reference.parse(f"{sync.target}:{action.tag}")
        if self._client().tag_digest(target) == action.wanted:
            return Outcome(False, action.wanted)
        copied = self._copier().tag(
            Reference.parse(sync.source).with_digest(action.source),
            target,
            wanted=action.wanted,
            platforms=() if companion_of(action.tag) is not None else sync.platforms,
            referrers=sync.referrers and companion_of(action.tag) is None,
            progress=_counted(action, target, progress),
        )
        return Outcome(True, action.wanted, bytes_pulled=copied, bytes_pushed=copied)

    def _attach(self, action: CopyReferrers, progress: Progress) -> Outcome:
        sync = action.sync
        target = Reference.parse(f"{sync.target}:{action.tag}")
        copied = self._copier().referrers(
            Reference.parse(sync.source).with_digest(action.source),
            target,
            platforms=sync.platforms,
            progress=_counted(action, target, progress),
        )
        return Outcome(True, action.wanted, bytes_pulled=copied, bytes_pushed=copied)

    def _prune(self, action: PruneTag) -> Outcome:
        target = Reference.parse(f"{action.sync.target}:{action.tag}")
        found = self._client().tag_digest(target)
        if found is None:
            return Outcome(changed=False)
        if found != action.digest:
            raise ConflictError(
                f"{target.familiar} moved to {found.short} while this was planned", hint="plan again and look at it"
            )
        deleted = self._client().delete_manifest(target.with_digest(action.digest))
        if not deleted and self._client().tag_digest(target) == action.digest:
            raise RegistryError(
                f"{target.registry}: says that there is no {action.digest.short}, and has {target.familiar} for it",
                hint="see whether it allows deletions, or take `prune` out of the sync",
            )
        return Outcome(deleted)


def _counted(action: CopyTag | CopyReferrers, target: Reference, progress: Progress) -> Callable[[int], None]:
    """What tells ``progress`` how many bytes went so far."""
    sent = 0

    def count(more: int) -> None:
        nonlocal sent
        sent += more
        progress(ProgressEvent(action.address, target.familiar, "uploading", sent))

    return count


def note(state: State, interest: Interest, observed: Observed, pending: Collection[Address]) -> None:
    """See ``Engine.note``."""
    for address, sync in interest.syncs.items():
        found = observed.resources.get(address)
        if not isinstance(found, ObservedSync) or found.view is None:
            continue
        view = found.view
        if isinstance(view, SyncView):
            state.tag_ledger.note(sync.source, view.seen, observed.now)
            if sync.platforms:
                narrowed: dict[Digest, Digest] = {
                    item.source: item.wanted for tag, item in view.chosen.items() if companion_of(tag) is None
                }
                state.syncs.keep_narrowed(address, narrowed_key(sync), narrowed)
            state.syncs.keep_parts(address, view.parts)
            wait = 0.0 if address in pending else sync.interval
            state.syncs.looked(address, observed.now, wait, len(view.chosen))
        failure = _failure(view)
        if failure:
            state.syncs.failed(address, observed.now, sync.interval, failure)


def _failure(view: SyncView | Unknown) -> str:
    """What went wrong with a look; empty when nothing did."""
    if isinstance(view, Unknown):
        return view.reason
    failed = sorted({**view.failed, **view.unclear}.items())
    return next((f"{what}: {why.reason}" for what, why in failed), "")
