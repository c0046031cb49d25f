"""What every engine does alike to look at a sync: which tags it means, and what both registries have under them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Protocol

from reconciler.engine.sync_referrers import Attached, Relations
from reconciler.errors import NotFoundError, ReconcilerError
from reconciler.model.facts import Absent, Known, RemoteTag, Unknown
from reconciler.model.observed import SyncTag, SyncView
from reconciler.model.resources import Sync
from reconciler.model.selection import TagSelection, select
from reconciler.oci.companion import companion_of
from reconciler.oci.digest import Digest


class Repositories(Relations, Protocol):
    """The registries, as far as a look at a sync needs them. Repositories are ``registry/repository``."""

    def tags(self, repository: str) -> Collection[str]:
        """Its tags. Raises ``NotFoundError`` when there is no such repository, ``ReconcilerError`` when unknown."""

    def wanted(self, sync: Sync, digests: Collection[Digest]) -> Mapping[Digest, RemoteTag]:
        """What the target is to have of each of ``digests``: another where an index is narrowed."""

    def nested(self, sync: Sync, digests: Collection[Digest]) -> frozenset[Digest]:
        """The manifests that the indexes among ``digests``, at the target or the source, consist of. May raise."""

    def size(self, sync: Sync, digests: Collection[Digest]) -> tuple[int | None, str]:
        """At most how many bytes of blobs the target lacks of them, None when that would cost too much to find out;
        and a clause to tell when it may be fewer."""

    def looked_into(self) -> Mapping[Digest, tuple[Digest, ...]]:
        """What each manifest that was read, or known from before, consists of: nothing for what is no index."""

    def first_seen(self, repository: str, digests: Mapping[str, Digest]) -> Mapping[str, float]:
        """When each tag was first seen with this digest, in seconds since the epoch, where it was seen before."""

    def now(self) -> float:
        """The time by the clock of ``first_seen``."""


def look(sync: Sync, repositories: Repositories) -> SyncView | Unknown:
    """What there is to copy and to take away. When nothing changed, it costs a list and a HEAD per tag on each side,
    and a list of referrers per image where the source's registry keeps such lists."""
    try:
        listed = frozenset(repositories.tags(sync.source))
    except ReconcilerError as error:
        return Unknown(error.reason, error.hint)
    try:
        at_target = frozenset(repositories.tags(sync.target))
    except NotFoundError:
        at_target = frozenset()
    except ReconcilerError as error:
        return Unknown(error.reason, error.hint)
    return _Look(sync, repositories).view(listed, at_target)


class _Look:
    def __init__(self, sync: Sync, repositories: Repositories) -> None:
        self._sync = sync
        self._repositories = repositories
        self._failed: dict[str, Unknown] = {}
        self._unclear: dict[str, Unknown] = {}
        self._notes: list[str] = []
        self._seen: dict[str, Digest] = {}
        self._young: frozenset[str] = frozenset()

    def view(self, listed: frozenset[str], at_target: frozenset[str]) -> SyncView:
        source = self._chosen(frozenset(tag for tag in listed if companion_of(tag) is None))
        chosen = self._wanted(source)
        attached = self._attached(chosen, listed, at_target)
        chosen |= {tag: SyncTag(digest, digest) for tag, digest in self._known(attached.tags).items()}
        asked = at_target if self._sync.prune is not None else at_target & chosen.keys()
        target: dict[str, RemoteTag] = {tag: Absent() for tag in chosen.keys() - at_target}
        target |= self._repositories.digests(self._sync.target, asked)
        missing = {item.source for tag, item in chosen.items() if target.get(tag) != Known(item.wanted)}
        missing.update(*attached.missing.values())
        size, note = self._repositories.size(self._sync, missing) if missing else (0, "")
        return SyncView(
            chosen=chosen,
            failed=self._failed,
            target=target,
            nested=self._nested(chosen, target) | attached.kept,
            referrers=attached.missing,
            unclear=self._unclear,
            young=self._young,
            bytes=size,
            seen=self._seen,
            parts=self._repositories.looked_into(),
            notes=(*self._notes, *attached.notes, *([note] if note else ())),
        )

    def _chosen(self, listed: frozenset[str]) -> dict[str, Digest]:
        """The tags to have, with their digests at the source."""
        selection, sync = self._sync.tags, self._sync
        for name in sorted(set(selection.names) - listed):
            self._failed[name] = Unknown("the source has no such tag", "take it out of `tags`, or mend its name")
        if selection.min_age is None:
            picked = select(listed, selection, {}, 0).chosen
            return self._known(self._repositories.digests(sync.source, picked))
        # How long a tag is known depends on its digest: all that the age decides about are asked for.
        ageless = replace(selection, min_age=None, newest=None)
        digests = self._known(self._repositories.digests(sync.source, select(listed, ageless, {}, 0).chosen))
        self._seen |= digests
        seen, now = self._repositories.first_seen(sync.source, digests), self._repositories.now()
        found = select(digests, replace(selection, names=(), allow=(), deny=()), seen, now)
        self._young = frozenset(found.young)
        for tag in [*found.young][:3]:
            self._notes.append(f"tag {tag} {found.why[tag]}, and is left for later")
        return {tag: digests[tag] for tag in found.chosen}

    def _known(self, found: Mapping[str, RemoteTag]) -> dict[str, Digest]:
        """The digests; what is unknown fails, and what was deleted meanwhile is passed over."""
        self._failed |= {tag: answer for tag, answer in found.items() if isinstance(answer, Unknown)}
        return {tag: answer.digest for tag, answer in found.items() if isinstance(answer, Known)}

    def _wanted(self, source: Mapping[str, Digest]) -> dict[str, SyncTag]:
        if not self._sync.platforms:
            return {tag: SyncTag(digest, digest) for tag, digest in source.items()}
        wanted = self._repositories.wanted(self._sync, frozenset(source.values()))
        known = self._known({tag: wanted[digest] for tag, digest in source.items()})
        return {tag: SyncTag(source[tag], digest) for tag, digest in known.items()}

    def _attached(self, chosen: Mapping[str, SyncTag], listed: frozenset[str], at_target: frozenset[str]) -> Attached:
        if not self._sync.referrers or not chosen:
            return Attached()
        try:
            return Attached.of(self._sync, self._repositories, chosen, listed, at_target)
        except ReconcilerError as error:
            hint = "; ".join(filter(None, (error.hint, "with `referrers: false` nobody is asked")))
            self._unclear["what refers to the tags to copy"] = Unknown(error.reason, hint)
            return Attached()

    def _nested(self, chosen: Mapping[str, SyncTag], target: Mapping[str, RemoteTag]) -> frozenset[Digest]:
        candidates = target.keys() - chosen.keys()
        if self._sync.prune is None or self._failed or not candidates:
            return frozenset()
        kept = {item.wanted for item in chosen.values()}
        protect = self._sync.prune.protect
        protected = select(candidates, TagSelection(allow=protect), {}, 0).chosen if protect else ()
        protected = (*protected, *(self._young & candidates))
        kept |= {found.digest for tag in protected if isinstance(found := target[tag], Known)}
        try:
            return self._repositories.nested(self._sync, kept)
        except ReconcilerError as error:
            # Whether a tag that is to go is part of one that stays cannot be told: none goes.
            self._unclear["what the indexes to keep consist of"] = Unknown(error.reason, error.hint)
            return frozenset()
