"""Differences between two canonical forms, field by field."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from reconciler.model.canonical import Form
from reconciler.plan.plan import FieldChange

SENSITIVE = "(sensitive)"
# The entries of these lists have a name of their own, so that one that changes is shown as itself.
_NAMED = {"mounts": "target", "secrets": "name", "configs": "name"}


def diff(before: Form, after: Form, *, in_place: Collection[str] | None = None) -> tuple[FieldChange, ...]:
    """The fields that differ, by path: ``environment.LOG``, ``mounts[/data].read_only``, ``command``.

    ``in_place`` names the top-level fields that change without a replacement; None means that all do. Sensitive
    values are compared by their seals and come out as ``(sensitive)``.
    """
    if before == after:
        return ()
    changes: list[FieldChange] = []
    for name in sorted(before.keys() | after.keys()):
        replaces = in_place is not None and name not in in_place
        _compare(name, before.get(name), after.get(name), replaces, changes)
    return tuple(changes)


def _compare(path: str, old: Any, new: Any, replaces: bool, changes: list[FieldChange]) -> None:
    if old == new:
        return
    if (label := _NAMED.get(path)) and _is_named(old, label) and _is_named(new, label):
        for key, earlier, later in _pairs(_by_name(old, label), _by_name(new, label)):
            if earlier is None or later is None:
                changes.append(_change(f"{path}[{key}]", earlier, later, replaces))
            else:
                _compare(f"{path}[{key}]", earlier, later, replaces, changes)
    elif _is_map(old) and _is_map(new) and (old or new):
        for key, earlier, later in _pairs(old or {}, new or {}):
            _compare(f"{path}.{key}", earlier, later, replaces, changes)
    else:
        changes.append(_change(path, old, new, replaces))


def _change(path: str, old: Any, new: Any, replaces: bool) -> FieldChange:
    before, after = _shown(old), _shown(new)
    return FieldChange(path, before, after, replaces, sensitive=before != old or after != new)


def _pairs(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    return [(key, old.get(key), new.get(key)) for key in sorted(old.keys() | new.keys())]


def _is_named(value: Any, label: str) -> bool:
    return value is None or all(isinstance(item, Mapping) and label in item for item in value)


def _by_name(value: Any, label: str) -> dict[str, Any]:
    return {str(item[label]): item for item in value or ()}


def _is_map(value: Any) -> bool:
    return value is None or (isinstance(value, Mapping) and not _is_sensitive(value))


def _is_sensitive(value: Any) -> bool:
    return isinstance(value, Mapping) and value.keys() == {"sensitive"}


def _shown(value: Any) -> Any:
    """The value as it may be printed: seals, however deep, become ``(sensitive)``."""
    if _is_sensitive(value):
        return SENSITIVE
    if isinstance(value, Mapping):
        return {key: _shown(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shown(item) for item in value]
    return value
