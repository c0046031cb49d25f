"""What the YAML parser says about malformed text, in words that tell where to look and what to do."""

from __future__ import annotations

from typing import Any

import yaml

_INDENT = "check the indentation: what belongs together begins in the same column"
# Part of the parser's message, and what to do about it.
_HINTS = (
    ("mapping values are not allowed", "quote text that holds a colon and a space, or check the indentation"),
    ("while scanning a simple key", "write a colon and a space after a field's name"),
    ("while parsing a block", _INDENT),
    ("while parsing a flow", "check that every [ and { is closed, and the commas between entries"),
    ("found character that cannot start any token", "quote text that begins with @, %, ` or another sign"),
    ("unknown escape character", "use single quotes, or write \\\\ for a backslash"),
    ("found undefined tag handle", "quote text that begins with !"),
    ("while scanning an alias", "quote text that begins with *"),
    ("while scanning an anchor", "quote text that begins with &"),
    ("block sequence entries are not allowed", _INDENT),
)


def explain(error: yaml.MarkedYAMLError, text: str) -> tuple[tuple[int, int], str, str]:
    """The line and column, the message and the hint for an error of the parser in ``text``."""
    mark: Any = error.problem_mark or error.context_mark
    if mark is None:
        return (1, 1), f"malformed YAML: {error}", ""
    quoted = error.context == "while scanning a quoted scalar" and "end of stream" in (error.problem or "")
    if quoted and error.context_mark is not None:
        return _place(error.context_mark), "malformed YAML: the quote that opens here does not close", "close it"
    if mark.index < len(text) and text[mark.index] == "\t":
        return _place(mark), "malformed YAML: a tab stands where only spaces may", "indent with spaces"
    what = " ".join(part for part in (error.context, error.problem) if part)
    hint = next((hint for part, hint in _HINTS if part in what), "")
    return _place(mark), f"malformed YAML: {what}", hint


def _place(mark: Any) -> tuple[int, int]:
    return mark.line + 1, mark.column + 1
