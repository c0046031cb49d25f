"""What scalars mean: the YAML 1.2 core schema, with the source text of numbers kept.

``no``, ``on`` and dates are text. ``true``, ``null`` and numbers have their types, but a number stays the text it
was written as until a field that wants a number reads it, so ``1.10`` or ``0755`` is never changed silently.
"""

from __future__ import annotations

import re
from typing import Any

from reconciler.model.desired import Location
from reconciler.spec.errors import Problems
from reconciler.spec.nodes import Listing, Mapping, Node, Scalar
from reconciler.spec.variables import Scope, expand

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


def values(node: Node, file: str, scope: Scope, problems: Problems) -> Any:
    """The node as plain Python values with variables expanded: dict, list, str, bool, None, Loose, Tainted."""
    if isinstance(node, Mapping):
        return {key: values(value, file, scope, problems) for key, (_, value) in node.pairs.items()}
    if isinstance(node, Listing):
        return [values(item, file, scope, problems) for item in node.items]
    if "$" in node.text:
        return _expanded(node, file, scope, problems)
    return _plain(node.text) if node.plain else node.text


def _plain(text: str) -> Any:
    if text in _NULL:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if text in _AMBIGUOUS:
        return Ambiguous(text)
    # No number is longer; a longer run of digits is text, and no field takes it.
    return Loose(text) if text[0] in "+-.0123456789" and len(text) <= 400 and _NUMBER.fullmatch(text) else text


def _expanded(node: Scalar, file: str, scope: Scope, problems: Problems) -> str:
    result = expand(node.text, scope)
    for message, hint in result.problems:
        problems.add(Location(file, node.line, node.column), message, hint)
    if result.sensitive:
        return Tainted(result.text, result.clean)
    return Loose(result.text) if node.plain else result.text
