"""ROOT/host.yaml: the labels of this host, and what its owner allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from pathlib import Path

from reconciler.errors import InvalidError
from reconciler.registry.from_host.places import Places
from reconciler.store.archive.limits import DEFAULTS, Limits, read_limits
from reconciler.value import dataclass

_PLACES = frozenset(field.name for field in fields(Places))
_KNOWN = {"labels", "limits", "sysctls", *_PLACES}


@dataclass(frozen=True, slots=True)
class HostSettings:
    """``labels`` are what ``hosts:`` in a spec selects by. ``may_set_sysctls`` is false for ``sysctls: leave``.

    ``limits`` bound what images may make this host do; ``places`` says where other programs declare mirrors.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    may_set_sysctls: bool = True
    limits: Limits = DEFAULTS
    places: Places = field(default_factory=Places)


def read_host_settings(root: Path) -> HostSettings:
    """The settings, or the defaults where there is no file. Raises ``InvalidError`` for a file that is not right."""
    path = root / "host.yaml"
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return HostSettings()
    except UnicodeDecodeError:
        raise InvalidError(f"{path} is not UTF-8 text", hint="mend the file") from None
    import yaml

    try:
        document = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise InvalidError(f"{path}: {error}", hint="mend the file") from None
    if not isinstance(document, dict) or set(document) - _KNOWN:
        raise InvalidError(f"{path} may hold only {', '.join(sorted(_KNOWN))}", hint="take out what is not known")
    labels = document.get("labels") or {}
    if not isinstance(labels, dict) or not all(isinstance(item, str) for pair in labels.items() for item in pair):
        raise InvalidError(f"{path}: labels must be a map of text to text", hint="quote the values")
    if document.get("sysctls", "set") not in ("set", "leave"):
        raise InvalidError(f"{path}: sysctls is neither set nor leave", hint="write sysctls: leave, or leave it out")
    try:
        limits = read_limits(document.get("limits"))
    except InvalidError as error:
        raise InvalidError(f"{path}: {error}", hint=error.hint) from None
    return HostSettings(labels, document.get("sysctls", "set") == "set", limits, _places(document, path))


def _places(document: Mapping[str, object], path: Path) -> Places:
    found = {}
    for name in sorted(_PLACES & document.keys()):
        value = document[name]
        if not isinstance(value, str) or not Path(value).is_absolute():
            raise InvalidError(f"{path}: {name} is no absolute path", hint="write a path that begins with /")
        found[name] = Path(value)
    return Places(**found)
