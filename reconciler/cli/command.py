"""What every part of the argument grammar is made of: a parser, and commands that are imported when they run."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from typing import Any, NoReturn

from reconciler.cli.context import Context
from reconciler.errors import UsageError

Command = Callable[[Context, argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """argparse, but a usage error is ours: it exits 64, never 2, which means "changes" for a plan.

    Options are written out: ``--delete`` must not come to mean ``--delete-volumes``.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **arguments})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Leaves nothing over: a command tells of what it does not know itself, with its own usage."""
        found, left = super().parse_known_args(args, namespace)
        if left:
            self.error(f"unrecognized arguments: {' '.join(left)}")
        return found, left

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """argparse's own message lists every command, in quotes and without a suggestion."""
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            raise UsageError(f"{self.prog} has no command {str(value)[:200]!a}", hint=_meant(self.prog, value, action))
        super()._check_value(action, value)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}", hint=" ".join(self.format_usage().split()))


def _meant(program: str, wanted: str, known: argparse._SubParsersAction[Any]) -> str:
    from reconciler.spec.nearest import nearest

    other = _OTHER_WORDS.get(wanted, wanted)
    if " " not in program:
        other = next((f"{kind} {other}" for kind, verbs in _BELOW.items() if wanted in verbs), other)
    if other != wanted and other.split()[0] in known.choices:
        return f"write {program} {other}"
    if wanted == "prune":
        return "reconciler gc frees what nothing needs"
    near = nearest(wanted, known.choices)
    return f"did you mean {near}?" if near else f"there are: {', '.join(known.choices)}"


# What other programs call it, and what they have without the name of its kind before it.
_OTHER_WORDS = {
    **dict.fromkeys(("images", "list", "ps"), "ls"),
    **dict.fromkeys(("rmi", "remove", "delete"), "rm"),
    "up": "apply",
    "down": "destroy",
}
_BELOW = {
    "image": ("images", "pull", "push", "tag", "save", "load", "import", "rmi"),
    "container": ("ps", "run", "exec", "logs", "start", "stop", "kill", "rm", "commit", "wait"),
}


def command(module: str, function: str = "run") -> Command:
    """A command that imports ``reconciler.cli.<module>`` when it is called."""

    def call(context: Context, options: argparse.Namespace) -> int:
        target: Command = getattr(importlib.import_module(f"reconciler.cli.{module}"), function)
        return target(context, options)

    return call
