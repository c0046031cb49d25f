"""Validates plain values against a model, and says what is wrong in plain words and in the right place."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from reconciler.model.desired import Location
from reconciler.spec.errors import Problems, shown
from reconciler.spec.fields import kind_of
from reconciler.spec.mapping import Model, model_in
from reconciler.spec.nearest import nearest
from reconciler.spec.nodes import Node, place

M = TypeVar("M", bound=Model)
Path = tuple[str | int, ...]

# What the Compose specification has and this language will not: they reach for files by themselves.
REFUSED = {
    "include": "name all spec files on the command line",
    "extends": "write the fields out, or share them with an anchor and <<",
}
_EXPECTED = {
    "dict_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
    "model_type": "a mapping",
}


def validate(model: type[M], values: Mapping[str, Any], root: Node, file: str, problems: Problems) -> M | None:
    """The model of one document, or None after adding every problem found."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=True):
            _report(detail, model, root, file, problems)
    return None


def _report(detail: ErrorDetails, model: type[Model], root: Node, file: str, problems: Problems) -> None:
    path: Path = tuple(step for step in detail["loc"] if step != "[key]")
    context = detail.get("ctx") or {}
    is_key = detail["type"] == "extra_forbidden" or detail["loc"][-1:] == ("[key]",)
    match detail["type"]:
        case "spec":
            message, hint = context["message"], context["hint"]
        case "nothing":
            path = (*path, context["field"])
            message, hint = f"{context['field']} has no value", "write a value, or remove the line"
        case "missing":
            message, hint = f"{path[-1]} is missing", f"add {path[-1]}:"
            path = path[:-1]
            is_key = True
        case "extra_forbidden":
            message, hint = _unknown(str(path[-1]), _model_at(model, path[:-1]))
        case "literal_error":
            message, hint = _choice(detail["input"], context["expected"])
        case kind if kind in _EXPECTED:
            message, hint = f"expected {_EXPECTED[kind]}, found {kind_of(detail['input'])}", ""
        case _:
            message, hint = detail["msg"], ""
    problems.add(Location(file, *place(root, path, key=is_key)), _named(path, message, detail["type"]), hint)


def _named(path: Path, message: str, kind: str) -> str:
    """The message after the name of the field it is about, unless it names the field itself."""
    if kind in ("nothing", "missing", "extra_forbidden") or not path:
        return message
    # A resource's own name is in the location; what helps is the field below it.
    field = path[2:] if len(path) > 2 else path[-1:]
    name = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in field).lstrip(".")
    return f"{name if name.isascii() and name.isprintable() else shown(name)}: {message}"


def _unknown(name: str, model: type[Model] | None) -> tuple[str, str]:
    known = sorted(f.alias or n for n, f in model.model_fields.items()) if model else []
    if name in REFUSED:
        return f"{name} is refused", REFUSED[name]
    message = f"unknown field {shown(name, 40)}"
    if guess := nearest(name, known):
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
            fields = {field.alias or name: field for name, field in current.model_fields.items()}
            if step in fields:
                current = model_in(fields[step].annotation)
    return current
