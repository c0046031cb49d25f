"""Bounds on what images may make this host do: their layers, and their manifests.

The defaults let through whatever real builders write and stop what only an attacker would. ``limits`` in ROOT/host.yaml
changes them, for instance ``limits: {layer_bytes: 256GiB, layer_entries: 20M}``.
"""

from __future__ import annotations

import re
from dataclasses import fields

from reconciler.errors import InvalidError, LimitError
from reconciler.oci.sizes import DEFAULT_MANIFEST_BYTES, MAX_MANIFEST_BYTES
from reconciler.value import dataclass

_AMOUNT = re.compile(r"([1-9][0-9]{0,17}) ?([A-Za-z]*)", re.ASCII)
_BYTES = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_COUNTS = {"": 1, "K": 1000, "M": 1_000_000}
_SIZES = frozenset({"layer_bytes", "file_bytes", "header_bytes", "compression_ratio_from", "manifest_bytes"})
_MOST = {"manifest_bytes": MAX_MANIFEST_BYTES}


@dataclass(frozen=True, slots=True)
class Limits:
    """One value for each bound; all are the largest that is allowed.

    ``layer_bytes``: one layer, uncompressed, as it streams (what it says is stored, holes not counted).
    ``layer_entries``: entries of one layer.
    ``file_bytes``: the size of one file as programs see it, holes counted; the default is what ext4 can have.
    ``path_depth``: directories on the way to an entry.
    ``header_bytes``: extended headers of one entry (long names, pax records, the map of a sparse file), and the global
    headers together. One extended attribute can take 64 KiB.
    ``compression_ratio``: uncompressed bytes for each compressed one. Files of zeros and logs reach a thousand for
    good reasons, so it only counts once a layer has come to more than ``compression_ratio_from`` bytes.
    ``manifest_bytes``: a manifest or index that a registry serves. More than 64 MiB cannot be allowed.
    """

    layer_bytes: int = 64 << 30
    layer_entries: int = 10_000_000
    file_bytes: int = 16 << 40
    path_depth: int = 500
    header_bytes: int = 1 << 20
    compression_ratio: int = 200
    compression_ratio_from: int = 4 << 30
    manifest_bytes: int = DEFAULT_MANIFEST_BYTES

    def exceeded(self, name: str, what: str) -> LimitError:
        """The error for ``what`` ("the entry at byte 512 has 9 bytes"), which is beyond the limit ``name``."""
        value = getattr(self, name)
        return LimitError(
            f"{what}, which is more than {name} ({value}) allows",
            hint=f"if the image can be trusted, raise it in host.yaml of the root: `limits: {{{name}: {2 * value}}}`",
        )


DEFAULTS = Limits()


def read_limits(document: object) -> Limits:
    """The limits of a parsed ``limits:`` map. Raises ``InvalidError`` naming the key that is not right."""
    if document is None:
        return DEFAULTS
    names = [field.name for field in fields(Limits)]
    if not isinstance(document, dict) or not set(document) <= set(names):
        raise InvalidError(f"limits may hold only {', '.join(names)}", hint="take out what is not known")
    return Limits(**{name: _amount(name, value) for name, value in document.items()})


def _amount(name: str, value: object) -> int:
    units = _BYTES if name in _SIZES else _COUNTS
    match = _AMOUNT.fullmatch(str(value)) if isinstance(value, (int, str)) and not isinstance(value, bool) else None
    if match is None or match[2] not in units:
        known = ", ".join(unit for unit in units if unit)
        raise InvalidError(f"limits: {name} is not a positive whole number", hint=f"units are {known}")
    amount = int(match[1]) * units[match[2]]
    if amount > _MOST.get(name, amount):
        raise InvalidError(f"limits: {name} is more than {_MOST[name]}", hint="that is the most there can be")
    return amount
