"""What every engine does alike to pick the tag of an image that tracks a repository."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import field, replace
from typing import Protocol

from reconciler.errors import InvalidError, NotFoundError, ReconcilerError
from reconciler.model.canonical import Form
from reconciler.model.desired import Pin, Resolution
from reconciler.model.facts import Absent, Unknown
from reconciler.model.resources import Pull
from reconciler.model.selection import Selected, TagSelection, select
from reconciler.oci.digest import Digest
from reconciler.oci.reference import Reference
from reconciler.value import dataclass

# Tags that nobody asked about before and that age must decide on: so many are asked about in one look.
MOST_NEW = 20
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Sighting:
    """The digest that a tag was last seen with, and for how many seconds this root has known it so."""

    digest: Digest
    age: float


class Repository(Protocol):
    """One repository, as far as picking a tag needs it. What asks a registry raises ``ReconcilerError``."""

    def tags(self) -> Collection[str]:
        """The tags at the registry."""

    def digest(self, tag: str) -> Digest | None:
        """What a tag is there now; None when it was deleted meanwhile."""

    def known(self) -> Mapping[str, Sighting]:
        """What was noted of its tags."""

    def see(self, seen: Mapping[str, Digest]) -> None:
        """Hears what tags are now, to be noted by whoever may write."""

    def pin(self, tag: str, digest: Digest | None) -> Pin:
        """The image under a tag, which is ``digest`` where that was asked before."""

    def current(self) -> Pin | None:
        """What the image is on this host, with its tag, if that is of this repository, complete and fits."""

    def stored(self) -> Collection[str]:
        """The tags that this host has."""

    def stored_pin(self, tag: str) -> Pin | None:
        """The image that this host has under a tag, if that is complete and fits."""


@dataclass(frozen=True, slots=True)
class Picked:
    """``tag`` is empty when none can be had; ``why`` is a sentence in either case: "1.5.2: newest in >=1.4 <2".

    ``digest`` is what the tag was found to be, where age made that a question; ``seen`` are all tags so found.
    ``young`` are those that would come before it, and only lack age.
    """

    tag: str
    why: str
    digest: Digest | None = None
    seen: Mapping[str, Digest] = field(default_factory=dict)
    young: frozenset[str] = frozenset()


def resolve_tracked(pull: Pull, selection: TagSelection, repository: Repository) -> Resolution:
    """Picks the tag of ``pull`` and pins it.

    What the image is stays where the registry cannot say, and where it is newer than what is old enough: a tag that
    moved does not take anybody back. What else this host has counts only where there is nothing to stay and nobody to
    ask, for it may be as young as can be.
    """
    name = pull.reference.familiar
    if pull.policy == "never":
        kept = _stored(selection, repository)
        return kept or Absent(f"no tag of {name} {selection} is on this host, and pull_policy is never")
    found: Absent | Unknown
    try:
        picked = pick(name, repository.tags(), selection, repository)
        repository.see(picked.seen)
        kept = _staying(selection, repository)
        if kept is not None and kept.tag not in picked.young:
            kept = None
        if picked.tag and kept is None:
            return replace(repository.pin(picked.tag, picked.digest), tag=picked.tag, why=picked.why)
        found, reason = Absent(picked.why), picked.why
    except (NotFoundError, InvalidError) as error:
        return Absent(error.reason)
    except ReconcilerError as error:
        found, kept = (
            Unknown(error.reason, error.hint),
            _staying(selection, repository) or _stored(selection, repository),
        )
        reason = f"nobody could tell which tags {name} has: {error.reason}"
    return found if kept is None else replace(kept, note=f"{reason}; the stored {kept.tag} is kept")


@dataclass(frozen=True, slots=True)
class Latest:
    """What a pin would say now: ``tag`` and the ``digest`` that it has at its registry. ``why`` is a sentence, also
    when the digest is None: then what the spec says stays."""

    tag: str
    digest: Digest | None
    why: str


def latest(pull: Pull, repository: Repository) -> Latest | Absent | Unknown:
    """What ``pull`` would be pinned to now, by its registry alone: what this host has counts for nothing.

    The tag is the one that ``track`` picks, else its own. A pin stays where only age keeps its tag from being picked.
    """
    own, pinned = pull.reference.tag, pull.reference.digest is not None
    if pull.policy == "never":
        return Latest(own or "", None, "pull_policy is never, so no registry is asked")
    name = pull.reference.repository_only().familiar
    try:
        if pull.track is not None:
            picked = pick(name, repository.tags(), pull.track, repository)
            repository.see(picked.seen)
            if pinned and own in picked.young and picked.tag:
                return Latest(own or "", None, f"{own} stays, too young as it is to be picked here: {picked.why}")
            if not picked.tag and picked.young:
                return Latest(own or "", None, picked.why)
            tag, why = picked.tag, picked.why
            digest = picked.digest or (repository.digest(tag) if tag else None)
        else:
            tag, digest = own or "", repository.digest(own or "")
            why = f"{tag} has not moved" if digest == pull.reference.digest else f"{tag} moved"
    except (NotFoundError, InvalidError) as error:
        return Absent(error.reason, error.hint)
    except ReconcilerError as error:
        return Unknown(error.reason, error.hint)
    if digest is not None:
        return Latest(tag, digest, why)
    return Absent(f"{name}:{tag} is not at the registry", "check the name and the tag") if tag else Absent(why)


def tag_of(form: Form, pull: Pull) -> str:
    """The tag that an image of this form has in the repository of ``pull``; "" for one of elsewhere."""
    reference = Reference.parse(form["pull"]["reference"]) if "pull" in form else None
    return (reference.tag or "") if reference is not None and reference.name == pull.reference.name else ""


def _staying(selection: TagSelection, repository: Repository) -> Pin | None:
    """What the image is, if its tag may still be chosen."""
    pin = repository.current()
    if pin is None or not _fitting((pin.tag,), selection).chosen:
        return None
    return replace(pin, why=f"{pin.tag}: picked before")


def _stored(selection: TagSelection, repository: Repository) -> Pin | None:
    """The newest image on this host of the tags that may be chosen."""
    found = _fitting(repository.stored(), selection)
    for tag in found.chosen:
        pin = repository.stored_pin(tag)
        if pin is not None:
            return replace(pin, tag=tag, why=f"{_newest(tag, selection, found)} on this host")
    return None


def _fitting(tags: Collection[str], selection: TagSelection) -> Selected:
    """All that may be chosen whatever their age, from the newest to the oldest."""
    return select(tags, replace(selection, min_age=None, newest=None), {}, 0)


def pick(name: str, listed: Collection[str], selection: TagSelection, repository: Repository) -> Picked:
    """The newest tag of those ``listed`` that ``selection`` lets through; ``name`` is that of the repository.

    Without a minimum age nothing is asked. With one, the tags that are old enough by what was noted are asked about,
    newest first, until one is still what it was; and those newer than it that nobody has asked about yet.
    """
    found = _fitting(listed, selection)
    if not found.chosen:
        return Picked("", _none(name, listed, selection, found))
    if not selection.min_age:
        return Picked(found.chosen[0], _newest(found.chosen[0], selection, found))
    known, ages, seen = repository.known(), dict[str, float](), dict[str, Digest]()
    for tag in found.chosen:
        before = known.get(tag)
        old = before is not None and before.age >= selection.min_age
        ages[tag] = before.age if before is not None else 0.0
        if not old and (before is not None or len(seen) >= MOST_NEW):
            continue
        digest = repository.digest(tag)
        if digest is None:
            del ages[tag]
            continue
        seen[tag] = digest
        if before is not None and digest == before.digest:
            waiting = _waiting(ages, selection)
            why = _newest(tag, selection, found) + (f"; {waiting}" if waiting else "")
            return Picked(tag, why, digest, seen, frozenset(ages) - {tag})
        ages[tag] = 0.0
    waiting = _waiting(ages, selection) or "those there were are gone"
    return Picked("", f"no tag of {name} {selection} is old enough yet: {waiting}", None, seen, frozenset(ages))


def _newest(tag: str, selection: TagSelection, found: Selected) -> str:
    """Why the tag is picked, also by what: that ``latest`` comes after ``1.4`` by name is a surprise to many."""
    return f"{tag}: newest {selection}{' by name' if found.by_name else ''}"


def _waiting(ages: Mapping[str, float], selection: TagSelection) -> str:
    """The tags that only lack age, and how much of it they have."""
    found = select(ages, replace(selection, newest=None), {tag: -age for tag, age in ages.items()}, 0)
    told = [f"{tag} {found.why[tag]}" for tag in found.young]
    more = len(told) - _SHOWN
    return "; ".join(told[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _none(name: str, listed: Collection[str], selection: TagSelection, found: Selected) -> str:
    if not listed:
        return f"{name} has no tags"
    if found.prereleases:
        tag = found.prereleases[0]
        return f"no tag of {name} is {selection}; {tag} {found.why[tag]}"
    there = [*found.why][:_SHOWN]
    more = len(listed) - len(there)
    return f"no tag of {name} is {selection}; there {'is' if len(listed) == 1 else 'are'} {', '.join(there)}" + (
        f" and {more} more" if more else ""
    )
