"""The loop with fakes and a clock that stands still: what it does, and when it would do something next."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

import pytest

from reconciler.apply.report import StepResult
from reconciler.clock import ManualClock
from reconciler.daemon.conditions import Conditions
from reconciler.daemon.loop import Loop
from reconciler.daemon.notify import Notifier
from reconciler.daemon.port import PassReport
from reconciler.daemon.wakeups import Wakeups
from reconciler.errors import HostError, InvalidError, LockedError, ReconcilerError, RefusedError
from reconciler.model.address import Address
from reconciler.model.desired import Desired
from reconciler.model.reason import Reason
from reconciler.plan.plan import Blocked, Plan
from reconciler.source.directory import DirectorySource
from reconciler.source.port import Revision

_WEB, _DB = Address("container", "shop/web"), Address("container", "shop/db")


class _Source:
    """Gives ``head``, a revision's name or an error. A name with "!" does not parse."""

    identity = "fake:"
    watched = ()

    def __init__(self) -> None:
        self.head: str | ReconcilerError = "r1"
        self.good = ""
        self.reads = 0

    def read(self) -> Revision:
        self.reads += 1
        if isinstance(self.head, ReconcilerError):
            raise self.head
        return _revision(self.head)

    def last_good(self) -> Revision | None:
        return _revision(self.good) if self.good else None

    def accept(self, revision: Revision) -> None:
        self.good = revision.id


class _Converger:
    """Notes what it is asked; ``respond`` decides what comes of it."""

    def __init__(self) -> None:
        self.passes: list[tuple[str, bool, frozenset[Address]]] = []
        self.respond: Callable[[str], PassReport] = lambda _: PassReport(Plan())

    def converge_once(
        self, desired: Desired, *, asked: bool, exclude: Collection[Address], export: Callable[[], None]
    ) -> PassReport:
        export()
        self.passes.append((desired.revision, asked, frozenset(exclude)))
        return self.respond(desired.revision)

    @property
    def applied(self) -> list[str]:
        return [revision for revision, _, _ in self.passes]


def _revision(name: str) -> Revision:
    return Revision(name, DirectorySource(["."]).read().tree, ())


def _load(revision: Revision) -> Desired:
    if "!" in revision.id:
        raise InvalidError("x.yaml:1:1: malformed", hint="mend it")
    return Desired({}, frozenset())


class _Daemon:
    def __init__(self, source: _Source | None = None) -> None:
        self.clock = ManualClock()
        self.source = source or _Source()
        self.converger = _Converger()
        self.wakeups = Wakeups(self.clock)
        self.shown: list[Conditions] = []
        self.loop = Loop(
            self.source,
            _load,
            self.converger,
            wakeups=self.wakeups,
            clock=self.clock,
            show=self.shown.append,
            notifier=Notifier(self.clock),
            interval=60,
            jitter=lambda: 0.0,
        )

    @property
    def conditions(self) -> Conditions:
        return self.shown[-1]

    def sleep(self) -> float:
        """Waits as long as the loop would and takes its next step; returns how long that was."""
        delay = self.loop.delay()
        self.clock.advance(delay)
        self.loop.step([])
        return delay


