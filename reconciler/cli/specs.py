"""From the arguments of a command to ``Desired``."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.cli.context import Context
from reconciler.errors import UsageError

if TYPE_CHECKING:
    from reconciler.model.desired import Desired
    from reconciler.source.port import Revision
    from reconciler.spec.stacks import Document
    from reconciler.spec.variables import Variable


def load_desired(
    context: Context,
    options: argparse.Namespace,
    *,
    secrets: bool = True,
    documents: list[Document] | None = None,
) -> Desired:
    """The specs that a command names, resolved for this host. Raises ``SpecError`` with every problem found.

    ``documents`` receives them as they were read.
    """
    from reconciler.source.directory import DirectorySource

    source = DirectorySource(options.paths or ["."], recursive=options.recursive)
    return load_revision(context, options, source.identity, source.read(), secrets=secrets, documents=documents)


def load_revision(
    context: Context,
    options: argparse.Namespace,
    source: str,
    revision: Revision,
    *,
    secrets: bool = True,
    documents: list[Document] | None = None,
) -> Desired:
    """One revision of a source, resolved for this host."""
    from reconciler.spec.load import load_specs

    desired = load_specs(
        revision.paths,
        recursive=revision.recursive,
        labels=host_labels(context, options.label),
        variables=variables(options.env_file, options.var),
        environment=allowed_environment(context, options.env),
        tree=revision.tree,
        secrets=secrets,
        documents=documents,
    )
    return dataclasses.replace(desired, source=source, revision=revision.id)


def host_labels(context: Context, given: Sequence[str]) -> dict[str, str]:
    """This host's labels: ROOT/host.yaml, overridden by ``--label``."""
    from reconciler.engine.embedded.host import read_host_settings

    return {**read_host_settings(context.root).labels, **dict(_pair(text, "--label") for text in given)}


def variables(files: Sequence[str], given: Sequence[str]) -> Mapping[str, Variable | str]:
    """What ``--env-file`` and ``--var`` say; ``--var`` wins."""
    from reconciler.spec.dotenv import MAX_BYTES, parse_dotenv
    from reconciler.spec.errors import Problems

    problems = Problems()
    found: dict[str, Variable | str] = {}
    for name in files:
        try:
            with Path(name).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise UsageError(f"cannot read --env-file {name}: {error.strerror}") from None
        if len(data) > MAX_BYTES:
            raise UsageError(f"--env-file {name} has more than {MAX_BYTES} bytes")
        found.update(parse_dotenv(name, data, problems))
    problems.raise_if_any()
    found.update(_pair(text, "--var") for text in given)
    return found


def allowed_environment(context: Context, names: Sequence[str]) -> dict[str, str]:
    """The variables of the process that ``--env`` names. Raises ``UsageError`` for one that is not set."""
    missing = [name for name in names if name not in context.environment]
    if missing:
        raise UsageError(f"--env {missing[0]}: the variable is not set")
    return {name: context.environment[name] for name in names}


def _pair(text: str, flag: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"{flag} {text[:100]!a} is not NAME=VALUE")
    return name, value
