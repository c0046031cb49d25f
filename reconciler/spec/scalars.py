"""What scalars mean: the YAML 1.2 core schema, with the source text of numbers kept.

``no``, ``on`` and dates are text. ``true``, ``null`` and numbers have their types, but a number stays the text it
was written as until a field that wants a number reads it, so ``1.10`` or ``0755`` is never changed silently.
"""

from __future__ import annotations

import re
from dataclasses import field
from typing import Any

from reconciler.model.desired import Location
from reconciler.spec.errors import Problems
from reconciler.spec.nodes import Listing, Mapping, Node, Scalar
from reconciler.spec.variables import Scope, expand, undefined
from reconciler.value import dataclass

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_AMBIGUOUS = frozenset(form for word in ("yes", "no", "on", "off") for form in (word, word.title(), word.upper()))
_NUMBER = re.compile(
    r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|0o[0-7]+|0x[0-9a-fA-F]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    re.ASCII,
)


class Loose(str):
    """Unquoted text whose type the field decides: a number as written, or what a variable expanded to."""

    __slots__ = ()


class Ambiguous(Loose):
    """An unquoted yes, no, on or off: text here, a boolean to other readers of YAML."""

    __slots__ = ()


class Tainted(Loose):
    """Text that holds a sensitive variable's value. Only fields that can keep a secret accept it.

    The first ``clean`` characters are free of the secret.
    """

    __slots__ = ("clean",)
    clean: int

    def __new__(cls, text: str, clean: int = 0) -> Tainted:
        self = super().__new__(cls, text)
        self.clean = clean
        return self

    def __repr__(self) -> str:
        return "(sensitive)"


Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Values:
    """Nodes of one file as plain values. ``unknown`` collects the paths of those whose variables cannot be expanded.

    With ``all_variables`` False some could not be read, so one that is not defined is unknown but no problem.
    """

    file: str
    scope: Scope
    problems: Problems
    all_variables: bool = True
    unknown: set[Path] = field(default_factory=set)

    def of(self, node: Node, path: Path = ()) -> Any:
        """The node as plain Python values with variables expanded: dict, list, str, bool, None, Loose, Tainted."""
        if isinstance(node, Mapping):
            return {key: self.of(value, (*path, key)) for key, (_, value) in node.pairs.items()}
        if isinstance(node, Listing):
            return [self.of(item, (*path, index)) for index, item in enumerate(node.items)]
        if "$" in node.text:
            return self._expanded(node, path)
        return _plain(node.text) if node.plain else node.text

    def _expanded(self, node: Scalar, path: Path) -> str:
        result = expand(node.text, self.scope)
        problems = result.problems + [undefined(name) for name in result.undefined if self.all_variables]
        for message, hint in problems:
            self.problems.add(Location(self.file, node.line, node.column), message, hint)
        if result.problems or result.undefined:
            self.unknown.add(path)
        if result.sensitive:
            return Tainted(result.text, result.clean)
        return Loose(result.text) if node.plain else result.text


def _plain(text: str) -> Any:
    if text in _NULL:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if text in _AMBIGUOUS:
        return Ambiguous(text)
    # No number is longer; a longer run of digits is text, and no field takes it.
    return Loose(text) if text[0] in "+-.0123456789" and len(text) <= 400 and _NUMBER.fullmatch(text) else text
