"""Variables in values, by the rules of the Compose specification.

``$NAME`` and ``${NAME}`` insert a value; ``${NAME:-default}`` and ``${NAME-default}`` give a default for one that is
unset (with the colon: or empty); ``${NAME:?message}`` and ``${NAME?message}`` demand one; ``${NAME:+other}`` and
``${NAME+other}`` insert something else when it is set; ``$$`` is a dollar sign. What is inserted is not expanded
again, no shell takes part, and (stricter than Compose) a variable that is not defined is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field

from reconciler.value import dataclass

MAX_NESTING = 8
MAX_LENGTH = 1024 * 1024

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_OPERATOR = re.compile(r":?[-?+]")


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable's value; a ``sensitive`` one is shown nowhere, and neither is text that holds it."""

    value: str = field(repr=False)
    sensitive: bool = False


Scope = Mapping[str, Variable]


@dataclass(slots=True)
class Expansion:
    """The text after expansion, the variables it names that are not defined, and what else was wrong.

    ``sensitive`` if it holds such a value; its first ``clean`` characters are then free of it.
    """

    text: str = ""
    sensitive: bool = False
    clean: int = 0
    undefined: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)


def expand(text: str, scope: Scope) -> Expansion:
    """Expands every variable in ``text``."""
    result = Expansion()
    result.text = _expand(text, scope, result, 0)
    if len(result.text) > MAX_LENGTH:
        result.problems.append((f"the value expands to more than {MAX_LENGTH} characters", "shorten it"))
        result.text = ""
    return result


def undefined(name: str) -> tuple[str, str]:
    """What to say, as (message, hint), about a variable that is not defined."""
    return (
        f"variable {name} is not defined",
        f"pass --var {name}=VALUE or --env {name}, put it into .env, or write ${{{name}:-default}}; "
        f"$${name} leaves it to a shell in the container",
    )


def _expand(text: str, scope: Scope, result: Expansion, depth: int) -> str:
    if depth > MAX_NESTING:
        result.problems.append((f"variables nest deeper than {MAX_NESTING} levels", "simplify the default"))
        return ""
    parts: list[str] = []
    position = 0
    while (dollar := text.find("$", position)) >= 0:
        parts.append(text[position:dollar])
        position = dollar + 1
        if depth == 0 and not result.sensitive:
            result.clean = sum(map(len, parts))
        if text.startswith("$", position):
            parts.append("$")
            position += 1
        elif name := _NAME.match(text, position):
            parts.append(_plain(name[0], scope, result))
            position = name.end()
        elif text.startswith("{", position) and (end := _closing(text, position)) > 0:
            parts.append(_braced(text[position + 1 : end], scope, result, depth))
            position = end + 1
        else:
            result.problems.append(("a $ is not followed by a variable's name", "write $$ for a dollar sign"))
    parts.append(text[position:])
    return "".join(parts)


def _closing(text: str, start: int) -> int:
    """The index of the brace that closes the one at ``start``, or -1. Braces count only after a ``$``."""
    depth, index = 1, start + 1
    while index < len(text):
        if text.startswith("$$", index):
            index += 2
            continue
        if text.startswith("${", index):
            depth += 1
            index += 1
        elif text[index] == "}":
            depth -= 1
            if depth == 0:
                return index
        index += 1
    return -1


def _plain(name: str, scope: Scope, result: Expansion) -> str:
    variable = scope.get(name)
    if variable is None:
        result.undefined.append(name)
        return ""
    result.sensitive = result.sensitive or variable.sensitive
    return variable.value


def _braced(body: str, scope: Scope, result: Expansion, depth: int) -> str:
    name = _NAME.match(body)
    operator = _OPERATOR.match(body, name.end()) if name else None
    if name is None or (operator is None and name.end() != len(body)):
        result.problems.append(("malformed variable", "write ${NAME}, ${NAME:-default} or $$ for a dollar sign"))
        return ""
    if operator is None:
        return _plain(name[0], scope, result)
    variable, rest = scope.get(name[0]), body[operator.end() :]
    given = variable is not None and (bool(variable.value) or not operator[0].startswith(":"))
    match operator[0][-1], given:
        case "+", True:
            return _expand(rest, scope, result, depth + 1)
        case "+", False:
            return ""
        case _, True:
            return _plain(name[0], scope, result)
        case "-", False:
            return _expand(rest, scope, result, depth + 1)
    asked = f": {rest[:200]}" if rest else ""
    result.problems.append((f"variable {name[0]} is required{asked}", f"pass --var {name[0]}=VALUE"))
    return ""