@pytest.fixture
def daemon(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> _Daemon:
    monkeypatch.chdir(str(tmp_path))
    return _Daemon()


def _failed(address: Address, message: str = "no such image") -> StepResult:
    return StepResult(f"pull {address}", address, "pull", "failed", error=HostError(message, hint="mend it"))


def _done(address: Address) -> StepResult:
    return StepResult(f"start {address}", address, "start", "done")


def test_the_first_revision_is_applied_and_remembered(daemon: _Daemon) -> None:
    daemon.loop.step(["start"])
    assert daemon.converger.passes == [("r1", False, frozenset())]
    assert daemon.source.good == "r1"
    assert (daemon.conditions.revision, daemon.conditions.result) == ("r1", "converged")


def test_g20_an_idle_loop_looks_once_an_interval_and_shows_the_same(daemon: _Daemon) -> None:
    daemon.loop.step(["start"])
    before = daemon.conditions
    assert [daemon.sleep() for _ in range(3)] == [60, 60, 60]
    assert daemon.conditions == before
    assert daemon.source.reads == 4


def test_a_step_before_anything_is_due_does_nothing(daemon: _Daemon) -> None:
    daemon.loop.step(["start"])
    daemon.loop.step([])
    assert len(daemon.converger.passes) == 1


def test_a_container_event_runs_a_pass_without_asking_the_source(daemon: _Daemon) -> None:
    daemon.loop.step(["start"])
    daemon.loop.step(["containers"])
    assert (len(daemon.converger.passes), daemon.source.reads) == (2, 1)


@pytest.mark.parametrize("head", [HostError("fetch failed", hint="wait"), "r2!"])
def test_g13_a_bad_source_keeps_the_last_good_revision_in_force(daemon: _Daemon, head: str | ReconcilerError) -> None:
    daemon.loop.step(["start"])
    daemon.source.head = head
    daemon.loop.step(["files"])
    daemon.sleep()
    assert daemon.converger.applied == ["r1", "r1", "r1"]
    bad = daemon.conditions.bad
    assert bad is not None
    assert bad.revision == (head if isinstance(head, str) else "")
    assert bad.since == "2026-01-01T00:00:00Z"
    assert (daemon.conditions.revision, daemon.source.good) == ("r1", "r1")
    daemon.source.head = "r3"
    daemon.loop.step(["files"])
    assert daemon.converger.applied[-1] == "r3"
    assert daemon.conditions.bad is None


def test_g13_without_any_good_revision_nothing_is_done(daemon: _Daemon) -> None:
    daemon.source.head = "r1!"
    daemon.loop.step(["start"])
    assert daemon.converger.passes == []
    assert daemon.conditions.result == "failed"


@pytest.mark.parametrize("head", [HostError("fetch failed", hint="wait"), "r2!"])
def test_g26_a_restart_with_a_bad_source_goes_on_from_the_last_good_revision(
    daemon: _Daemon, head: str | ReconcilerError
) -> None:
    daemon.source.good, daemon.source.head = "r1", head
    daemon.loop.step(["start"])
    assert daemon.converger.applied == ["r1"]
    assert daemon.conditions.revision == "r1"
    assert daemon.conditions.bad is not None


def test_g14_a_revision_that_a_guard_holds_back_is_a_condition_and_drift_is_still_repaired(daemon: _Daemon) -> None:
    daemon.loop.step(["start"])

    def guarded(revision: str) -> PassReport:
        if revision == "r2":
            raise RefusedError("6 of 10 resources would be deleted", hint="allow it with --max-deletes")
        return PassReport(Plan(), (_done(_WEB),))

    daemon.converger.respond = guarded
    daemon.source.head = "r2"
    daemon.loop.step(["files"])
    assert daemon.converger.applied == ["r1", "r2", "r1"]
    assert daemon.source.good == "r1"
    bad = daemon.conditions.bad
    assert bad is not None
    assert (bad.revision, bad.refused) == ("r2", True)
    daemon.loop.step(["containers"])
    assert daemon.converger.applied[-1] == "r1"
    daemon.converger.respond = lambda _: PassReport(Plan())  # a person allowed it
    daemon.sleep()
    assert (daemon.converger.applied[-1], daemon.conditions.bad) == ("r2", None)


def test_g14_after_a_restart_a_held_revision_still_gives_way_to_the_last_good(daemon: _Daemon) -> None:
    def guarded(revision: str) -> PassReport:
        if revision == "r2":
            raise RefusedError("too many", hint="allow it")
        return PassReport(Plan())

    daemon.converger.respond = guarded
    daemon.source.good, daemon.source.head = "r1", "r2"
    daemon.loop.step(["start"])
    assert daemon.converger.applied == ["r2", "r1"]
    assert daemon.source.good == "r1"


def test_g17_the_newest_of_many_revisions_is_applied_next(daemon: _Daemon) -> None:
    daemon.loop.step(["start"])
    for number in range(2, 52):
        daemon.source.head = f"r{number}"
        daemon.wakeups.post("files")
    daemon.clock.advance(1)
    daemon.loop.step(daemon.wakeups.wait(0))
    assert daemon.wakeups.wait(0) == set()
    assert daemon.converger.applied == ["r1", "r51"]


def test_g17_a_change_during_a_pass_is_applied_by_the_next(daemon: _Daemon) -> None:
    def edited_meanwhile(revision: str) -> PassReport:
        daemon.source.head = "r2"
        daemon.wakeups.post("files")
        return PassReport(Plan())

    daemon.converger.respond = edited_meanwhile
    daemon.loop.step(["start"])
    daemon.clock.advance(1)
    daemon.loop.step(daemon.wakeups.wait(0))
    assert daemon.converger.applied == ["r1", "r2"]


def test_g22_a_failing_resource_waits_by_itself(daemon: _Daemon) -> None:
    daemon.converger.respond = lambda _: PassReport(Plan(), (_failed(_WEB), _done(_DB)))
    daemon.loop.step(["start"])
    daemon.converger.respond = lambda _: PassReport(Plan(), ())
    daemon.loop.step(["containers"])
    assert daemon.converger.passes[-1][2] == {_WEB}
    failure = daemon.conditions.failures[0]
    assert (failure.address, failure.attempts, failure.message) == ("container/shop/web", 1, "no such image")
    assert failure.next_try == "2026-01-01T00:00:01Z"
    assert (daemon.conditions.result, daemon.sleep()) == ("failed", 1)
    assert daemon.converger.passes[-1][2] == set()
    assert (daemon.conditions.failures, daemon.conditions.result) == ((), "converged")


def test_g22_each_failure_doubles_the_wait(daemon: _Daemon) -> None:
    daemon.converger.respond = lambda _: PassReport(Plan(), (_failed(_WEB),))
    daemon.loop.step(["start"])
    assert [daemon.sleep() for _ in range(5)] == [1, 2, 4, 8, 16]


@pytest.mark.parametrize("cause", ["asked", "files"])
def test_a_person_or_a_new_revision_ends_the_backoff(daemon: _Daemon, cause: str) -> None:
    daemon.converger.respond = lambda _: PassReport(Plan(), (_failed(_WEB),))
    daemon.loop.step(["start"])
    daemon.loop.step(["containers"])
    daemon.source.head = "r2"
    daemon.loop.step([cause])  # type: ignore[list-item]
    daemon.loop.step(["containers"])
    assert daemon.conditions.failures[0].attempts <= 2
    assert daemon.converger.passes[-2][1] == (cause == "asked")


def test_a_pass_that_fails_as_a_whole_is_tried_again_later(daemon: _Daemon) -> None:
    def broken(revision: str) -> PassReport:
        raise HostError("cannot read state.db", hint="check the disk")

    daemon.converger.respond = broken
    daemon.loop.step(["start"])
    assert "state.db" in daemon.conditions.error
    assert daemon.source.good == ""
    daemon.loop.step(["containers"])
    assert len(daemon.converger.passes) == 1  # events do not undo the backoff
    assert [daemon.sleep() for _ in range(3)] == [1, 2, 4]
    daemon.converger.respond = lambda _: PassReport(Plan())
    daemon.sleep()
    assert (daemon.conditions.result, daemon.conditions.error) == ("converged", "")


def test_another_writer_is_waited_for_and_is_no_failure(daemon: _Daemon) -> None:
    def locked(revision: str) -> PassReport:
        raise LockedError("held by process 1", hint="wait")

    daemon.converger.respond = locked
    daemon.loop.step(["start"])
    daemon.converger.respond = lambda _: PassReport(Plan())
    assert daemon.sleep() == 2
    assert daemon.conditions.revision == "r1"
    assert daemon.conditions.result == "converged"


def test_what_cannot_be_planned_is_shown_with_its_reason(daemon: _Daemon) -> None:
    failed_job = Blocked(_DB, Reason("job-failed", "it exited with code 3"), "change its spec")
    later = Blocked(_WEB, Reason("exited", "it exited with code 1"), error=False)
    daemon.converger.respond = lambda _: PassReport(Plan(blocked=(failed_job, later)), next_try=1.0)
    daemon.loop.step(["start"])
    assert [(item.address, item.message) for item in daemon.conditions.failures] == [
        ("container/shop/db", "it exited with code 3")
    ]
    assert daemon.loop.delay() == 1


def test_what_was_left_to_run_is_run_at_once(daemon: _Daemon) -> None:
    daemon.converger.respond = lambda _: PassReport(Plan(), (_done(_WEB),), settled=False)
    daemon.loop.step(["start"])
    assert daemon.loop.delay() == 0
    assert daemon.conditions.result == "progressing"


def test_a_stop_ends_the_loop_after_the_pass_in_flight(daemon: _Daemon) -> None:
    stop = threading.Event()

    def stopped_meanwhile(revision: str) -> PassReport:
        stop.set()
        daemon.wakeups.post("stop")
        return PassReport(Plan(), (_done(_WEB),))

    daemon.converger.respond = stopped_meanwhile
    daemon.loop.run(stop)
    assert daemon.converger.applied == ["r1"]
    assert daemon.conditions.revision == "r1"
