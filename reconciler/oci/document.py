"""JSON documents from outside, read so that every reader finds the same in them.

Go's reader takes the last of two equal keys, takes ``Layers`` for ``layers`` and ignores what it does not know; others
take the first, or see two fields. A document that says different things to different readers is refused here, since a
digest vouches for the bytes alone (CVE-2021-41190 is of that kind).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection
from typing import Any

from reconciler.errors import InvalidError

MAX_DEPTH = 64
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_document(data: bytes, what: str, limit: int) -> Any:
    """The value of a JSON text (RFC 8259) of at most ``limit`` bytes; ``what`` names it in errors.

    Raises ``InvalidError`` for more bytes, for what is not JSON in UTF-8, and for what readers differ on: a key that is
    there twice, NaN, a number without end, half a surrogate pair, more than ``MAX_DEPTH`` levels.
    """
    if len(data) > limit:
        raise InvalidError(f"{what} has {len(data)} bytes, more than the {limit} allowed")
    try:
        text = data.decode()
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_number)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeError:
        raise InvalidError(f"{what} is not text in UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise InvalidError(f"{what} is not JSON: {error}") from None
    _check_depth(value, what)
    return value


def read_object(data: bytes, what: str, limit: int) -> dict[str, Any]:
    """As ``read_document``, of a JSON object."""
    value = read_document(data, what, limit)
    if not isinstance(value, dict):
        raise InvalidError(f"{what} is not a JSON object")
    return value


def check_keys(document: dict[str, Any], known: Collection[str], where: str) -> None:
    """Raises ``InvalidError`` for a key that differs from one of the ``known``, which are lower case, by case alone."""
    folded = {name.casefold() for name in known}
    for key in document.keys() - known:
        if key.casefold() in folded:
            raise InvalidError(f"{where} has the key {key[:100]!a}, which some readers take for another")


def text_field(document: dict[str, Any], key: str, where: str) -> str:
    """The text under ``key``, ``""`` when it is absent or null. Raises ``InvalidError`` for any other value."""
    value = document.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidError(f"{where} has a field {key!r} that is not text")
    return value


def object_field(document: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    """The object under ``key``, empty when it is absent or null. Raises ``InvalidError`` for any other value."""
    value = document.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidError(f"{where} has a field {key!r} that is not an object")
    return value


def list_field(document: dict[str, Any], key: str, where: str) -> list[Any]:
    """The list under ``key``, empty when it is absent or null. Raises ``InvalidError`` for any other value."""
    value = document.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidError(f"{where} has a field {key!r} that is not a list")
    return value


def texts_field(document: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    """The list of texts under ``key``, empty when it is absent or null. Raises ``InvalidError`` for any other value."""
    values = list_field(document, key, where)
    if not all(isinstance(value, str) for value in values):
        raise InvalidError(f"{where} has a field {key!r} that is not a list of text")
    return tuple(values)


def labels_field(document: dict[str, Any], key: str, where: str) -> dict[str, str]:
    """The object of texts under ``key``, as annotations and labels are; a null in it is ``""``. ``InvalidError``."""
    values = object_field(document, key, where)
    if not all(value is None or isinstance(value, str) for value in values.values()):
        raise InvalidError(f"{where} has a field {key!r} with a value that is not text")
    return {name: value or "" for name, value in values.items()}


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:100]!a} is there twice")
    return found


def _constant(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is out of range")
    return value


def _check_depth(value: Any, what: str) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        children = (
            item.values() if isinstance(item, dict) else item for item in level if isinstance(item, (dict, list))
        )
        level = [child for found in children for child in found if isinstance(child, (dict, list))]
        if not level:
            return
    raise InvalidError(f"{what} has more than {MAX_DEPTH} levels")
