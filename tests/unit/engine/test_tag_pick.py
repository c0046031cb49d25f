"""What an image would be pinned to now."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from reconciler.engine.tag_pick import Latest, Sighting, latest, resolve_tracked
from reconciler.errors import NotFoundError, RegistryError
from reconciler.model.desired import Pin
from reconciler.model.facts import Absent, Unknown
from reconciler.model.resources import Pull
from reconciler.model.selection import TagSelection
from reconciler.oci.digest import Digest
from reconciler.oci.reference import Reference
from reconciler.testing.builders import digest

HOUR = 3600.0


@dataclass
class Repository:
    """Tags with their digests; those of ``ages`` have been known as they are for so many seconds."""

    there: dict[str, Digest]
    ages: dict[str, float] = field(default_factory=dict)
    error: Exception | None = None
    seen: dict[str, Digest] = field(default_factory=dict)
    here: Pin | None = None
    on_disk: tuple[str, ...] = ()

    def tags(self) -> Collection[str]:
        if self.error is not None:
            raise self.error
        return self.there

    def digest(self, tag: str) -> Digest | None:
        if self.error is not None:
            raise self.error
        return self.there.get(tag)

    def known(self) -> Mapping[str, Sighting]:
        return {tag: Sighting(self.there[tag], age) for tag, age in self.ages.items()}

    def see(self, seen: Mapping[str, Digest]) -> None:
        self.seen |= seen

    def pin(self, tag: str, digest: Digest | None) -> Pin:
        raise AssertionError("nothing can be asked, or what this host has counts for nothing")

    def current(self) -> Pin | None:
        return self.here

    def stored(self) -> Collection[str]:
        return self.on_disk

    def stored_pin(self, tag: str) -> Pin | None:
        return Pin(self.there[tag], answered_by="store")


def pull(text: str, **track: Any) -> Pull:
    reference = Reference.parse(text)
    if track and reference.digest is None:
        reference = reference.repository_only()
    return Pull(reference, track=TagSelection(**track) if track else None)


THERE = {tag: digest(tag) for tag in ("1.4.0", "1.5.0", "1.6.0", "2.0.0", "edge")}


def test_the_newest_tag_that_track_lets_through() -> None:
    for text in ("r.example/app", f"r.example/app:1.4.0@{digest('x')}", f"r.example/app@{digest('x')}"):
        found = latest(pull(text, semver="^1"), Repository(THERE))
        assert found == Latest("1.6.0", digest("1.6.0"), "1.6.0: newest in ^1")


def test_a_pin_without_track_follows_its_own_tag() -> None:
    moved = latest(pull(f"r.example/app:edge@{digest('x')}"), Repository(THERE))
    assert moved == Latest("edge", digest("edge"), "edge moved")
    still = latest(pull(f"r.example/app:edge@{digest('edge')}"), Repository(THERE))
    assert still == Latest("edge", digest("edge"), "edge has not moved")


def test_a_pin_goes_down_when_its_tag_is_no_longer_let_through() -> None:
    found = latest(pull(f"r.example/app:1.6.0@{digest('1.6.0')}", semver="<1.6"), Repository(THERE))
    assert isinstance(found, Latest)
    assert found.tag == "1.5.0"


def test_a_pin_waits_for_a_tag_to_come_of_age() -> None:
    repository = Repository(THERE, {"1.4.0": 9 * HOUR, "1.5.0": 5 * HOUR, "1.6.0": HOUR})
    found = latest(pull(f"r.example/app:1.4.0@{digest('1.4.0')}", semver="^1", min_age=2 * HOUR), repository)
    assert found == Latest("1.5.0", digest("1.5.0"), "1.5.0: newest in ^1; 1.6.0 is 1h old, wants 2h")
    assert repository.seen == {"1.5.0": digest("1.5.0")}


@pytest.mark.parametrize("ages", [{}, {"1.4.0": 9 * HOUR}, {"1.5.0": 9 * HOUR, "1.6.0": HOUR}])
def test_a_pin_that_is_newer_than_what_is_old_enough_here_stays(ages: dict[str, float]) -> None:
    """Another machine may have made it, which has known the tag for longer."""
    repository = Repository(THERE, ages)
    found = latest(pull(f"r.example/app:1.6.0@{digest('before')}", semver="^1", min_age=2 * HOUR), repository)
    assert isinstance(found, Latest)
    assert found.digest is None
    assert "1.6.0 is " in found.why and "wants 2h" in found.why
    assert found.why.startswith("1.6.0 stays, too young" if "1.5.0" in ages or "1.4.0" in ages else "no tag of")


def test_an_image_without_a_pin_stays_without_one_while_nothing_is_old_enough() -> None:
    repository = Repository(THERE)
    found = latest(pull("r.example/app", semver="^1", min_age=2 * HOUR), repository)
    assert isinstance(found, Latest)
    assert found.digest is None
    assert set(repository.seen) == {"1.4.0", "1.5.0", "1.6.0"}


def test_who_must_never_ask_a_registry_does_not() -> None:
    asked = replace(pull("r.example/app", semver="^1"), policy="never")
    found = latest(asked, Repository(THERE, error=AssertionError("asked")))
    assert isinstance(found, Latest)
    assert found.digest is None


@pytest.mark.parametrize(
    ("text", "track", "reason"),
    [
        ("r.example/app", {"semver": "^3"}, "no tag of r.example/app is in ^3; there are"),
        (f"r.example/app:1.4.0@{digest('x')}", {"semver": "^3", "min_age": HOUR}, "no tag of r.example/app is in ^3"),
        (f"r.example/app:gone@{digest('x')}", {}, "r.example/app:gone is not at the registry"),
    ],
)
def test_what_is_not_there_is_absent(text: str, track: dict[str, Any], reason: str) -> None:
    found = latest(pull(text, **track), Repository(THERE))
    assert isinstance(found, Absent)
    assert found.reason.startswith(reason)


@pytest.mark.parametrize("track", [{}, {"semver": "^1"}])
def test_a_registry_that_does_not_answer_leaves_it_unknown(track: dict[str, Any]) -> None:
    asked = pull(f"r.example/app:edge@{digest('x')}", **track)
    assert latest(asked, Repository(THERE, error=RegistryError("down", hint="wait"))) == Unknown("down", "wait")
    assert latest(asked, Repository(THERE, error=NotFoundError("no repository"))) == Absent("no repository")


@pytest.mark.parametrize(
    ("current", "kept", "why"),
    [
        ("1.4.0", "1.4.0", "1.4.0: picked before"),
        ("2.0.0", "1.5.0", "1.5.0: newest in ^1 on this host"),  # the range is another by now
        (None, "1.5.0", "1.5.0: newest in ^1 on this host"),
    ],
)
def test_while_nobody_answers_an_image_stays_what_it_is(current: str | None, kept: str, why: str) -> None:
    there = {tag: digest(tag) for tag in ("1.4.0", "1.5.0", "2.0.0")}
    here = Pin(there[current], tag=current) if current else None
    error = RegistryError("r.example.com does not answer")
    repository = Repository(there, error=error, here=here, on_disk=("1.4.0", "1.5.0", "2.0.0"))
    tracked = pull("r.example.com/app", semver="^1")
    assert tracked.track is not None
    found = resolve_tracked(tracked, tracked.track, repository)
    assert isinstance(found, Pin)
    assert (found.tag, found.digest, found.why) == (kept, there[kept], why)
    assert found.note.endswith(f"r.example.com does not answer; the stored {kept} is kept")


def test_what_is_picked_by_name_says_so() -> None:
    found = latest(pull("r.example.com/app", newest=1), Repository({tag: digest(tag) for tag in ("1.5.2", "latest")}))
    assert found == Latest("latest", digest("latest"), "latest: newest of all tags by name")


def test_no_age_at_all_is_asked_for_nothing() -> None:
    found = latest(pull("r.example.com/app", newest=1, min_age=0.0), Repository({"1.5.2": digest("1.5.2")}))
    assert found == Latest("1.5.2", digest("1.5.2"), "1.5.2: newest of all tags")


def test_a_variant_that_its_range_does_not_take_is_named() -> None:
    repository = Repository({tag: digest(tag) for tag in ("3.0.0-alpine", "2.0.0", "1.5.2-alpine", "1.5.2")})
    found = latest(pull("r.example.com/app", semver="^1", allow=(".*-alpine",)), repository)
    reason = "no tag of r.example.com/app is .*-alpine in ^1; 1.5.2-alpine is a prerelease, which ^1 does not name"
    assert found == Absent(reason)
