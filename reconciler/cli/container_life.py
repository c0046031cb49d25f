"""``reconciler container stop``, ``kill``, ``wait`` and ``rm``."""

from __future__ import annotations

import argparse

from reconciler.cli.context import Context
from reconciler.engine.embedded.containers.rows import ContainerRow, find_container
from reconciler.engine.embedded.state import State
from reconciler.errors import ConflictError
from reconciler.linux.processes import signal_number


def stop(context: Context, options: argparse.Namespace) -> int:
    """Asks each container to end, kills it when its time is up, and prints its name."""
    with context.engine() as engine, engine.turn(context.lock_timeout):
        machinery = engine.writer()
        for row in _found(machinery.state, options.names):
            machinery.containers.stop(row, options.timeout)
            context.print(row.shown)
            if row.address is not None:
                context.note(
                    f"{row.shown} belongs to stack {row.address.stack}: the next apply or the daemon starts it again"
                    " (write `state: stopped` in its spec to keep it stopped)"
                )
    return 0


def kill(context: Context, options: argparse.Namespace) -> int:
    """Sends each container a signal. Waits for nothing."""
    number = signal_number(options.signal)
    with context.engine() as engine:
        view = engine.view()
        for row in _found(view.state, options.names):
            if not view.runtime.kill(row.id, number):
                raise ConflictError(f"container {row.shown} is not running", hint=f"container start {row.shown}")
            context.print(row.shown)
    return 0


def wait(context: Context, options: argparse.Namespace) -> int:
    """Prints the exit code of each container once it has one, or ``unknown``."""
    with context.engine() as engine:
        view = engine.view()
        for row in _found(view.state, options.names):
            if view.containers.state_of(row).running:
                view.runtime.wait(row.id)
            code = view.containers.state_of(view.state.containers.get(row.id)).exit_code
            context.print("unknown" if code is None else str(code))
    return 0


def remove(context: Context, options: argparse.Namespace) -> int:
    """Removes containers with their writable layers and anonymous volumes, and prints their names.

    With ``--force`` those that run are killed: who forces does not wait for a stop's grace period.
    """
    with context.engine() as engine, engine.turn(context.lock_timeout):
        machinery = engine.writer()
        for row in _found(machinery.state, options.names):
            if options.force:
                machinery.runtime.kill(row.id)
            machinery.containers.remove(row, force=options.force)
            context.print(row.shown)
            if row.address is not None:
                context.note(
                    f"{row.shown} belongs to stack {row.address.stack}: the next apply or the daemon makes it again"
                    " (delete it from the specs to be rid of it)"
                )
    return 0


def _found(state: State, names: list[str]) -> list[ContainerRow]:
    """Each container once; all names must be right before anything is done."""
    rows = state.containers.all()
    return list({row.id: row for row in (find_container(rows, name) for name in names)}.values())
