"""``reconciler apply`` and ``destroy``: show, ask, carry out, report."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from reconciler.cli.context import Context
from reconciler.cli.plan import plan_options, render, warn, without_guards
from reconciler.cli.progress import display
from reconciler.cli.specs import load_desired
from reconciler.errors import InvalidError, StalePlanError, UsageError
from reconciler.model.policy import PlanOptions
from reconciler.printable import printable

if TYPE_CHECKING:
    from reconciler.apply.report import Report
    from reconciler.engine.embedded.engine import EmbeddedEngine
    from reconciler.model.address import Address
    from reconciler.model.desired import Desired, Pin
    from reconciler.model.observed import Observed
    from reconciler.plan.plan import Plan
    from reconciler.plan.saved import SavedPlan

_MAX_PLAN_FILE = 64 * 1024 * 1024


def run(context: Context, options: argparse.Namespace) -> int:
    """Exit codes of ``Report.exit_code``; 1 when the person says no, 6 for a saved plan that no longer fits."""
    saved = _saved_plan(options.paths)
    if saved is not None:
        return _apply_saved(context, options, saved)
    desired = load_desired(context, options)
    warn(context, desired)
    with context.engine() as engine:
        return _apply(context, options, engine, desired, plan_options(options))


def destroy(context: Context, options: argparse.Namespace) -> int:
    """Removes all that the named stacks own; the data of volumes stay unless ``--delete-volumes``.

    With ``--all`` the network of containers run by hand goes too, once none of them is left.
    """
    from reconciler.engine.embedded.containers.adhoc import drop_network
    from reconciler.model.desired import Desired

    if bool(options.stacks) == options.all:
        raise UsageError("destroy takes the names of stacks, or --all")
    with context.engine() as engine:
        known = engine.stacks()
        unknown = sorted(set(options.stacks) - known)
        if unknown:
            names = ", ".join(sorted(known)) or "none"
            raise UsageError(f"no stack {unknown[0]!a} on this host", hint=f"the stacks are: {names}")
        stacks = frozenset(options.stacks) or known
        wanted = without_guards(PlanOptions(asked=True, delete_volumes=options.delete_volumes))
        code = _apply(context, options, engine, Desired({}, stacks, source=""), wanted)
        if code == 0 and options.all and engine.view().state.identity.exists:
            with engine.turn(context.lock_timeout):
                drop_network(engine.writer())
        return code


def _apply(
    context: Context,
    options: argparse.Namespace,
    engine: EmbeddedEngine,
    desired: Desired,
    wanted: PlanOptions,
    pins: Mapping[Address, Pin] | None = None,
    saved: SavedPlan | None = None,
) -> int:
    from reconciler.plan.saved import same_work
    from reconciler.reconcile import is_recorded, look, prepare, remember

    desired = prepare(desired, engine, pins)

    def keep(observed: Observed, *, refused: bool = True) -> None:
        if saved is None:
            remember(desired, engine, wanted, observed, context.lock_timeout, refused=refused)

    observed, plan = look(desired, engine, wanted, sizes=True, refused=keep)
    if saved is not None:
        if saved.root_id != observed.root_id:
            raise StalePlanError("the saved plan was made for another root", hint="plan again with this --root")
        if differences := same_work(saved, plan):
            listed = "".join(f"\n  {line}" for line in differences[:20])
            raise StalePlanError(f"the saved plan no longer fits what is there:{listed}", hint="plan again")
    if options.output == "text":
        context.stdout.write(render(context, plan, "text"))
        context.stdout.flush()
    if plan.empty and (plan.errored or not desired.resources or is_recorded(engine, desired, observed)):
        keep(observed, refused=False)
        engine.keep_health(context.lock_timeout)
        _print_report(context, options, None, plan)
        return 1 if plan.errored else 0
    if not plan.empty and saved is None and not options.yes and not _agreed(context, options, plan):
        return 1
    received: list[int] = []
    report = _converge(context, engine, desired, wanted, plan, received)
    _print_report(context, options, report, plan)
    return 128 + received[0] if report.interrupted and received else report.exit_code


def _apply_saved(context: Context, options: argparse.Namespace, saved: SavedPlan) -> int:
    sources = saved.sources
    again = argparse.Namespace(**{**vars(options), **{key: sources.get(key, []) for key in _SOURCE_KEYS}})
    again.recursive = bool(sources.get("recursive"))
    desired = load_desired(context, again)
    with context.engine() as engine:
        return _apply(context, options, engine, desired, saved.options, saved.pins, saved)


_SOURCE_KEYS = ("paths", "label", "var", "env", "env_file")


def _converge(
    context: Context,
    engine: EmbeddedEngine,
    desired: Desired,
    wanted: PlanOptions,
    plan: Plan,
    received: list[int],
) -> Report:
    from reconciler.reconcile import Session

    stop = threading.Event()
    with display(context) as shown, _stopping(context, stop, received, shown.signalled):
        session = Session(
            desired,
            engine,
            wanted,
            shown.progress,
            shown.step,
            stop,
            context.lock_timeout,
            approved=frozenset(step.id for step in plan.steps),
        )
        return session.converge(plan)


@contextmanager
def _stopping(
    context: Context, stop: threading.Event, received: list[int], say: Callable[[str], None]
) -> Iterator[None]:
    """The first SIGINT or SIGTERM lets what runs end and begins nothing new, and says so; the second ends the program.

    At once, as a kill would: waiting for the threads is just what the second signal is there to cut short, and what
    is on disk is made for it.
    """

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  the interpreter's signature
        if received:
            if context.stderr.isatty():
                os.write(2, _SHOW_CURSOR)
            os._exit(128 + number)
        received.append(number)
        stop.set()
        say("stopping: waiting for what runs; the next apply goes on from there (again to stop at once)")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


# The live display hides it (ECMA-48, DECTCEM).
_SHOW_CURSOR = b"\x1b[?25h\n"


def _agreed(context: Context, options: argparse.Namespace, plan: Plan) -> bool:
    if not context.interactive:
        raise UsageError(
            "there is no terminal to ask on", hint="use --yes, or apply a plan saved with `plan --out FILE`"
        )
    if options.output != "text":
        context.stderr.write(render(context, plan, "text"))
    context.stderr.write("Apply this? Only 'yes' is a yes: ")
    context.stderr.flush()
    return sys.stdin.readline().strip() == "yes"


def _saved_plan(paths: list[str]) -> SavedPlan | None:
    """The saved plan that the only argument is, or None when it is not one."""
    if len(paths) != 1 or not Path(paths[0]).is_file():
        return None
    with Path(paths[0]).open("rb") as file:
        data = file.read(_MAX_PLAN_FILE)
    if not data.lstrip().startswith(b"{") or b'"reconciler/plan"' not in data[:200]:
        return None
    from reconciler.plan.saved import load

    try:
        content: Any = json.loads(data)
    except ValueError as error:
        raise InvalidError(f"{paths[0]}: the saved plan is damaged: {error}", hint="plan again") from None
    return load(content)


def _print_report(context: Context, options: argparse.Namespace, report: Report | None, plan: Plan) -> None:
    if options.output == "json":
        from reconciler.cli.report import document

        context.print(json.dumps(document(plan, report), indent=2))
        return
    if report is None:
        return
    for item in report.last.blocked:
        context.note(printable(f"{item.address}: {item.reason.message}" + (f" ({item.hint})" if item.hint else "")))
    generation = f", generation {report.generation}" if report.generation is not None else ""
    done = _count(len(report.applied), "step")
    if report.error is not None:
        context.note(printable(f"error: {report.error}" + (f" ({report.error.hint})" if report.error.hint else "")))
    from reconciler.cli.report import moved_words

    moved = moved_words(report.moved)
    moved = f"; {moved}" if moved else ""
    if report.converged:
        context.print(f"Applied: {done}{generation}{moved}.")
    elif report.interrupted:
        context.print(f"Interrupted after {done}{moved}; the next apply goes on from there.")
    else:
        left = _count(len(report.last.changes), "change")
        blocked = _count(sum(item.error for item in report.last.blocked), "resource")
        failed = len(report.failures)
        context.print(f"Not converged: {done} done, {failed} failed; {left} left, {blocked} blocked{moved}.")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + "s" * (number != 1)
