"""Images that track a repository: what picking their tag asks, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from reconciler.engine.embedded.images import resolve
from reconciler.engine.embedded.images.tag_lists import TagLists
from reconciler.engine.embedded.state import State
from reconciler.engine.tag_pick import Sighting, tag_of
from reconciler.errors import InvalidError
from reconciler.model.address import Address
from reconciler.model.desired import Pin
from reconciler.model.resources import Pull
from reconciler.oci.digest import Digest
from reconciler.oci.manifest import parse_manifest
from reconciler.oci.reference import Reference

if TYPE_CHECKING:
    from reconciler.registry.client import RegistryClient

Sightings = dict[str, dict[str, Digest]]
"""By repository and tag, what was seen and is still to be noted."""


class TrackedRepository:
    """The repository of ``pull``, at its registry and on this host. See ``tag_pick.Repository``.

    ``current`` is what the image is on this host: a tag of the repository and the digest of one platform's manifest.
    """

    def __init__(
        self,
        pull: Pull,
        state: State,
        client: Callable[[], RegistryClient],
        manifests: resolve.ManifestSource,
        sightings: Sightings,
        lists: TagLists,
        current: Reference | None = None,
    ) -> None:
        self._pull = pull
        self._state = state
        self._client = client
        self._manifests = manifests
        self._sightings = sightings
        self._lists = lists
        self._current = current

    def tags(self) -> Collection[str]:
        reference = self._pull.reference
        return self._lists.get(reference.name, lambda: list(self._client().tags(reference)))

    def digest(self, tag: str) -> Digest | None:
        return self._client().tag_digest(self._pull.reference.with_tag(tag))

    def known(self) -> Mapping[str, Sighting]:
        known = self._state.tag_ledger.known(self._pull.reference.name)
        return {tag: Sighting(digest, age) for tag, (digest, age) in known.items()}

    def see(self, seen: Mapping[str, Digest]) -> None:
        self._sightings.setdefault(self._pull.reference.name, {}).update(seen)

    def pin(self, tag: str, digest: Digest | None) -> Pin:
        pull = self._with(tag)
        if digest is None:
            return resolve.ask(pull, self._client(), self._state, self._manifests)
        parsed = parse_manifest(self._manifests.get(self._client(), pull.reference, digest))
        return resolve.pin_of(pull, digest, parsed, self._client(), self._state, self._manifests)

    def current(self) -> Pin | None:
        if self._current is None:
            return None
        pin = self._stored(replace(self._pull, reference=self._current, track=None))
        return replace(pin, tag=self._current.tag or "") if pin else None

    def stored(self) -> Collection[str]:
        prefix = f"{self._pull.reference.name}:"
        names = (name.name for name in self._state.names.list())
        return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]

    def stored_pin(self, tag: str) -> Pin | None:
        return self._stored(self._with(tag))

    def _stored(self, pull: Pull) -> Pin | None:
        try:
            return resolve.stored(pull, self._state)
        except InvalidError:
            return None

    def _with(self, tag: str) -> Pull:
        return replace(self._pull, reference=self._pull.reference.with_tag(tag), track=None)


def current_of(pulls: Mapping[Address, Pull], state: State) -> dict[Address, Reference]:
    """What those images that track their repository are on this host: a tag of it, and the image's digest."""
    entries = state.entries.all()
    found = {}
    for address, pull in pulls.items():
        name, entry = state.names.lookup(str(address)), entries.get(address)
        if pull.picks is not None and name is not None and entry is not None:
            tag = tag_of(entry.form, pull)
            if tag:
                found[address] = replace(pull.reference, tag=tag, digest=name.digest)
    return found


def note(state: State, sightings: Sightings, picks: Mapping[Address, str], now: float) -> None:
    """Keeps when tags were first seen, and why each image has the tag it has; "" for one that tracks nothing."""
    for repository, seen in sightings.items():
        state.tag_ledger.note(repository, seen, now)
    state.picks.note(picks)
