"""The kinds of values that fields hold, as pydantic types with our own checks, messages and JSON Schema.

Input is what ``scalars.values`` gives: a quoted scalar is ``str``, an unquoted number or expanded variable ``Loose``.
"""

from __future__ import annotations

import posixpath
import re
import shlex
import signal
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, GetJsonSchemaHandler, PlainValidator, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from reconciler.errors import InvalidError
from reconciler.model.selection import check_pattern
from reconciler.model.version import Range
from reconciler.oci.platform import Platform
from reconciler.spec import units
from reconciler.spec.errors import shown
from reconciler.spec.scalars import Ambiguous, Loose, Tainted

T = TypeVar("T")

MAX_NAME = 63
AS_LIST = "write [ITEM, ...], or one `- ITEM` a line"
AS_MAPPING = "write one `NAME: VALUE` a line below it, with a space after the colon"
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}", re.ASCII)
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,15})", re.ASCII)
_SIGNAL = re.compile(r"(?:SIG)?([A-Z][A-Z0-9]*(?:[+-][0-9]+)?)|([1-9][0-9]?)", re.ASCII)
_TEXT_SCHEMA = {"type": ["string", "number"]}


class Also:
    """Adds to a field's JSON Schema the short forms that a validator turns into the long one."""

    def __init__(self, *forms: dict[str, Any]) -> None:
        self.forms = forms

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [*self.forms, handler(core)]}


class Property:
    """Adds to a mapping's JSON Schema one key whose value is of another kind than the others'."""

    def __init__(self, name: str, schema: dict[str, Any]) -> None:
        self.name = name
        self.schema = schema

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(core), "properties": {self.name: self.schema}}


def fail(message: str, hint: str = "") -> PydanticCustomError:
    """A validation error with our own words; ``message`` and ``hint`` reach the user as they are."""
    return PydanticCustomError("spec", "{message}", {"message": message, "hint": hint})


def kind_of(value: Any) -> str:
    """What a person would call a plain value."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case Loose() if value[:1] in "+-.0123456789":
            return "a number"
        case str():
            return "text"
        case dict():
            return "a mapping"
    return "a list"


def text(value: Any) -> str:
    """Text, or a number as it was written."""
    if type(value) is str:
        return value
    if isinstance(value, Tainted):
        raise fail("this field cannot keep a secret, and the variable here is sensitive", "pass it with --var instead")
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool):
        raise fail(f"expected text, found {kind_of(value)}", "quote it")
    raise fail(f"expected text, found {kind_of(value)}")


def secret_text(value: Any) -> str:
    """Text that may hold a sensitive variable's value: then it stays ``Tainted``."""
    if isinstance(value, Tainted):
        return value
    if value is None or isinstance(value, bool):
        raise fail(f"{kind_of(value)} is not text", 'quote it, such as "true" or ""')
    if isinstance(value, Ambiguous):
        raise fail(f"{value} means true or false to some readers of YAML", f'quote it: "{value}"')
    return text(value)


def loosened(value: Any) -> Any:
    """Before a choice of words: an unquoted or expanded word as plain text."""
    return text(value) if isinstance(value, str) else value


def _integer(value: Any) -> int:
    if isinstance(value, Loose) and _INTEGER.fullmatch(text(value)):
        return int(value)
    if isinstance(value, Loose):
        raise fail(f"{shown(value, 40)} is not a whole decimal number")
    raise fail(
        f"expected a whole number, found {kind_of(value)}",
        "write it without quotes" if type(value) is str and _INTEGER.fullmatch(value) else "write one such as 3",
    )


def integer(low: int, high: int) -> Any:
    """Annotations for a whole number within bounds."""

    def check(value: Any) -> int:
        number = _integer(value)
        if not low <= number <= high:
            raise fail(f"{number} is out of range", f"write a number from {low} to {high}")
        return number

    return PlainValidator(check), WithJsonSchema({"type": "integer", "minimum": low, "maximum": high})


def boolean(value: Any) -> bool:
    """True or false, unquoted or expanded."""
    if isinstance(value, bool):
        return value
    if isinstance(value, Loose) and text(value) in ("true", "false"):
        return value == "true"
    raise fail(f"expected true or false, found {kind_of(value)}", "write true or false, without quotes")


def parsed(parse: Callable[[str], T]) -> PlainValidator:
    """A validator from a parser of text that raises ``InvalidError``."""

    def check(value: Any) -> T:
        written = text(value)
        try:
            return parse(written)
        except InvalidError as error:
            message = str(error)
            # What holds an @ may hold a password before it.
            echo = "" if "@" in written or shown(written) in message else f": {shown(written)}"
            raise fail(message + echo, error.hint) from None

    return PlainValidator(check)


def checked(parse: Callable[[str], Any]) -> PlainValidator:
    """Like ``parsed``, but the text stays as it was written: a key must still be found in its file."""
    return parsed(lambda written: (parse(written), written)[1])


def name(value: str) -> str:
    """A resource's name: it becomes part of paths, host names and records."""
    if _NAME.fullmatch(value):
        return value
    raise InvalidError("malformed name", hint=f"a name is 1 to {MAX_NAME} of a-z 0-9 _ . - and begins with a-z or 0-9")


def _variable_name(value: str) -> str:
    if not value or "=" in value or "\0" in value:
        raise InvalidError("malformed variable name", hint="a variable's name is not empty and holds no = and no NUL")
    return value


def _label_name(value: str) -> str:
    if not value or "\0" in value or len(value) > 256:
        raise InvalidError("malformed label name", hint="a label's name has 1 to 256 characters")
    return value


def _path(value: str) -> str:
    if not value or "\0" in value or len(value) > 4096:
        raise InvalidError("malformed path", hint="a path has 1 to 4096 characters and no NUL")
    return value


