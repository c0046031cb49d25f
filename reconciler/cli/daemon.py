"""``reconciler daemon``: keeps this host as a directory or a git repository says."""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from reconciler.cli.context import Context
from reconciler.cli.specs import load_revision
from reconciler.errors import UsageError
from reconciler.log import Logger
from reconciler.model.policy import PlanOptions

if TYPE_CHECKING:
    from reconciler.apply.report import StepResult
    from reconciler.engine.embedded.engine import EmbeddedEngine
    from reconciler.engine.port import ProgressEvent
    from reconciler.model.desired import Desired
    from reconciler.plan.plan import Step
    from reconciler.source.port import Revision, Source

_log = Logger("daemon")
_ENDED = {signal.SIGTERM: 143, signal.SIGINT: 130}


def run(context: Context, options: argparse.Namespace) -> int:
    """Runs until SIGTERM (143) or SIGINT (130). Containers are left running."""
    from reconciler.clock import SystemClock
    from reconciler.daemon.conditions import Board
    from reconciler.daemon.housekeeping import Housekeeping
    from reconciler.daemon.loop import Loop
    from reconciler.daemon.notify import Notifier
    from reconciler.daemon.passes import EngineConverger
    from reconciler.daemon.service import serve
    from reconciler.daemon.wakeups import Wakeups
    from reconciler.daemon.watch import ContainerWatch, SpecWatch

    clock, stop = SystemClock(), threading.Event()
    wakeups = Wakeups(clock)
    source = _source(context, options, lambda: wakeups.post("files"))
    specs = SpecWatch(source.watched, wakeups, recursive=options.recursive)
    notifier = Notifier(clock, context.environment.get("NOTIFY_SOCKET", ""), _watchdog(context))

    def load(revision: Revision) -> Desired:
        return load_revision(context, options, source.identity, revision)

    def progress(_event: ProgressEvent) -> None:
        notifier.beat()

    with context.engine() as engine:
        with engine.turn(context.lock_timeout):
            run_directory = engine.run_directory
        housekeeping = Housekeeping(partial(_collect, engine, context.lock_timeout, stop), clock)
        converger = EngineConverger(
            engine,
            PlanOptions(max_deletes=options.max_deletes),
            stop,
            progress,
            _nothing,
            10.0 if context.lock_timeout is None else context.lock_timeout,
            settled=housekeeping.look,
        )
        with Board(run_directory) as board:
            loop = Loop(
                source,
                load,
                converger,
                wakeups=wakeups,
                clock=clock,
                show=board.show,
                notifier=notifier,
                interval=options.interval,
                rearm=specs.rearm,
            )
            ended = serve(loop, wakeups=wakeups, stop=stop, specs=specs, containers=ContainerWatch(engine, wakeups))
    return _ENDED.get(ended, 0) if ended is not None else 0


def _source(context: Context, options: argparse.Namespace, arrived: Callable[[], None]) -> Source:
    if not options.git:
        from reconciler.source.directory import DirectorySource

        return DirectorySource(options.paths or ["."], recursive=options.recursive)
    if options.paths:
        raise UsageError("give either PATH or --git, not both")
    from reconciler.source.background import BackgroundSource
    from reconciler.source.git import GitSource
    from reconciler.source.remote import parse_remote

    remote = parse_remote(options.git, local=True)
    source = GitSource(remote, root=context.root, ref=options.ref, path=options.path, recursive=options.recursive)
    return BackgroundSource(source, arrived)


def _watchdog(context: Context) -> float | None:
    text = context.environment.get("WATCHDOG_USEC", "")
    return int(text) / 1_000_000 if text.isdecimal() and int(text) else None


def _collect(engine: EmbeddedEngine, timeout: float | None, stop: threading.Event) -> tuple[int, int]:
    """Collects garbage if a stack says what to keep: who declares no retention runs ``gc`` when it suits them."""
    from reconciler.engine.embedded.upkeep.collect import Collection, collect

    if not any(address.kind == "retention" for address in engine.view().state.facts.all()):
        return 0, 0
    count = size = 0
    if listed := Collection(engine.view()).plan():
        for item in collect(engine, listed, timeout):
            count, size = count + 1, size + item.size
            if stop.is_set():
                break
    return count, size


def _nothing(_step: Step, _result: StepResult | None) -> None:
    pass
