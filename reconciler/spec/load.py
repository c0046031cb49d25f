"""Spec files to ``Desired``: the whole way, with every problem of a stage reported at once.

Importing this module is cheap; pydantic and the models load when a spec is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from reconciler.errors import NotFoundError, ReconcilerError
from reconciler.model.desired import Desired, Location
from reconciler.spec.dotenv import MAX_BYTES, parse_dotenv
from reconciler.spec.errors import Problem, Problems, SpecError, shown
from reconciler.spec.nodes import Mapping as MappingNode
from reconciler.spec.nodes import Node, describe
from reconciler.spec.reader import read_documents
from reconciler.spec.tree import LocalTree, SpecFile, Tree
from reconciler.spec.variables import Scope, Variable

if TYPE_CHECKING:
    from reconciler.spec.stacks import Document


def load_specs(
    paths: Sequence[str],
    *,
    recursive: bool = False,
    labels: Mapping[str, str] | None = None,
    variables: Mapping[str, Variable | str] | None = None,
    environment: Mapping[str, str] | None = None,
    tree: Tree | None = None,
    secrets: bool = True,
) -> Desired:
    """Reads the specs that ``paths`` name and resolves them.

    ``labels`` are the host's; ``variables`` those of ``--var`` and ``--env-file``; ``environment`` the variables of
    the process that ``--env`` named (they are sensitive). A ``.env`` beside a spec file comes last. ``tree`` is where
    files are read from, this host's when left out. With ``secrets`` False, secrets are checked but not read.

    ``Desired.source``, ``revision`` and ``pins`` are left for the caller. Raises ``SpecError`` with every problem
    that could be found, and writes nothing.
    """
    from reconciler.spec.build import Build
    from reconciler.spec.resolve import resolve

    problems = Problems()
    tree = tree or LocalTree()
    given = _given(variables or {}, environment or {})
    try:
        files = tree.find(paths, recursive)
    except ReconcilerError as error:
        raise SpecError((Problem(None, str(error), error.hint),)) from None
    documents = [document for file in files for document in _documents(file, tree, given, problems)]
    problems.raise_if_any()
    build = Build(tree, environment or {}, secrets, problems)
    return resolve(build, documents, labels or {})


def _given(variables: Mapping[str, Variable | str], environment: Mapping[str, str]) -> Scope:
    scope = {name: Variable(value, sensitive=True) for name, value in environment.items()}
    for name, value in variables.items():
        scope[name] = Variable(value) if isinstance(value, str) else value
    return scope


def _documents(file: SpecFile, tree: Tree, given: Scope, problems: Problems) -> list[Document]:
    roots = read_documents(file.path, file.data, problems)
    scope = {**_dotenv(file, tree, problems), **given} if roots else given
    found = (_document(file, root, scope, problems) for root in roots)
    return [document for document in found if document is not None]


def _dotenv(file: SpecFile, tree: Tree, problems: Problems) -> Scope:
    try:
        data = tree.read(file.directory, ".env", MAX_BYTES)
    except NotFoundError:
        return {}
    except ReconcilerError as error:
        problems.add(Location(file.path, 1, 1), str(error), error.hint)
        return {}
    path = ".env" if file.directory in (".", "") else f"{file.directory}/.env"
    return {name: Variable(value) for name, value in parse_dotenv(path, data, problems).items()}


def _document(file: SpecFile, root: Node, scope: Scope, problems: Problems) -> Document | None:
    """One document, validated as what it says it is."""
    from reconciler.spec import check, scalars, schema
    from reconciler.spec.stacks import Document

    at = Location(file.path, root.line, root.column)
    if not isinstance(root, MappingNode):
        problems.add(at, f"a spec is a mapping, found {describe(root)}", "begin with apiVersion: reconciler/v1")
        return None
    known = MappingNode(root.line, root.column, {k: v for k, v in root.pairs.items() if not k.startswith("x-")})
    values = scalars.values(known, file.path, scope, problems)
    if "apiVersion" in root.pairs:
        spec = check.validate(schema.Spec, values, root, file.path, problems)
        return Document(file, root, spec, spec.stack, scope) if spec else None
    if "services" in root.pairs:
        compose = check.validate(schema.ComposeFile, values, root, file.path, problems)
        return Document(file, root, compose, compose.name or _stack_name(file), scope) if compose else None
    problems.add(at, "apiVersion is missing", "add apiVersion: reconciler/v1; a compose file has services:")
    return None


def _stack_name(file: SpecFile) -> str:
    """A directory's name as Compose makes a project's name of it."""
    name = re.sub(r"[^a-z0-9_-]", "", file.directory_name.lower()).lstrip("_-")[:63]
    if not name:
        raise SpecError(
            (
                Problem(
                    Location(file.path, 1, 1), f"no stack name in {shown(file.directory_name)}", "add name: to the file"
                ),
            )
        )
    return name
