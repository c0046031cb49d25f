"""Publishes the language: JSON Schema from the models, and the reference page.

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

from reconciler.spec.page import reference
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
