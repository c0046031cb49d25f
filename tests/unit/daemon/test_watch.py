"""The threads that wake the loop, on real files."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from reconciler.clock import SystemClock
from reconciler.daemon.wakeups import Wakeups
from reconciler.daemon.watch import ContainerWatch, SpecWatch
from reconciler.engine.port import Event
from reconciler.errors import HostError
from reconciler.source.directory import DirectorySource

_SOON = 10.0


@pytest.fixture
def wakeups() -> Wakeups:
    return Wakeups(SystemClock(), quiet=0.02)


@pytest.fixture
def specs(tmp_path: Path, wakeups: Wakeups) -> Iterator[Path]:
    directory = tmp_path / "specs"
    directory.mkdir()
    (directory / "a.yaml").write_text("1")
    with SpecWatch([directory], wakeups):
        yield directory


def test_edits_of_every_kind_wake(specs: Path, wakeups: Wakeups) -> None:
    (specs / "a.yaml").write_text("2")
    assert wakeups.wait(_SOON) == {"files"}
    (specs / "new").write_text("3")
    (specs / "new").rename(specs / "a.yaml")
    assert wakeups.wait(_SOON) == {"files"}
    (specs / "a.yaml").unlink()
    assert wakeups.wait(_SOON) == {"files"}


def test_reading_and_editors_leftovers_do_not_wake(specs: Path, wakeups: Wakeups) -> None:
    DirectorySource([specs]).read()
    (specs / ".a.yaml.swp").write_text("x")
    (specs / "a.yaml~").write_text("x")
    assert wakeups.wait(0.3) == set()
    (specs / "b.yaml").write_text("x")
    assert wakeups.wait(_SOON) == {"files"}


def test_a_switched_link_of_a_mounted_configmap_wakes(specs: Path, wakeups: Wakeups) -> None:
    (specs / "..next").symlink_to("..v2")
    (specs / "..next").rename(specs / "..data")
    assert wakeups.wait(_SOON) == {"files"}


def test_a_directory_that_was_replaced_is_watched_again(tmp_path: Path, wakeups: Wakeups) -> None:
    directory = tmp_path / "specs"
    directory.mkdir()
    with SpecWatch([directory], wakeups) as watch:
        directory.rename(tmp_path / "old")
        watch.rearm()
        directory.mkdir()
        watch.rearm()
        while wakeups.wait(0.1):
            pass
        (directory / "a.yaml").write_text("1")
        assert wakeups.wait(_SOON) == {"files"}


def test_a_file_is_watched_through_its_directory(tmp_path: Path, wakeups: Wakeups) -> None:
    (tmp_path / "a.yaml").write_text("1")
    with SpecWatch([tmp_path / "a.yaml"], wakeups):
        (tmp_path / "next").write_text("2")
        (tmp_path / "next").replace(tmp_path / "a.yaml")
        assert wakeups.wait(_SOON) == {"files"}


def test_a_source_without_paths_starts_nothing(wakeups: Wakeups) -> None:
    before = threading.active_count()
    with SpecWatch([], wakeups) as watch:
        watch.rearm()
        assert threading.active_count() == before


class _Engine:
    """Fails once, then tells of one event, then is silent."""

    def __init__(self) -> None:
        self.calls = 0
        self.silent = threading.Event()

    def wait(self, timeout: float) -> Sequence[Event]:
        self.calls += 1
        if self.calls == 1:
            raise HostError("no inotify", hint="none")
        if self.calls == 2:
            return [Event(None, "exited")]
        self.silent.wait(0.01)
        return []


def test_a_container_that_dies_wakes_and_an_error_does_not_end_the_watch(
    wakeups: Wakeups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.daemon.watch._PAUSE_SECONDS", 0.01)
    with ContainerWatch(_Engine(), wakeups):
        assert wakeups.wait(_SOON) == {"containers"}


def test_an_end_that_stays_unrecorded_is_told_again_but_not_without_pause(
    wakeups: Wakeups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.daemon.watch._REPEAT_SECONDS", 0.05)
    calls: list[float] = []
    enough = threading.Event()

    class Ended:
        def wait(self, timeout: float) -> Sequence[Event]:
            calls.append(time.monotonic())
            if len(calls) == 4:
                enough.set()
            return [Event(None, "exited")]

    with ContainerWatch(Ended(), wakeups):
        assert enough.wait(_SOON)
    assert calls[3] - calls[0] >= 3 * 0.05
