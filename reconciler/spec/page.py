"""The reference page, in Markdown: every field from the models, with the prose that they cannot hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from reconciler.spec import reader, tree, units, variables
from reconciler.spec.examples import EXAMPLES, NOTES
from reconciler.spec.fields import MAX_NAME
from reconciler.spec.mapping import Model, model_in
from reconciler.spec.schema import ComposeFile, Spec

# What a kind of value is called, and where the page says more about it.
_KINDS = {
    "size": "[size](#units)",
    "duration": "[duration](#units)",
    "mode": "[file mode](#units)",
    "name": "[name](#names)",
    "reference": "[reference](#references)",
    "path": "path",
    "absolute path": "absolute path",
    "pairs": "mapping, or list of `NAME=value`",
    "command": "text, or list of text",
    "texts": "text, or list of text",
    "port": "port (`80`, `8000-8010`)",
    "short": "short text",
    "pattern": "regular expression",
    "share": "share (`0.3`, `30%`)",
}


def reference() -> str:
    """The reference page, in Markdown."""
    parts = [_INTRODUCTION, "## A spec file\n", _fields(Spec)]
    described: set[str] = set()
    for name, field in Spec.model_fields.items():
        if name in EXAMPLES:
            parts += [f"## {name}\n", NOTES.get(name, f"{field.description}\n"), f"```yaml\n{EXAMPLES[name]}```\n"]
            model = model_in(field.annotation)
            parts += _models(model, described) if model else []
    parts += ["## Compose files\n", NOTES["services"], f"```yaml\n{EXAMPLES['services']}```\n"]
    parts.append(_fields(ComposeFile))
    return "\n".join(parts).rstrip() + "\n"


def _models(model: type[Model], described: set[str]) -> Iterator[str]:
    """A model's own table, then those of the models it holds that have none yet."""
    if model.__name__ in described:
        return
    described.add(model.__name__)
    yield f"### {model.__name__}\n"
    short = f" Plain text is short for `{{{model.short}: TEXT}}`." if model.short else ""
    yield f"{model.__doc__}{short}\n"
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
        is_share = body["properties"][written].get("x-kind") == "share"
        default = (
            "required" if field.is_required() else _default(field.get_default(call_default_factory=False), is_share)
        )
        meaning = (field.description or "").replace("|", "\\|")
        lines.append(f"| `{written}` | {value} | {default} | {meaning} |")
    return "\n".join((lines if _supported(model) else []) + _later(model)).lstrip("\n") + "\n"


def _later(model: type[Model]) -> list[str]:
    """What the table leaves out: a list when there are few or something is said about one, and those without a word."""
    if not model.later_fields:
        return []
    notes = {name: _note(model, name) for name in sorted(model.later_fields)}
    silent = ", ".join(f"`{name}`" for name, note in notes.items() if not note)
    lines = ["", "Not supported yet, and an error when a plan uses them:", ""]
    lines += [f"- `{name}`: {note}" for name, note in notes.items() if note]
    return [*lines, f"- {silent}"] if silent else lines


def _note(model: type[Model], name: str) -> str:
    words = (model.model_fields[name].description or "").removeprefix("Not supported yet.").strip()
    same = [json.dumps(value) if isinstance(value, bool) else value for value in model.same_values[name]]
    fine = f"{' or '.join(f'`{value}`' for value in same)} changes nothing and is fine." if same else ""
    rule = f"Reaches into the host: needs the rule `{model.later_fields[name]}`." if model.later_fields[name] else ""
    return " ".join(part for part in (words, rule, fine) if part)


def _default(value: Any, is_share: bool) -> str:
    if value is None or value == "" or value == ():
        return ""
    if isinstance(value, float):
        return f"`{value:g}`" if is_share else f"`{value:g}s`"
    return f"`{json.dumps(value)}`" if isinstance(value, (bool, int, str)) else ""


def _type(schema: dict[str, Any]) -> str:
    """A field's type in words."""
    if "x-kind" in schema:
        return _KINDS[schema["x-kind"]]
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

A spec says what one host should have. The smallest useful one, in a file such as `web.yaml`:

```yaml
apiVersion: reconciler/v1
stack: hello
containers:
  web:
    image: nginx:1.27
    ports: ["127.0.0.1:8080:80"]
```

`reconciler validate PATH` checks specs on any machine and reports everything that is wrong, with file, line and column;
`reconciler plan PATH` shows what would change; `reconciler apply PATH` does it.

PATH is a directory (its own {", ".join(f"`*{suffix}`" for suffix in tree.SUFFIXES)}, no dotfiles; with `-R` its
subdirectories too, but no links to directories), a file, or several. Files of one stack add up; the same name twice is
an error that shows both places. A file without `apiVersion` that has `services` is a [compose file](#compose-files).

Container fields have the Compose specification's names and meanings. Nothing is ignored silently: an unknown field is
an error, and so is one that is not supported yet. Only field names that begin with `x-` are skipped, so they can hold
notes and anchors; resources, labels and variables may have such names.

Relative paths are relative to the spec file that holds them.

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
stack and kind. On the host, container `web` of stack `shop` is shown as `shop/web`.

## Variables

| written | inserted |
|---|---|
| `$NAME`, `${{NAME}}` | its value; an error when it is not defined |
| `${{NAME:-text}}`, `${{NAME-text}}` | `text` when it is unset (with the colon: or empty) |
| `${{NAME:?text}}`, `${{NAME?text}}` | an error that says `text` when it is unset (or empty) |
| `${{NAME:+text}}`, `${{NAME+text}}` | `text` when it is set (and not empty), else nothing |
| `$$` | a dollar sign, such as one that a shell in the container should see |

Variables work in values, not in keys. They come from `--var NAME=VALUE`, which wins over `--env-file FILE`; from the
process environment only with `--env NAME` (then they are sensitive, and fit only into `environment` and the `content`
of a config); and last from a `.env` file beside the spec. Defaults may hold variables, at most
{variables.MAX_NESTING} deep; an inserted value is not expanded again.

`.env`, `--env-file` and a container's `env_file` hold one `NAME=value` a line. Blank lines, `#` comments and a leading
`export` are skipped. Single quotes keep text as it is; double quotes know `\\n`, `\\t`, `\\"`, `\\\\` and `\\$`; both
may span lines. Nothing in these files is expanded.

## Units

| kind | units | examples |
|---|---|---|
| size | {_SIZES}; upper case, `kb` and `kib` alike; a number alone is bytes | `512m`, `0.5g`, `8388608` |
| duration | {_DURATIONS}; always with a unit, at most ten years | `10s`, `1h30m`, `1.5s` |
| file mode | octal with a leading 0, quoted or not | `0440`, `0o440` |

## References

As Docker has them: `nginx` is `docker.io/library/nginx:latest`; the first part is a registry only if it holds a `.` or
a `:`, is `localhost`, or has an upper-case letter. Where a field takes the name of an entry in `images` or a
reference, the entry wins; a word that almost is the name of an entry is an error, and `NAME:latest` is a way around it.
"""
