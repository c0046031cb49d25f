"""``reconciler container exec``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from reconciler.cli.container_request import variables
from reconciler.cli.container_run import exit_codes
from reconciler.cli.context import Context
from reconciler.engine.embedded.containers.rows import find_container
from reconciler.engine.embedded.containers.spec import StartSpec
from reconciler.engine.embedded.containers.state import state_of
from reconciler.engine.embedded.state import open_reader
from reconciler.errors import RuntimeFailure, UsageError
from reconciler.runtime.process import assemble_environment
from reconciler.runtime.runtime import Runtime
from reconciler.runtime.spec import ProcessSpec


def run(context: Context, options: argparse.Namespace) -> int:
    """The program's own exit code; 126 when the container does not run, 127 when there is no such program."""
    if not options.command:
        raise UsageError("container exec needs a program to run")
    if options.tty and options.interactive and not sys.stdin.isatty():
        raise UsageError("-t needs a terminal on standard input", hint="leave out -t")
    state = open_reader(context.root)
    try:
        row = find_container(state.containers.all(), options.name)
    finally:
        state.close()
    runtime = Runtime(state.run)
    with exit_codes():
        if not state_of(state, runtime, row).running:
            raise RuntimeFailure(
                f"container {row.shown} is not running",
                hint=f"start it first: reconciler container start {row.shown}",
                code=126,
            )
        process = _process(state.container_dir(row.id), options, context)
        context.stdout.flush()
        stdin = 0 if options.interactive or options.tty else None
        return runtime.exec(row.id, process, stdin=stdin)


def _process(directory: Path, options: argparse.Namespace, context: Context) -> ProcessSpec:
    """As the container's own process, but for what was asked for."""
    own = StartSpec.from_json((directory / "spec.json").read_text()).process
    env, _ = assemble_environment(own.env, variables(options.env, context.environment))
    return ProcessSpec(
        args=tuple(options.command),
        env=env,
        cwd=options.workdir or own.cwd,
        user=options.user or own.user,
        terminal=options.tty,
    )
