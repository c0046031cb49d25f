"""What every model of the language shares: unknown fields refused, ``x-`` keys ignored, short forms, later fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from reconciler.spec.fields import AS_MAPPING, fail, kind_of

NOTHING = object()
"""Stands for a value that was not written. No field takes it, so each says where one is missing."""

_LATER = "x-not-supported-yet"
_RULE = "x-rule"
_SAME = "x-fine"


def later(description: str = "", rule: str = "", same: tuple[str | bool, ...] = ()) -> Any:
    """A field that parses, but that no plan can use; ``rule`` names the policy that must allow it.

    The values ``same`` ask for what is done anyway, and are fine.
    """
    extra: dict[str, Any] = {_LATER: True} | ({_RULE: rule} if rule else {}) | ({_SAME: list(same)} if same else {})
    return Field(default=None, description=f"Not supported yet. {description}".strip(), json_schema_extra=extra)


class Model(BaseModel):
    """One mapping of the language.

    ``short`` names the field that a plain text stands for; ``may_be_empty`` lets a missing value mean ``{}``;
    ``nullable`` lists the fields for which writing no value is the same as leaving them out.
    """

    # Deferred: what is only part of another is built once, with that, and not for itself too.
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, defer_build=True)

    short: ClassVar[str] = ""
    may_be_empty: ClassVar[bool] = False
    nullable: ClassVar[frozenset[str]] = frozenset()
    later_fields: ClassVar[dict[str, str]] = {}
    same_values: ClassVar[dict[str, Any]] = {}
    _names: ClassVar[frozenset[str]] = frozenset()
    _nested: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        cls.later_fields, cls.same_values = {}, {}
        cls._names = frozenset(field.alias or name for name, field in cls.model_fields.items())
        for name, field in cls.model_fields.items():
            extra = field.json_schema_extra
            if isinstance(extra, dict) and _LATER in extra:
                cls.later_fields[name] = str(extra.get(_RULE, ""))
                cls.same_values[name] = extra.get(_SAME, ())
        cls._nested = frozenset(name for name, field in cls.model_fields.items() if model_in(field.annotation))

    @model_validator(mode="before")
    @classmethod
    def _prepare(cls, data: Any) -> Any:
        if isinstance(data, dict):
            given = {key: cls._given(key, value) for key, value in data.items() if not key.startswith("x-")}
            return {key: value for key, value in given.items() if value is not None or key not in cls.nullable}
        if cls.short and isinstance(data, str):
            return {cls.short: data}
        if cls.may_be_empty and data is None:
            return {}
        raise fail(f"expected a mapping{' or text' if cls.short else ''}, found {kind_of(data)}", AS_MAPPING)

    @classmethod
    def _given(cls, key: str, value: Any) -> Any:
        needed = key in cls._names and key not in cls.nullable and key not in cls.later_fields
        return NOTHING if value is None and needed else value

    def unsupported(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """The path and the policy rule of every field in use, here or below, that is not supported yet."""
        rules, nested = self.later_fields, self._nested
        for name in self.model_fields_set:
            if name in rules and getattr(self, name) in self.same_values[name]:
                continue
            if name in rules:
                yield (name,), rules[name]
            elif name in nested:
                yield from _below(getattr(self, name), (name,))

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Adds ``x-`` keys and short forms, and takes away the null that an optional Python value would allow."""
        reference = handler(core)
        schema = handler.resolve_ref_schema(reference)
        schema["patternProperties"] = {"^x-": {}}
        for name, field in schema.get("properties", {}).items():
            field.pop("default", None)
            choices = [choice for choice in field.pop("anyOf", ()) if choice != {"type": "null"}]
            if not choices:
                choices = [{key: field.pop(key) for key in list(field) if key not in ("description", "title")}]
            choices += [{"type": "null"}] if name in cls.nullable else []
            field |= choices[0] if len(choices) == 1 else {"anyOf": choices}
        others: list[dict[str, Any]] = [{"type": ["string", "number"]}] if cls.short else []
        others += [{"type": "null"}] if cls.may_be_empty else []
        if others:
            whole = {"anyOf": [dict(schema), *others]}
            schema.clear()
            schema.update(whole)
        return reference


def model_in(annotation: Any) -> type[Model] | None:
    """The first model inside an annotation such as ``dict[Name, Image]`` or ``Config | None``."""
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return annotation
    return next((found for part in getattr(annotation, "__args__", ()) if (found := model_in(part))), None)


def _below(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if isinstance(value, Model):
        for inner, rule in value.unsupported():
            yield path + inner, rule
    elif isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, Model):
                yield from _below(item, (*path, key))
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            if isinstance(item, Model):
                yield from _below(item, (*path, index))
