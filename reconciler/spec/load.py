"""Spec files to ``Desired``: the whole way, with every problem reported at once.

What is wrong is left out and the rest goes on through every stage; its names stay known, so that no problem is only
another's consequence.

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
from reconciler.spec.nodes import Node, Scalar, describe
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
    documents: list[Document] | None = None,
) -> Desired:
    """Reads the specs that ``paths`` name and resolves them.

    ``labels`` are the host's; ``variables`` those of ``--var`` and ``--env-file``; ``environment`` the variables of
    the process that ``--env`` named (they are sensitive). A ``.env`` beside a spec file comes last. ``tree`` is where
    files are read from, this host's when left out. With ``secrets`` False, secrets are checked but not read.
    ``documents`` receives all that was read, for who wants to know where something is written.

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
    read = [document for file in files for document in _documents(file, tree, given, problems)]
    if documents is not None:
        documents += read
    build = Build(tree, environment or {}, secrets, problems)
    return resolve(build, read, labels or {})


def _given(variables: Mapping[str, Variable | str], environment: Mapping[str, str]) -> Scope:
    scope = {name: Variable(value, sensitive=True) for name, value in environment.items()}
    for name, value in variables.items():
        scope[name] = Variable(value) if isinstance(value, str) else value
    return scope


def _documents(file: SpecFile, tree: Tree, given: Scope, problems: Problems) -> list[Document]:
    """The documents of a file. One that cannot be used is left out, and with it names that others may need."""
    roots = read_documents(file.path, file.data, problems)
    beside = Problems()
    scope = {**_dotenv(file, tree, beside), **given} if roots else given
    problems.extend(beside)
    found = [_document(file, root, scope, problems, all_variables=not beside) for root in roots]
    problems.names_known = problems.names_known and None not in found
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


def _document(file: SpecFile, root: Node, scope: Scope, problems: Problems, *, all_variables: bool) -> Document | None:
    """One document, validated as what it says it is; None if it cannot be said what it belongs to."""
    from reconciler.spec import schema
    from reconciler.spec.check import validate
    from reconciler.spec.scalars import Values
    from reconciler.spec.stacks import Document

    at = Location(file.path, root.line, root.column)
    if not isinstance(root, MappingNode):
        problems.add(at, f"a spec is a mapping, found {describe(root)}", "begin with apiVersion: reconciler/v1")
        return None
    known = MappingNode(root.line, root.column, {k: v for k, v in root.pairs.items() if not k.startswith("x-")})
    kind: type[schema.Spec | schema.ComposeFile]
    if "apiVersion" in root.pairs:
        version = root.pairs["apiVersion"][1]
        if isinstance(version, Scalar) and version.text != schema.VERSION:
            at = Location(file.path, version.line, version.column)
            hint = "keep the files of other programs out of the directories of specs"
            problems.add(at, f"apiVersion is {shown(version.text, 40)}, not {schema.VERSION}", hint)
            return None
        kind = schema.Spec
    elif "services" in root.pairs:
        kind = schema.ComposeFile
    else:
        hint = "add apiVersion: reconciler/v1; a compose file has services:; other files go into another directory"
        problems.add(at, "apiVersion is missing", hint)
        return None
    values = Values(file.path, scope, problems, all_variables)
    model, faults = validate(kind, values.of(known), values.unknown, root, file.path, problems)
    if model is None or not faults.isdisjoint({("hosts",), ("name",)}):
        return None
    if any(len(path) == 1 and path[0] not in schema.NAMELESS for path in faults):
        problems.names_known = False
    stack = model.stack if isinstance(model, schema.Spec) else model.name or _stack_name(file)
    if not stack:
        problems.add(at, f"no stack name in {shown(file.directory_name)}", "add name: to the file")
        return None
    return Document(file, root, model, stack, faults)


def _stack_name(file: SpecFile) -> str:
    """A directory's name as Compose makes a project's name of it; "" if nothing of it can stay."""
    return re.sub(r"[^a-z0-9_-]", "", file.directory_name.lower()).lstrip("_-")[:63]
