"""What every engine must do, as tests that any engine can run.

A test module subclasses ``EngineConformance`` and gives it a ``harness`` fixture::

    class TestMemory(EngineConformance):
        @pytest.fixture
        def harness(self) -> Harness: ...
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from reconciler.engine.port import Engine, Generation, GenerationEntry, Outcome
from reconciler.errors import ConflictError, LockedError, ReconcilerError
from reconciler.model.action import (
    CommitImage,
    CreateContainer,
    EnsureVolume,
    PruneTag,
    PullImage,
    ReleaseVolume,
    RemoveContainer,
    SetTag,
    StartContainer,
    StopContainer,
)
from reconciler.model.address import Address
from reconciler.model.canonical import form
from reconciler.model.desired import Desired, Pin, Resolution
from reconciler.model.facts import Absent
from reconciler.model.observed import CommitKey, Observed, ObservedContainer, ObservedImage, ObservedSync, SyncView
from reconciler.model.policy import PlanOptions
from reconciler.model.resources import Commit, Container, Image, Prune, Volume
from reconciler.model.selection import TagSelection
from reconciler.plan.interest import interest_of
from reconciler.plan.plan import Plan
from reconciler.reconcile import look, prepare
from reconciler.testing.builders import Stack, digest

PATIENCE = 20.0
"""Seconds within which a container must start, end or stop."""


@dataclass(frozen=True)
class Harness:
    """An engine on an empty root, and what it can run.

    ``images`` are two references that can be pulled and differ. ``service`` are container fields of one that keeps
    running and stops when asked, ``succeeds`` and ``fails`` of jobs that end with 0 and with another code. The images
    are tags 1 and 2 of one repository; ``copies`` makes the name of one that does not exist. ``later`` lets so many
    seconds pass for what was noted of tags.
    """

    engine: Engine
    images: tuple[str, str]
    service: dict[str, Any] = field(default_factory=dict)
    succeeds: dict[str, Any] = field(default_factory=dict)
    fails: dict[str, Any] = field(default_factory=dict)
    copies: str = "copy"
    later: Callable[[float], None] = lambda _seconds: None

    def stack(self, **containers: dict[str, Any]) -> Stack:
        stack = Stack("shop")
        stack.pull("base", self.images[0])
        for name, fields in containers.items():
            stack.container(name, "base", **fields)
        return stack

    def syncing(self, **fields: Any) -> Stack:
        """A sync of the repository that both images are in, tags 1 and 2, into another one."""
        stack = Stack("shop")
        source = self.images[0].rpartition(":")[0]
        stack.sync(f"{source}-{self.copies}", source, **{"tags": TagSelection(names=("1", "2")), **fields})
        return stack

    def tracking(self, pin: str = "", **track: Any) -> tuple[Stack, Address]:
        """An image that tracks the repository that both images are in, or is ``pin`` of it."""
        stack = Stack("shop")
        return stack, stack.pull("app", self.images[0].rpartition(":")[0] + pin, **track)

    def resolve(self, stack: Stack, address: Address) -> Resolution:
        return prepare(stack.desired(), self.engine).pins[address]

    def note(self, stack: Stack) -> None:
        """What a pass keeps of what it saw."""
        with self.engine.turn(PATIENCE):
            interest = interest_of(prepare(stack.desired(), self.engine))
            self.engine.note(interest, self.engine.observe(interest), ())

    def plan(self, stack: Stack) -> tuple[Desired, Observed, Plan]:
        desired = prepare(stack.desired(), self.engine)
        return desired, *look(desired, self.engine, PlanOptions(allow_empty=True, max_deletes=1000))

    def apply(self, stack: Stack) -> list[Outcome]:
        """Performs the steps that can be performed now, in order."""
        with self.engine.turn(PATIENCE):
            steps = self.plan(stack)[2].steps
            return [self.engine.perform(step.action, lambda _: None) for step in steps if not step.deferred]

    def observe(self, stack: Stack) -> Observed:
        return self.engine.observe(interest_of(prepare(stack.desired(), self.engine)))

    def container(self, stack: Stack, name: str) -> ObservedContainer:
        found = self.observe(stack).resources[Address("container", f"shop/{name}")]
        assert isinstance(found, ObservedContainer)
        return found

    def until(self, stack: Stack, name: str, condition: Callable[[ObservedContainer], bool]) -> ObservedContainer:
        """Waits for events until the container meets the condition."""
        deadline = time.monotonic() + PATIENCE
        while not condition(found := self.container(stack, name)):
            assert time.monotonic() < deadline, found
            self.engine.wait(1.0)
        return found


class EngineConformance:
    """The tests. Each uses a fresh root."""

    def test_a_root_that_does_not_exist_is_observed_as_empty(self, harness: Harness) -> None:
        seen = harness.observe(harness.stack())
        assert not seen.resources
        assert not seen.leftovers
        assert seen.root_id == harness.observe(harness.stack()).root_id

    def test_seals_tell_values_apart_and_nothing_else(self, harness: Harness) -> None:
        one, two = harness.engine.seal(b"one"), harness.engine.seal(b"two")
        assert one == harness.engine.seal(b"one") != two
        assert "one" not in one

    def test_resolve_gives_one_answer_for_each_pull(self, harness: Harness) -> None:
        stack = harness.stack()
        stack.pull("none", harness.images[0].rpartition(":")[0] + ":no-such-tag")
        pins = harness.plan(stack)[0].pins
        assert [type(pins[address]).__name__ for address in sorted(pins)] == ["Pin", "Absent"]

    def test_a_service_is_pulled_created_started_and_then_left_alone(self, harness: Harness) -> None:
        stack = harness.stack(web=harness.service)
        assert all(outcome.changed for outcome in harness.apply(stack))
        web = harness.until(stack, "web", lambda found: found.alive)
        assert (web.run, web.exit_code) == (1, None)
        assert harness.plan(stack)[2].changes == ()

    def test_every_action_can_be_performed_again(self, harness: Harness) -> None:
        stack = harness.stack(web=harness.service)
        steps = harness.plan(stack)[2].steps
        with harness.engine.turn(PATIENCE):
            for step in steps:
                harness.engine.perform(step.action, lambda _: None)
            before = harness.container(stack, "web")
            again = [harness.engine.perform(step.action, lambda _: None) for step in steps]
        assert not any(outcome.changed for outcome in again)
        assert harness.container(stack, "web").id == before.id

    def test_pulling_again_transfers_nothing(self, harness: Harness) -> None:
        stack = harness.stack()
        pull = harness.plan(stack)[2].steps[0].action
        assert isinstance(pull, PullImage)
        with harness.engine.turn(PATIENCE):
            first = harness.engine.perform(pull, lambda _: None)
            assert first.digest == pull.pin.digest
            assert harness.engine.perform(pull, lambda _: None).bytes_pulled == 0

    def test_a_job_ends_with_its_code_and_tells_when(self, harness: Harness) -> None:
        stack = harness.stack(good=harness.succeeds, bad=harness.fails)
        harness.apply(stack)
        good = harness.until(stack, "good", lambda found: found.status == "exited")
        bad = harness.until(stack, "bad", lambda found: found.status == "exited")
        assert good.succeeded
        assert bad.exit_code not in (0, None)
        assert good.started_at is not None and good.finished_at is not None
        assert good.started_at <= good.finished_at

    def test_a_stopped_container_starts_again_as_itself(self, harness: Harness) -> None:
        stack = harness.stack(web=harness.service)
        harness.apply(stack)
        web = harness.until(stack, "web", lambda found: found.alive)
        with harness.engine.turn(PATIENCE):
            stop = StopContainer(web.address, web.id)
            assert harness.engine.perform(stop, lambda _: None).changed
            assert not harness.engine.perform(stop, lambda _: None).changed
            assert harness.container(stack, "web").status == "exited"
            harness.engine.perform(StartContainer(web.address), lambda _: None)
        again = harness.until(stack, "web", lambda found: found.alive)
        assert (again.id, again.run) == (web.id, 2)

    def test_a_replacement_is_there_before_the_old_one_goes(self, harness: Harness) -> None:
        stack = harness.stack(web=harness.service)
        harness.apply(stack)
        old = harness.until(stack, "web", lambda found: found.alive)
        changed = harness.stack(web={**harness.service, "environment": {"CHANGED": "1"}})
        steps = {step.action.verb: step.action for step in harness.plan(changed)[2].steps}
        with harness.engine.turn(PATIENCE):
            harness.engine.perform(steps["create"], lambda _: None)
            seen = harness.observe(changed)
            # Which of the two has the name meanwhile is the engine's affair; the other is a leftover.
            both = {item.id: item for item in (*seen.leftovers, harness.container(changed, "web"))}
            assert both.pop(old.id).alive
            (new,) = both.values()
            assert new.status == "created"
            for verb in ("stop", "start", "remove"):
                harness.engine.perform(steps[verb], lambda _: None)
        assert harness.container(changed, "web").id == new.id
        assert harness.plan(changed)[2].changes == ()

    def test_removing_takes_a_running_container_and_forgives_an_absent_one(self, harness: Harness) -> None:
        stack = harness.stack(web=harness.service)
        harness.apply(stack)
        web = harness.until(stack, "web", lambda found: found.alive)
        with harness.engine.turn(PATIENCE):
            assert harness.engine.perform(RemoveContainer(web.address, web.id), lambda _: None).changed
            assert not harness.engine.perform(RemoveContainer(web.address, web.id), lambda _: None).changed
        assert web.address not in harness.observe(stack).resources

    def test_a_commit_gives_the_same_image_for_the_same_layer(self, harness: Harness) -> None:
        stack = harness.stack(writer=harness.succeeds)
        made = stack.commit("made", "writer", "Jordan Bach", "saved")
        harness.apply(stack)
        harness.until(stack, "writer", lambda found: found.status == "exited")
        harness.apply(stack)
        image = harness.observe(stack).resources[made]
        assert isinstance(image, ObservedImage)
        assert harness.plan(stack)[2].changes == ()
        assert image.commit is not None
        entry = stack.resources[made]
        assert isinstance(entry, Image)
        assert isinstance(entry.source, Commit)
        with harness.engine.turn(PATIENCE):
            again = CommitImage(made, entry.source, image.commit, image.form)
            assert harness.engine.perform(again, lambda _: None).digest == image.digest
            stale = replace(again, key=CommitKey(image.commit.container_id, 99, image.commit.fingerprint))
            with pytest.raises(ConflictError):
                harness.engine.perform(stale, lambda _: None)

    def test_a_local_tag_moves_with_its_image(self, harness: Harness) -> None:
        for reference in harness.images:
            stack = Stack("shop")
            stack.pull("base", reference)
            stack.tag("shop.example/app:live", "base")
            harness.apply(stack)
            assert harness.plan(stack)[2].changes == ()

    def test_an_image_that_tracks_a_repository_is_the_tag_that_is_picked(self, harness: Harness) -> None:
        stack, app = harness.tracking(newest=1)
        pin = harness.resolve(stack, app)
        assert isinstance(pin, Pin)
        assert (pin.tag, pin.why) == ("2", "2: newest of all tags")
        plain = Stack("shop")
        assert pin.digest == harness.resolve(plain, plain.pull("app", harness.images[1])).digest  # type: ignore[union-attr]
        assert [outcome.digest for outcome in harness.apply(stack)] == [pin.digest]
        assert harness.plan(stack)[2].changes == ()
        harness.note(stack)
        image = harness.observe(stack).resources[app]
        assert isinstance(image, ObservedImage)
        assert (image.digest, image.picked) == (pin.digest, "2: newest of all tags")
        other, _ = harness.tracking(allow=("1",))
        (change,) = harness.plan(other)[2].changes
        assert (change.address, change.reason.code) == (app, "tag-picked")

    def test_no_tag_that_fits_is_no_image(self, harness: Harness) -> None:
        found = harness.resolve(*harness.tracking(semver="^9"))
        assert isinstance(found, Absent)
        assert found.reason.endswith("is in ^9; there are 2, 1")
        stack, app = harness.tracking(newest=1)
        stack.pull("app", harness.images[0].rpartition(":")[0], "never", newest=1)
        assert isinstance(harness.resolve(stack, app), Absent)

    def test_a_pin_is_that_image_whatever_it_tracks(self, harness: Harness) -> None:
        first = harness.resolve(*harness.tracking(allow=("1",)))
        assert isinstance(first, Pin)
        pin = harness.resolve(*harness.tracking(f":1@{first.index or first.digest}", newest=1))
        assert isinstance(pin, Pin)
        assert (pin.digest, pin.tag) == (first.digest, "")

    def test_a_tag_is_old_enough_once_it_was_noted_for_so_long(self, harness: Harness) -> None:
        stack, app = harness.tracking(newest=1, min_age=3600.0)
        for _ in range(2):  # a look alone keeps nothing
            found = harness.resolve(stack, app)
            assert isinstance(found, Absent)
            assert "2 is new, wants 1h; 1 is new, wants 1h" in found.reason
            harness.later(7200)
        harness.note(stack)
        assert isinstance(harness.resolve(stack, app), Absent)
        harness.later(7200)
        found = harness.resolve(stack, app)
        assert isinstance(found, Pin)
        assert found.tag == "2"

    def test_only_what_the_image_is_already_may_be_too_young(self, harness: Harness) -> None:
        old, app = harness.tracking(allow=("1",), min_age=3600.0)
        harness.resolve(old, app)
        harness.note(old)
        harness.later(7200)
        stack, _ = harness.tracking(newest=1, min_age=3600.0)
        stack.pull("other", harness.images[1])
        harness.apply(stack)
        found = harness.resolve(stack, app)
        assert isinstance(found, Pin)
        assert (found.tag, found.note) == ("1", ""), "that another image has the newer one is no reason to take it"
        young, _ = harness.tracking(newest=1)
        harness.apply(young)
        found = harness.resolve(stack, app)
        assert isinstance(found, Pin)
        assert (found.tag, found.why) == ("2", "2: picked before")
        assert found.note.endswith("2 is new, wants 1h; the stored 2 is kept")
        assert app not in {change.address for change in harness.plan(stack)[2].changes}

    def test_a_sync_copies_what_differs_and_is_then_left_alone(self, harness: Harness) -> None:
        stack = harness.syncing()
        steps = harness.plan(stack)[2].steps
        assert [step.action.verb for step in steps] == ["set", "copy", "copy"]
        assert all(outcome.changed for outcome in harness.apply(stack))
        assert harness.plan(stack)[2].changes == ()
        with harness.engine.turn(PATIENCE):
            assert not any(harness.engine.perform(step.action, lambda _: None).changed for step in steps)

    def test_a_sync_that_prunes_takes_away_only_what_is_as_it_was_planned(self, harness: Harness) -> None:
        harness.apply(harness.syncing())
        fewer = harness.syncing(tags=TagSelection(names=("2",)), prune=Prune())
        *_, step = harness.plan(fewer)[2].steps
        assert isinstance(step.action, PruneTag)
        with harness.engine.turn(PATIENCE):
            with pytest.raises(ConflictError):
                harness.engine.perform(replace(step.action, digest=digest("another")), lambda _: None)
            assert harness.engine.perform(step.action, lambda _: None).changed
            assert not harness.engine.perform(step.action, lambda _: None).changed

    def test_a_sync_is_not_looked_at_before_it_is_due(self, harness: Harness) -> None:
        stack = harness.syncing()
        interest = interest_of(prepare(stack.desired(), harness.engine))
        (address,) = interest.syncs
        harness.apply(stack)
        with harness.engine.turn(PATIENCE):
            harness.engine.note(interest, harness.engine.observe(interest), {address})
            still = harness.engine.observe(replace(interest, only_due=True)).resources[address]
            harness.engine.note(interest, harness.engine.observe(interest), ())
        assert isinstance(still, ObservedSync)
        assert still.view is not None  # there was work left
        due = harness.engine.observe(replace(interest, only_due=True)).resources[address]
        asked = harness.engine.observe(interest).resources[address]
        assert isinstance(due, ObservedSync)
        assert isinstance(asked, ObservedSync)
        assert due.view is None
        assert isinstance(asked.view, SyncView)
        assert (asked.checked_at is not None) and asked.counted == 2

    def test_a_sync_that_is_dropped_leaves_both_sides_as_they_are(self, harness: Harness) -> None:
        stack = harness.syncing()
        harness.apply(stack)
        harness.apply(Stack("shop"))
        assert not any(address.kind == "sync" for address in harness.observe(Stack("shop")).resources)
        assert [change.reason.code for change in harness.plan(stack)[2].changes] == ["missing"]
        assert [step.action.verb for step in harness.plan(stack)[2].steps] == ["set"]

    def test_a_volume_that_leaves_keeps_its_place(self, harness: Harness) -> None:
        address = Address("volume", "shop/data")
        volume = Volume()
        with harness.engine.turn(PATIENCE):
            harness.engine.perform(EnsureVolume(address, volume, form(volume)), lambda _: None)
            assert harness.engine.perform(ReleaseVolume(address), lambda _: None).changed
            assert not harness.engine.perform(ReleaseVolume(address), lambda _: None).changed

    def test_what_is_not_on_disk_is_neither_tagged_nor_run(self, harness: Harness) -> None:
        stack = harness.stack(web=harness.service)
        tag = stack.tag("shop.example/app:live", "base")
        desired, _, planned = harness.plan(stack)
        digest = next(step.action.pin.digest for step in planned.steps if isinstance(step.action, PullImage))
        web = Address("container", "shop/web")
        container = desired.resources[web]
        assert isinstance(container, Container)
        with harness.engine.turn(PATIENCE):
            with pytest.raises(ReconcilerError):
                harness.engine.perform(SetTag(tag, desired.resources[tag], digest, {}, "shop"), lambda _: None)  # type: ignore[arg-type]
            with pytest.raises(ReconcilerError):
                action = CreateContainer(web, container, {**form(container), "image": str(digest)}, digest)
                harness.engine.perform(action, lambda _: None)
        assert harness.observe(stack).leftovers == ()

    def test_one_writer_at_a_time(self, harness: Harness) -> None:
        with harness.engine.turn(PATIENCE), pytest.raises(LockedError), harness.engine.turn(0.05):
            raise AssertionError("two writers")
        with harness.engine.turn(PATIENCE):
            pass

    def test_generations_are_numbered_and_remember_the_source(self, harness: Harness) -> None:
        image = Address("image", "shop/base")
        generation = Generation(frozenset({"shop"}), "/specs", "abc", {image: GenerationEntry({"pull": {}})})
        with harness.engine.turn(PATIENCE):
            assert harness.engine.record(generation) == 1
            assert harness.engine.record(generation) == 2
        assert [item.number for item in harness.engine.generations()] == [1, 2]
        assert harness.engine.generations()[0].entries[image].form == {"pull": {}}
        asked = Desired({}, frozenset(), source="/specs")
        assert harness.engine.observe(interest_of(asked)).source_stacks == {"shop"}
