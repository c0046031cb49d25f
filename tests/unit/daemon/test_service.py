"""The whole daemon on the engine in memory, with real signals, real files and a real repository."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from reconciler.clock import SystemClock
from reconciler.daemon.conditions import Board, Conditions, read_status
from reconciler.daemon.loop import Loop
from reconciler.daemon.notify import Notifier
from reconciler.daemon.passes import EngineConverger
from reconciler.daemon.service import serve
from reconciler.daemon.wakeups import Wakeups
from reconciler.daemon.watch import ContainerWatch, SpecWatch
from reconciler.engine.memory import MemoryEngine
from reconciler.engine.port import Event
from reconciler.model.address import Address
from reconciler.model.desired import Desired
from reconciler.model.observed import Interest, ObservedContainer
from reconciler.model.policy import PlanOptions
from reconciler.source.background import BackgroundSource
from reconciler.source.directory import DirectorySource
from reconciler.source.git import GitSource
from reconciler.source.port import Revision, Source
from reconciler.source.remote import parse_remote
from reconciler.spec.load import load_specs
from reconciler.testing.repositories import UpstreamRepository

_SOON = 15.0
_SPEC = """\
apiVersion: reconciler/v1
stack: shop
containers:
"""


def _spec(*names: str, command: str = "serve") -> str:
    return _SPEC + "".join(f"  {name}: {{image: 'registry.test/app:1', command: [{command}]}}\n" for name in names)


class _Patient:
    """The engine in memory never blocks in ``wait``; a real one does."""

    def __init__(self, engine: MemoryEngine) -> None:
        self._engine = engine

    def wait(self, timeout: float) -> Sequence[Event]:
        time.sleep(min(timeout, 0.01))
        return self._engine.wait(timeout)


class _Running:
    """A daemon in this, the main thread, while ``script`` runs in another and ends it with a signal."""

    def __init__(self, source: Source, run: Path, interval: float) -> None:
        self.engine = MemoryEngine(clock=SystemClock())
        self.engine.registry.publish("registry.test/app:1", ("layer", 10))
        self._source, self._run, self._interval = source, run, interval
        self._error: BaseException | None = None

    def during(self, script: Callable[[], None], end: signal.Signals = signal.SIGTERM) -> signal.Signals | None:
        clock, stop = SystemClock(), threading.Event()
        wakeups = Wakeups(clock, quiet=0.02)
        source: Source = self._source
        if not source.watched:
            source = BackgroundSource(source, lambda: wakeups.post("files"))
        specs = SpecWatch(source.watched, wakeups)
        converger = EngineConverger(self.engine, PlanOptions(), stop, lambda _: None, lambda *_: None)
        thread = threading.Thread(target=self._script, args=(script, end))
        with Board(self._run) as board:
            loop = Loop(
                source,
                _load,
                converger,
                wakeups=wakeups,
                clock=clock,
                show=board.show,
                notifier=Notifier(clock),
                interval=self._interval,
                rearm=specs.rearm,
            )
            thread.start()
            ended = serve(
                loop, wakeups=wakeups, stop=stop, specs=specs, containers=ContainerWatch(_Patient(self.engine), wakeups)
            )
        thread.join()
        if self._error:
            raise self._error
        return ended

    def _script(self, script: Callable[[], None], end: signal.Signals) -> None:
        try:
            script()
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            self._error = error
        os.kill(os.getpid(), end)

    def container(self, name: str) -> ObservedContainer | None:
        found = self.engine.observe(Interest()).resources.get(Address("container", f"shop/{name}"))
        assert found is None or isinstance(found, ObservedContainer)
        return found

    def alive(self, name: str) -> bool:
        found = self.container(name)
        return found is not None and found.alive

    def conditions(self) -> Conditions:
        status = read_status(self._run)
        return status.conditions if status else Conditions("")

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _SOON
        while not condition():
            assert time.monotonic() < deadline, f"not so within {_SOON} s; {read_status(self._run)}"
            time.sleep(0.01)


def _load(revision: Revision) -> Desired:
    return load_specs(revision.paths, recursive=revision.recursive, tree=revision.tree)


@pytest.fixture
def specs(tmp_path: Path) -> Path:
    directory = tmp_path / "specs"
    directory.mkdir()
    (directory / "shop.yaml").write_text(_spec("web"))
    return directory


def test_follows_a_directory_and_repairs_drift(specs: Path, tmp_path: Path) -> None:
    daemon = _Running(DirectorySource([specs]), tmp_path / "run", interval=600)

    def script() -> None:
        daemon.until(lambda: daemon.alive("web"))
        (specs / "shop.yaml").write_text(_spec("web", "db"))
        daemon.until(lambda: daemon.alive("db"))
        daemon.engine.containers.end(Address("container", "shop/web"), 137)
        daemon.until(lambda: daemon.alive("web"))
        (specs / "shop.yaml").write_text(_spec("web"))
        daemon.until(lambda: daemon.container("db") is None)
        daemon.until(lambda: daemon.conditions().result == "converged")

    assert daemon.during(script) == signal.SIGTERM
    assert daemon.alive("web")  # stopping the daemon stops no container
    assert read_status(tmp_path / "run") is None


@pytest.mark.parametrize("damage", ["parse", "vanish", "empty"])
def test_g12_g13_a_damaged_directory_removes_nothing(specs: Path, tmp_path: Path, damage: str) -> None:
    daemon = _Running(DirectorySource([specs]), tmp_path / "run", interval=0.1)

    def script() -> None:
        daemon.until(lambda: daemon.alive("web"))
        if damage == "parse":
            (specs / "other.yaml").write_text("apiVersion: [")
        elif damage == "vanish":
            specs.rename(tmp_path / "away")
        else:
            (specs / "shop.yaml").unlink()
        daemon.until(lambda: daemon.conditions().bad is not None)
        bad = daemon.conditions().bad
        assert bad is not None
        assert bad.refused == (damage == "empty")
        daemon.engine.containers.end(Address("container", "shop/web"), 1)
        daemon.until(lambda: daemon.alive("web"))

    daemon.during(script, signal.SIGINT)


def test_g22_what_fails_does_not_hold_up_the_rest(specs: Path, tmp_path: Path) -> None:
    (specs / "bad.yaml").write_text(_spec("bad").replace("app:1", "gone:1"))
    daemon = _Running(DirectorySource([specs]), tmp_path / "run", interval=600)

    def script() -> None:
        daemon.until(lambda: daemon.alive("web"))
        daemon.until(lambda: daemon.conditions().result == "failed")
        assert any("gone" in item.message or "bad" in item.address for item in daemon.conditions().failures)

    daemon.during(script)


def test_follows_a_repository_and_names_a_commit_that_does_not_parse(tmp_path: Path) -> None:
    upstream = UpstreamRepository(tmp_path / "upstream")
    upstream.commit({"d/shop.yaml": _spec("web")})
    source = GitSource(parse_remote(str(upstream.path), local=True), root=tmp_path / "root", ref="main", path="d")
    daemon = _Running(source, tmp_path / "run", interval=0.1)

    def script() -> None:
        daemon.until(lambda: daemon.alive("web"))
        first = daemon.container("web")
        good = upstream.commit({"d/shop.yaml": _spec("web", command="other")})
        daemon.until(lambda: daemon.alive("web") and daemon.container("web") != first)
        daemon.until(lambda: daemon.conditions().revision == good)
        second = daemon.container("web")
        broken = upstream.commit({"d/shop.yaml": "apiVersion: ["})
        daemon.until(lambda: daemon.conditions().bad is not None)
        bad = daemon.conditions().bad
        assert bad is not None
        assert bad.revision == broken
        assert "d/shop.yaml:2:1:" in bad.message
        assert daemon.conditions().revision == good
        assert daemon.container("web") == second
        bound = _spec("web", "db").replace("command:", "volumes: ['./conf:/etc/app:ro'], command:")
        mended = upstream.commit({"d/shop.yaml": bound, "d/conf/x": "1"})
        daemon.until(lambda: daemon.conditions().revision == mended and daemon.alive("db"))
        daemon.until(lambda: daemon.conditions().bad is None)
        conf = tmp_path / "root/trees" / upstream.git("rev-parse", "HEAD:d/conf")
        assert (conf / "x").read_text() == "1"

    daemon.during(script)


def test_sighup_asks_for_a_pass_and_a_failed_job_runs_once_more(specs: Path, tmp_path: Path) -> None:
    text = _spec("job").replace("command: [serve]", 'command: [serve], restart: "no"')
    (specs / "shop.yaml").write_text(text)
    daemon = _Running(DirectorySource([specs]), tmp_path / "run", interval=600)
    job = Address("container", "shop/job")
    daemon.engine.exit_codes[job] = 3

    def runs() -> int:
        found = daemon.container("job")
        return found.run if found else 0

    def script() -> None:
        daemon.until(lambda: any(item.address == str(job) for item in daemon.conditions().failures))
        assert runs() == 1
        os.kill(os.getpid(), signal.SIGHUP)
        daemon.until(lambda: runs() == 2)

    daemon.during(script)
