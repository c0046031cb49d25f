"""Validates plain values against a model, and says what is wrong in plain words and in the right place."""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping, Set
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from reconciler.model.desired import Location
from reconciler.spec import fields
from reconciler.spec.errors import Problems, field_name, shown
from reconciler.spec.fields import kind_of
from reconciler.spec.mapping import NOTHING, Model, model_in
from reconciler.spec.nearest import nearest
from reconciler.spec.nodes import Node, place
from reconciler.spec.stacks import SECTIONS

M = TypeVar("M", bound=Model)
Path = tuple[str | int, ...]

# What the Compose specification has and this language will not: they reach for files by themselves.
REFUSED = {
    "include": "name all spec files on the command line",
    "extends": "write the fields out, or share them with an anchor and <<",
}
_EXPECTED = {
    "dict_type": ("a mapping", fields.AS_MAPPING),
    "tuple_type": ("a list", fields.AS_LIST),
}


def validate(
    model: type[M], values: Mapping[str, Any], unknown: Set[Path], root: Node, file: str, problems: Problems
) -> tuple[M | None, frozenset[Path]]:
    """The model of one document without its faults, and the paths of these.

    A fault is what is left out because something in it is wrong, so that the rest can be judged: a container's field,
    another resource, a field of the file itself. Every problem is added, except where a value is ``unknown``.
    The model is None when the rest makes no document.
    """
    faults = {_fault(path) for path in unknown}
    above = {path[:length] for path in unknown for length in range(len(path))}
    try:
        valid = model.model_validate(values)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=True):
            path: Path = tuple(step for step in detail["loc"] if step != "[key]")
            if path not in above and not any(path[:length] in unknown for length in range(len(path) + 1)):
                _report(detail, path, model, root, file, problems)
            faults.add(_fault(path))
    else:
        if not faults:
            return valid, frozenset()
    try:
        return model.model_validate(_without(values, faults)), frozenset(faults)
    except ValidationError:
        return None, frozenset(faults)


def _fault(path: Path) -> Path:
    return path[: 3 if path[0] in ("containers", "services") else 2 if path[0] in SECTIONS else 1]


def _without(values: Mapping[str, Any], faults: Collection[Path]) -> dict[str, Any]:
    below: dict[str | int, list[Path]] = {}
    for first, *rest in faults:
        below.setdefault(first, []).append(tuple(rest))
    kept = {key: value for key, value in values.items() if () not in below.get(key, ())}
    return {key: _without(value, below[key]) if key in below else value for key, value in kept.items()}


def _report(detail: ErrorDetails, path: Path, model: type[Model], root: Node, file: str, problems: Problems) -> None:
    context = detail.get("ctx") or {}
    is_key = detail["type"] == "extra_forbidden" or detail["loc"][-1:] == ("[key]",)
    match detail["type"]:
        case _ if detail["input"] is NOTHING:
            message, hint = f"{path[-1]} has no value", "write a value, or remove the line"
        case "spec":
            message, hint = context["message"], context["hint"]
        case "missing":
            message, hint = f"{path[-1]} is missing", f"add {path[-1]}:"
            path = path[:-1]
            is_key = True
        case "extra_forbidden":
            message, hint = _unknown(str(path[-1]), _model_at(model, path[:-1]), problems)
        case "literal_error":
            message, hint = _choice(detail["input"], context["expected"])
        case kind if kind in _EXPECTED:
            expected, hint = _EXPECTED[kind]
            message = f"expected {expected}, found {kind_of(detail['input'])}"
        case _:
            message, hint = detail["msg"], ""
    problems.add(Location(file, *place(root, path, key=is_key)), _named(path, message, detail), hint)


def _named(path: Path, message: str, detail: ErrorDetails) -> str:
    """The message after the name of the field it is about, unless it names the field itself."""
    names_itself = detail["type"] in ("missing", "extra_forbidden") or detail["loc"][-1:] == ("[key]",)
    if names_itself or detail["input"] is NOTHING or not path:
        return message
    # A resource's own name is in the location; what helps is the field below it.
    field = path[2:] if len(path) > 2 and isinstance(path[2], str) else path[1:] or path
    return f"{field_name(field)}: {message}"


def _unknown(name: str, model: type[Model] | None, problems: Problems) -> tuple[str, str]:
    known = sorted(f.alias or n for n, f in model.model_fields.items()) if model else []
    if name in REFUSED:
        return f"{name} is refused", REFUSED[name]
    message = f"unknown field {shown(name, 40)}"
    if guess := problems.guess(name, known):
        return message, f"did you mean {guess}?"
    supported = [n for n in known if model is None or n not in model.later_fields]
    return message, f"fields here are {', '.join(supported)}; keys that begin with x- are ignored"


def _choice(given: Any, expected: str) -> tuple[str, str]:
    choices = [ast.literal_eval(part) for part in expected.replace(" or ", ", ").split(", ")]
    found = shown(given, 40) if isinstance(given, str) else kind_of(given)
    guess = nearest(given, choices) if isinstance(given, str) else None
    return f"{found} is not one of {', '.join(choices)}", f"did you mean {guess}?" if guess else ""


def _model_at(model: type[Model], path: Path) -> type[Model] | None:
    """The model that governs the mapping at ``path``."""
    current: type[Model] | None = model
    for step in path:
        if current is not None and isinstance(step, str):
            known = {field.alias or name: field for name, field in current.model_fields.items()}
            if step in known:
                current = model_in(known[step].annotation)
    return current
