"""What is attached to the images of a sync, at its source, and what of it the target lacks.

Signatures, attestations and SBOMs are attached in two ways: registries, or a tag ``sha256-HEX`` in their place, list
the manifests that refer to another one; and tags such as ``sha256-HEX.sig`` are about another manifest by their name.
Either may in turn have something attached.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import field
from typing import Protocol

from reconciler.errors import InvalidError
from reconciler.model.facts import Known, RemoteTag
from reconciler.model.observed import SyncTag
from reconciler.model.resources import Sync
from reconciler.oci.companion import MOST_DEEP, companion_of, is_referrers_tag, referrers_tag
from reconciler.oci.digest import Digest
from reconciler.value import dataclass

_MOST = 10_000


class Relations(Protocol):
    """Repositories, as far as what refers to what needs them. They are ``registry/repository``."""

    def digests(self, repository: str, tags: Collection[str]) -> Mapping[str, RemoteTag]:
        """What each tag is, asked in parallel."""

    def keeps_referrers(self, repository: str, digest: Digest) -> bool:
        """Whether its registry itself lists what refers to a manifest, asked of one. Raises ``ReconcilerError``."""

    def referrers(
        self, repository: str, subjects: Collection[Digest], tags: Collection[str]
    ) -> Mapping[Digest, frozenset[Digest]]:
        """What is listed as referring to each manifest; ``tags`` are all of the repository. May raise."""

    def parts(self, sync: Sync, items: Collection[SyncTag]) -> Mapping[Digest, Collection[Digest]]:
        """By the digest that the target is to have, the manifests that an index consists of; what cannot be told is
        left out."""

    def present(self, repository: str, digests: Collection[Digest]) -> frozenset[Digest]:
        """Those of the manifests that the repository has. May raise."""


@dataclass(frozen=True, slots=True)
class Attached:
    """``tags`` are those of the source that are about the images of the sync. ``missing`` is what is listed there and
    not at the target, by a tag of the image; ``kept`` are all that is listed on either side, and so is to stay."""

    tags: Mapping[str, RemoteTag] = field(default_factory=dict)
    missing: Mapping[str, tuple[Digest, ...]] = field(default_factory=dict)
    kept: frozenset[Digest] = frozenset()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        sync: Sync,
        relations: Relations,
        chosen: Mapping[str, SyncTag],
        at_source: frozenset[str],
        at_target: frozenset[str],
    ) -> Attached:
        """Asks for what is attached to ``chosen``. Raises ``ReconcilerError`` when that cannot be told, and
        ``InvalidError`` when there is more of it than anybody attaches."""
        images, notes = _images(sync, relations, chosen, at_source)
        walk = _Walk(sync, relations, at_source, images)
        walk.follow()
        there = relations.referrers(sync.target, walk.listed.keys(), at_target)
        lacking = {subject: found - there.get(subject, frozenset()) for subject, found in walk.listed.items()}
        wanted = frozenset().union(*lacking.values())
        # A tag that lists may name what was deleted since.
        present = relations.present(sync.source, wanted) if wanted else wanted
        missing: dict[str, set[Digest]] = {}
        for subject, found in lacking.items():
            if found & present:
                missing.setdefault(walk.images[subject], set()).update(found & present)
        gone = len(wanted - present)
        if gone:
            notes.append(f"{gone} that the source lists as referring to others are not there, and are left out")
        kept = frozenset(walk.images).union(*walk.listed.values())
        if sync.prune is not None:
            kept |= _listed_at_target(sync, relations, kept, at_target)
        by_tag = {tag: tuple(sorted(found)) for tag, found in sorted(missing.items())}
        return cls(walk.tags, by_tag, kept, tuple(notes))


def _images(
    sync: Sync, relations: Relations, chosen: Mapping[str, SyncTag], at_source: frozenset[str]
) -> tuple[dict[Digest, str], list[str]]:
    """The manifests that something may refer to, each with a tag that it is of; and what to tell."""
    # A signature of an index that is narrowed would be of nothing that the target has.
    images = {item.source: tag for tag, item in sorted(chosen.items(), reverse=True) if item.source == item.wanted}
    named = {companion_of(tag) for tag in at_source} - {None}
    if not named - images.keys() and not relations.keeps_referrers(sync.source, next(iter(chosen.values())).source):
        return images, []
    parts = relations.parts(sync, frozenset(chosen.values()))
    for tag, item in sorted(chosen.items(), reverse=True):
        images = dict.fromkeys(parts.get(item.wanted, ()), tag) | images
    unread = len({item.wanted for item in chosen.values()} - parts.keys())
    note = f"what refers to parts of {unread} of its images is not looked for: what they consist of is unknown"
    return images, [note] if unread else []


class _Walk:
    """From images to what is attached to them, and so on. ``images`` tells for each manifest which tag it is about."""

    def __init__(
        self, sync: Sync, relations: Relations, at_source: frozenset[str], images: Mapping[Digest, str]
    ) -> None:
        self._source = sync.source
        self._relations = relations
        self._at_source = at_source
        self._named: dict[Digest, list[str]] = {}
        for tag in sorted(at_source):
            if (about := companion_of(tag)) is not None and not is_referrers_tag(tag):
                self._named.setdefault(about, []).append(tag)
        self.images = dict(images)
        self.listed: dict[Digest, frozenset[Digest]] = {}
        self.tags: dict[str, RemoteTag] = {}

    def follow(self) -> None:
        subjects: Iterable[Digest] = tuple(self.images)
        for _ in range(MOST_DEEP):
            subjects = self._step(frozenset(subjects))
            if not subjects:
                return

    def _step(self, subjects: frozenset[Digest]) -> frozenset[Digest]:
        """What is attached to ``subjects`` and was not met before."""
        listed = self._relations.referrers(self._source, subjects, self._at_source)
        self.listed |= {subject: found for subject, found in listed.items() if found}
        named = {tag: subject for subject in subjects for tag in self._named.get(subject, ())}
        tags = self._relations.digests(self._source, named) if named else {}
        self.tags |= tags
        about = [(digest, subject) for subject, found in listed.items() for digest in sorted(found)]
        about += [(answer.digest, named[tag]) for tag, answer in tags.items() if isinstance(answer, Known)]
        new = {digest: self.images[subject] for digest, subject in about if digest not in self.images}
        if sum(map(len, self.listed.values())) > _MOST:
            raise InvalidError(
                f"more than {_MOST} manifests refer to those of {self._source}",
                hint="say `referrers: false`, or take some away there",
            )
        self.images |= new
        return frozenset(new)


def _listed_at_target(
    sync: Sync, relations: Relations, kept: frozenset[Digest], at_target: frozenset[str]
) -> frozenset[Digest]:
    """What tags at the target list as referring to what is ``kept``: it may have been attached there."""
    found: set[Digest] = set()
    subjects = kept
    for _ in range(MOST_DEEP):
        with_tag = {subject for subject in subjects if referrers_tag(subject) in at_target}
        listed = relations.referrers(sync.target, with_tag, at_target) if with_tag else {}
        subjects = frozenset().union(*listed.values()) - found
        found |= subjects
    return frozenset(found)
