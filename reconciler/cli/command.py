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

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}", hint=" ".join(self.format_usage().split()))


def command(module: str, function: str = "run") -> Command:
    """A command that imports ``reconciler.cli.<module>`` when it is called."""

    def call(context: Context, options: argparse.Namespace) -> int:
        target: Command = getattr(importlib.import_module(f"reconciler.cli.{module}"), function)
        return target(context, options)

    return call
