"""The canonical form: what is stored at an apply and compared field by field at the next plan.

A form is a JSON object that holds only what differs from its default, so a field that a newer version adds is not a
change for a container that does not use it (invariant 7). Sets are sorted; sensitive values are their seals.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from ipaddress import IPv4Network
from typing import Any

from reconciler.model.address import Address
from reconciler.model.resources import Container, Endpoint, Image, Resource, Restart, Sensitive
from reconciler.oci.platform import Platform
from reconciler.oci.reference import Reference

Form = Mapping[str, Any]

# Sequences whose order carries no meaning: the same spec with these in another order is the same spec.
_SETS = frozenset(
    {"ports", "mounts", "secrets", "configs", "environment", "labels", "exposed_ports", "platforms", "protect"}
)
# They say when something happens or where bytes lie, not what the resource is.
_NOT_STORED = frozenset({"depends_on", "state", "policy", "path", "track"})
# Written as an object keyed by the first element.
_MAPS = frozenset({"environment", "labels"})


def form(resource: Resource) -> dict[str, Any]:
    """The canonical form of a resource. A container's image and an image's pinned digest are added by the planner."""
    fields = _fields(resource)
    if isinstance(resource, Container):
        del fields["image"]
    if isinstance(resource, Image):
        return {type(resource.source).__name__.lower(): _fields(resource.source)}
    return fields


def form_digest(value: Form) -> str:
    """A short stable name for a form: the sha256 (hex) of its compact JSON with sorted keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _fields(value: Any) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for item in dataclasses.fields(value):
        content = getattr(value, item.name)
        if item.name in _NOT_STORED or content == item.default:
            continue
        document[item.name] = _value(item.name, content)
    return document


def _value(name: str, value: Any) -> Any:
    if isinstance(value, Sensitive):
        return {"sensitive": value.seal}
    if isinstance(value, (Address, Reference, Platform, IPv4Network)):
        return str(value)
    if isinstance(value, Restart):
        return value.policy if value.attempts is None else f"{value.policy}:{value.attempts}"
    if isinstance(value, Endpoint) and value.resolve == "fallback":
        return value.url
    if dataclasses.is_dataclass(value):
        return _fields(value)
    if name in _MAPS:
        return {key: _value("", text) for key, text in sorted(value, key=lambda pair: str(pair[0]))}
    if isinstance(value, tuple):
        items = [_value("", item) for item in value]
        return sorted(items, key=_sort_key) if name in _SETS else items
    return value


def _sort_key(item: Any) -> str:
    return json.dumps(item, sort_keys=True)
