"""Publishes the language: JSON Schema and reference page, generated from the models.

``python -m reconciler.spec.publish [--check] [DIRECTORY]`` writes them to ``specs/v1``, or with ``--check`` says
whether they are up to date (exit 1 when not).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic.json_schema import models_json_schema

from reconciler.spec import reader, tree, units, variables
from reconciler.spec.examples import EXAMPLES
from reconciler.spec.fields import MAX_NAME
from reconciler.spec.mapping import Model, model_in
from reconciler.spec.schema import ComposeFile, Spec

DIRECTORY = "specs/v1"
_VARIABLE = {"type": "string", "pattern": "\\$"}


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) for spec files and compose files."""
    definitions = models_json_schema([(Spec, "validation"), (ComposeFile, "validation")])[1]["$defs"]
    wanted: dict[str, Any] = {}
    pending = ["Spec", "ComposeFile"]
    while pending:
        name = pending.pop()
        if name not in wanted:
            wanted[name] = _tidy(definitions[name], is_key=False)
            pending += _references(wanted[name])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "reconciler/v1",
        "description": "A spec file, or without apiVersion a compose file.",
        "if": {"required": ["apiVersion"]},
        "then": {"$ref": "#/$defs/Spec"},
        "else": {"$ref": "#/$defs/ComposeFile"},
        "$defs": dict(sorted(wanted.items())),
    }


def _tidy(schema: Any, *, is_key: bool) -> Any:
    """Titles dropped, maps of names closed, and a variable allowed wherever a value is restricted."""
    if isinstance(schema, list):
        return [_tidy(item, is_key=False) for item in schema]
    if not isinstance(schema, dict):
        return schema
    tidy = {key: _tidy(value, is_key=key == "properties") for key, value in schema.items() if is_key or key != "title"}
    if is_key or "const" in tidy:
        return tidy
    if "patternProperties" in tidy and "properties" not in tidy:
        tidy["additionalProperties"] = False
    if (
        tidy.get("type") in ("integer", "boolean")
        or "enum" in tidy
        or (tidy.get("type") == "string" and "pattern" in tidy)
    ):
        note = {"description": tidy.pop("description")} if "description" in tidy else {}
        return {**note, "anyOf": [tidy, _VARIABLE]}
    return tidy


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"].rpartition("/")[2]
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from _references(item)


def reference() -> str:
    """The reference page, in Markdown."""
    parts = [_INTRODUCTION, "## A spec file\n", _fields(Spec)]
    described: set[str] = set()
    for name, field in Spec.model_fields.items():
        if name in EXAMPLES:
            parts += [f"## {name}\n", f"{field.description}\n", f"```yaml\n{EXAMPLES[name]}```\n"]
            model = model_in(field.annotation)
            parts += _models(model, described) if model else []
    parts += ["## Compose files\n", f"{ComposeFile.__doc__}\n", f"```yaml\n{EXAMPLES['services']}```\n"]
    parts.append(_fields(ComposeFile))
    return "\n".join(parts).rstrip() + "\n"


def _models(model: type[Model], described: set[str]) -> Iterator[str]:
    """A model's own table, then those of the models it holds that have none yet."""
    if model.__name__ in described or not _supported(model):
        return
    described.add(model.__name__)
    yield f"### {model.__name__}\n"
    yield f"{model.__doc__}\n"
    yield _fields(model)
    for field in model.model_fields.values():
        if inner := model_in(field.annotation):
            yield from _models(inner, described)


def _supported(model: type[Model]) -> list[str]:
    return [name for name in model.model_fields if name not in model.later_fields]


def _fields(model: type[Model]) -> str:
    schema = model.model_json_schema(ref_template="{model}")
    body = schema["$defs"][model.__name__] if "$ref" in schema else schema
    body = next((choice for choice in body.get("anyOf", ()) if "properties" in choice), body)
    lines = ["| field | value | default | meaning |", "|---|---|---|---|"]
    for name in _supported(model):
        field = model.model_fields[name]
        written = field.alias or name
        value = _type(body["properties"][written])
        default = "required" if field.is_required() else _default(field.get_default(call_default_factory=False))
        meaning = (field.description or "").replace("|", "\\|")
        lines.append(f"| `{written}` | {value} | {default} | {meaning} |")
    later = [f"`{name}`" + _note(model, name) for name in model.later_fields]
    if later:
        lines += ["", f"Not supported yet, and an error when a plan uses them: {', '.join(later)}."]
    return "\n".join(lines) + "\n"


def _note(model: type[Model], name: str) -> str:
    rule = model.later_fields[name]
    return f" (rule `{rule}`)" if rule else ""


def _default(value: Any) -> str:
    if value is None or value == "" or value == ():
        return ""
    if isinstance(value, float):
        return f"`{value:g}s`"
    return f"`{json.dumps(value)}`" if isinstance(value, (bool, int, str)) else ""


