"""``reconciler plan``: what would change, why, and at what cost. Changes nothing."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reconciler.cli.context import Context
from reconciler.cli.specs import load_desired
from reconciler.errors import HostError, RefusedError
from reconciler.model.policy import PlanOptions
from reconciler.printable import printable

if TYPE_CHECKING:
    from reconciler.model.desired import Desired
    from reconciler.plan.plan import Plan

CHANGES = 2


def run(context: Context, options: argparse.Namespace) -> int:
    """Exits 0, or 1 when the plan holds an error; with ``--detailed-exitcode`` 2 when there are changes."""
    from reconciler.plan import saved
    from reconciler.reconcile import look, prepare

    desired = load_desired(context, options)
    warn(context, desired)
    wanted = plan_options(options)
    with context.engine() as engine:
        desired = prepare(desired, engine)
        try:
            observed, plan = look(desired, engine, wanted, sizes=True)
        except RefusedError:
            # What is refused is what somebody has to look at.
            _, plan = look(desired, engine, without_guards(wanted), sizes=True)
            context.stdout.write(render(context, plan, options.output))
            raise
    if options.out:
        document = saved.save(plan, desired, observed, sources=sources_of(options), options=wanted)
        write_private(Path(options.out), json.dumps(document, indent=1) + "\n")
        context.note(f"Saved to {options.out}; carry it out with: reconciler apply {options.out}")
    context.stdout.write(render(context, plan, options.output))
    if plan.errored:
        return 1
    return CHANGES if options.detailed_exitcode and not plan.empty else 0


def render(context: Context, plan: Plan, form: str) -> str:
    """The plan in one of its forms, ending in a newline."""
    if form == "json":
        from reconciler.plan.json import document

        return json.dumps(document(plan), indent=2) + "\n"
    if form == "markdown":
        from reconciler.plan import markdown

        return markdown.render(plan)
    from reconciler.plan import text

    return text.render(plan, colour=context.color)


def warn(context: Context, desired: Desired) -> None:
    """Prints the warnings that came with the specs."""
    for warning in desired.warnings:
        context.note(f"warning: {printable(warning)}")


def without_guards(options: PlanOptions) -> PlanOptions:
    """The same options, with every deletion allowed."""
    return dataclasses.replace(options, max_deletes=sys.maxsize, allow_empty=True)


def plan_options(options: argparse.Namespace) -> PlanOptions:
    """What a person who plans or applies wants: failed jobs run once more."""
    return PlanOptions(
        asked=True,
        max_deletes=options.max_deletes,
        allow_empty=options.allow_empty,
        delete_volumes=options.delete_volumes,
    )


def sources_of(options: argparse.Namespace) -> dict[str, Any]:
    """Where the specs of a saved plan are read from again: names only, never the values of variables from outside."""
    return {
        "paths": [str(Path(path).resolve()) for path in options.paths or ["."]],
        "recursive": options.recursive,
        "label": options.label,
        "var": options.var,
        "env": options.env,
        "env_file": [str(Path(path).resolve()) for path in options.env_file],
    }


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner may read, replacing what was there. Raises ``HostError``."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise HostError(f"cannot write {path}: {error.strerror}", hint="choose another file") from None