def _container_path(value: str) -> str:
    if not _path(value).startswith("/"):
        raise InvalidError("the path is not absolute", hint="a path in a container begins with /")
    if ".." in value.split("/"):
        raise InvalidError("the path holds ..", hint="write it without ..")
    return "/" + posixpath.normpath(value).lstrip("/")


def _signal(value: str) -> str:
    match = _SIGNAL.fullmatch(value)

    if match is None:
        raise InvalidError("malformed signal", hint="write a name such as SIGTERM, or a number")
    if match[2]:
        try:
            return signal.Signals(int(match[2])).name
        except ValueError:
            raise InvalidError("unknown signal", hint="write a name such as SIGTERM") from None
    base = re.split("[+-]", match[1])[0]
    if f"SIG{base}" not in signal.Signals.__members__:
        raise InvalidError("unknown signal", hint="write a name such as SIGTERM or SIGRTMIN+3")
    return f"SIG{match[1]}"


def _split_command(value: Any) -> Any:
    """A string is split into words as a shell would, without running one; a list is taken as it is."""
    if not isinstance(value, str):
        return value
    try:
        return shlex.split(text(value))
    except ValueError as error:
        raise fail(f"the command cannot be split into words: {error}", "close the quotes, or write a list") from None


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _pairs(value: Any, *, values_needed: bool) -> Any:
    """``- NAME=value`` entries as a mapping; an entry without = is refused, or has no text."""
    if not isinstance(value, list):
        return value
    found: dict[str, str] = {}
    alone: list[str] = []
    for item in value:
        if not isinstance(item, str):
            raise fail(f"expected NAME=value, found {kind_of(item)}")
        key, equals, content = item.partition("=")
        if isinstance(item, Tainted) and len(key) + len(equals) > item.clean:
            raise fail("a name cannot hold a secret, and the variable here is sensitive", "pass it with --var instead")
        if key in found:
            raise fail(f"{shown(key, 60)} is given twice", "keep one of them")
        found[key] = type(item)(content) if isinstance(item, Loose) else content
        if not equals:
            alone.append(key if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,80}", key) else "NAME")
    if alone and values_needed:
        names, has = ", ".join(alone), "variables {} have" if len(alone) > 1 else "variable {} has"
        raise fail(f"{has.format(names)} no value", f"write {alone[0]}=${{{alone[0]}}}")
    return found


def _variables_before(value: Any) -> Any:
    return _pairs(value, values_needed=True)


def _labels_before(value: Any) -> Any:
    return _pairs(value, values_needed=False)


Text = Annotated[str, PlainValidator(text), WithJsonSchema(_TEXT_SCHEMA)]
SecretText = Annotated[str, PlainValidator(secret_text), WithJsonSchema(_TEXT_SCHEMA)]
Bool = Annotated[bool, PlainValidator(boolean), WithJsonSchema({"type": "boolean"})]
Word = BeforeValidator(loosened)
Name = Annotated[
    str, parsed(name), WithJsonSchema({"x-kind": "name", "type": "string", "pattern": f"^{_NAME.pattern}$"})
]
Path = Annotated[str, parsed(_path), WithJsonSchema({"x-kind": "path", "type": "string", "minLength": 1})]
ContainerPath = Annotated[
    str, parsed(_container_path), WithJsonSchema({"x-kind": "absolute path", "type": "string", "pattern": "^/"})
]
Signal = Annotated[str, parsed(_signal), WithJsonSchema({"type": ["string", "integer"]})]
Size = Annotated[int, parsed(units.parse_size), WithJsonSchema({"x-kind": "size", "type": ["string", "integer"]})]
Duration = Annotated[float, parsed(units.parse_duration), WithJsonSchema({"x-kind": "duration", "type": "string"})]
Mode = Annotated[int, parsed(units.parse_mode), WithJsonSchema({"x-kind": "mode", "type": ["string", "integer"]})]
PlatformName = Annotated[Platform, parsed(Platform.parse), WithJsonSchema({"type": "string"})]
Id = Annotated[int, parsed(units.parse_id), WithJsonSchema({"type": ["string", "integer"]})]
TagPattern = Annotated[
    str, checked(check_pattern), WithJsonSchema({"x-kind": "pattern", "type": "string", "minLength": 1})
]
VersionRange = Annotated[str, checked(Range.parse), WithJsonSchema({"type": "string"})]
Share = Annotated[float, parsed(units.parse_share), WithJsonSchema({"x-kind": "share", "type": ["string", "number"]})]
TextList = Annotated[
    tuple[Text, ...],
    BeforeValidator(_as_list),
    WithJsonSchema({"x-kind": "texts", "anyOf": [_TEXT_SCHEMA, {"type": "array", "items": _TEXT_SCHEMA}]}),
]
Command = Annotated[
    tuple[Text, ...],
    BeforeValidator(_split_command),
    WithJsonSchema({"x-kind": "command", "anyOf": [{"type": "string"}, {"type": "array", "items": _TEXT_SCHEMA}]}),
]
_VariableName = Annotated[str, parsed(_variable_name), WithJsonSchema({"type": "string"})]
_LabelName = Annotated[str, parsed(_label_name), WithJsonSchema({"type": "string"})]
_PAIRS_SCHEMA = {
    "x-kind": "pairs",
    "anyOf": [
        {"type": "object", "additionalProperties": _TEXT_SCHEMA},
        {"type": "array", "items": {"type": "string"}},
    ],
}
Environment = Annotated[
    dict[_VariableName, SecretText], BeforeValidator(_variables_before), WithJsonSchema(_PAIRS_SCHEMA)
]
Labels = Annotated[dict[_LabelName, Text], BeforeValidator(_labels_before), WithJsonSchema(_PAIRS_SCHEMA)]