def _type(schema: dict[str, Any]) -> str:
    """A field's type in words."""
    if "$ref" in schema:
        return _link(schema["$ref"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{word}`" for word in schema["enum"])
    if "anyOf" in schema:
        choices = (_type(choice) for choice in schema["anyOf"] if choice != {"type": "null"})
        return " or ".join(dict.fromkeys(choices))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if schema.get("type") == "object":
        inner = schema.get("additionalProperties") or next(iter(schema.get("patternProperties", {"": {}}).values()))
        return f"mapping to {_type(inner)}" if isinstance(inner, dict) and inner else "mapping"
    words = {"string": "text", "number": "", "integer": "number", "boolean": "`true`, `false`", "null": ""}
    kinds = schema.get("type", "string")
    return (
        " or ".join(word for kind in ([kinds] if isinstance(kinds, str) else kinds) if (word := words[kind])) or "text"
    )


def _link(name: str) -> str:
    return f"[{name}](#{name.lower()})"


_SIZES = ", ".join(f"`{unit}` = {number}" for unit, number in units.SIZES.items())
_DURATIONS = ", ".join(f"`{unit}`" for unit in units.DURATIONS)
_INTRODUCTION = f"""\
# The spec language, reconciler/v1

<!-- Generated by python -m reconciler.spec.publish; do not edit. -->

A spec is a directory (its own {", ".join(f"`*{suffix}`" for suffix in tree.SUFFIXES)}, no dotfiles; `-R` for its
subdirectories), a file, or several. A file begins with `apiVersion: reconciler/v1`; one without it that has `services`
is a [compose file](#compose-files). Files of one stack merge; the same name twice is an error that shows both places.
Container fields have the Compose specification's names and meanings. An unknown field is an error; keys that begin
with `x-` are ignored.

## YAML

Files are YAML 1.2 or JSON, in UTF-8, at most {reader.MAX_BYTES // 2**20} MiB each and nested at most
{reader.MAX_DEPTH} levels, with any number of documents.

- `true` and `false` are booleans; `yes`, `no`, `on`, `off` and dates are text.
- A number in a text field keeps its source text: `1.10` stays `1.10`, `0755` stays `0755`.
- In `environment`, `true`, `false`, `yes`, `no`, `on`, `off`, `null` and no value are errors: quote them.
- A field without a value is an error, except `command`, `entrypoint`, sections, and entries that need no fields.
- Duplicate keys and tags (`!!x`) are errors. Anchors and aliases work; with `<<`, the mapping's own keys win.

## Names

A name is 1 to {MAX_NAME} of `a-z 0-9 _ . -` and begins with a letter or a digit. It is unique within its
stack and kind.

## Variables

| written | inserted |
|---|---|
| `$NAME`, `${{NAME}}` | its value; an error when it is not defined |
| `${{NAME:-text}}`, `${{NAME-text}}` | `text` when it is unset (with the colon: or empty) |
| `${{NAME:?text}}`, `${{NAME?text}}` | an error that says `text` when it is unset (or empty) |
| `${{NAME:+text}}`, `${{NAME+text}}` | `text` when it is set (and not empty), else nothing |
| `$$` | a dollar sign |

Variables work in values, not in keys. They come from `--var`, `--env-file`, from the process environment only with
`--env NAME` (then they are sensitive, and fit only where a secret may stand), and last from a `.env` file beside the
spec. Defaults may hold variables, at most {variables.MAX_NESTING} deep; an inserted value is not expanded again.

## Units

| kind | units | examples |
|---|---|---|
| size | {_SIZES}; upper case, `kb` and `kib` alike; a number alone is bytes | `512m`, `0.5g`, `8388608` |
| duration | {_DURATIONS}; always with a unit, at most ten years | `10s`, `1h30m`, `1.5s` |
| file mode | octal with a leading 0, quoted or not | `0440`, `0o440` |

## References

As Docker has them: `nginx` is `docker.io/library/nginx:latest`; the first part is a registry only if it holds a `.` or
a `:`, is `localhost`, or has an upper-case letter.
"""


def publish(directory: Path) -> dict[Path, str]:
    """The published files and their text."""
    schema = json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    return {directory / "schema.json": schema, directory / "reference.md": reference()}


def main(arguments: Sequence[str]) -> int:
    names = [argument for argument in arguments if argument != "--check"]
    stale = []
    for path, text in publish(Path(names[0] if names else DIRECTORY)).items():
        if path.exists() and path.read_text() == text:
            continue
        stale.append(path)
        if "--check" not in arguments:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    for path in stale:
        sys.stderr.write(f"{path} {'is out of date' if '--check' in arguments else 'written'}\n")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
