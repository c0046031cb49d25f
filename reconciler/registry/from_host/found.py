"""What a file of another program says of registries, as far as our rules can express it.

What they cannot is left out with a note, never approximated: a mirror less costs time, a mirror too many may answer
what nobody meant it to. Verification of TLS is never turned off, and no login is taken from such a file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import field
from typing import Any

from reconciler.errors import InvalidError
from reconciler.oci.reference import parse_registry
from reconciler.registry.hosts import MirrorEndpoint, Resolve, TlsConfig, canonical_host
from reconciler.value import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """What is said of one registry: the mirrors to ask before it, or that nobody may ask it."""

    endpoints: tuple[MirrorEndpoint, ...] = ()
    blocked: bool = False


@dataclass(frozen=True, slots=True)
class Said:
    """All that one file says: ``rules`` by registry, ``tls`` by host, and a sentence for each thing left out."""

    rules: Mapping[str, Rule] = field(default_factory=dict)
    tls: Mapping[str, TlsConfig] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class Found:
    """Collects while one file, named ``where``, is read."""

    where: str
    rules: dict[str, Rule] = field(default_factory=dict)
    tls: dict[str, TlsConfig] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(f"{self.where}: {text}")

    def said(self) -> Said:
        return Said(self.rules, self.tls, tuple(self.notes))

    def mirror(self, url: str, resolve: Resolve) -> MirrorEndpoint | None:
        """An endpoint, or None and a note for a URL that can be none."""
        try:
            return MirrorEndpoint(url.rstrip("/"), resolve)
        except InvalidError as error:
            self.note(f"left out: {error}")
            return None


def document_of(text: str, where: str) -> dict[str, Any]:
    """A TOML file. Raises ``InvalidError`` naming it, and the line."""
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidError(f"{where} is no TOML: {error}", hint="mend it, or leave `from_host` out") from None


def tables_of(document: Mapping[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    """A list of tables; empty when it is not there. Raises ``InvalidError``."""
    value = document.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InvalidError(f"{where}: {key} is no list of tables", hint=f"write [[{key}]]")
    return value


def text_of(table: Mapping[str, Any], key: str, where: str) -> str:
    """A text; empty when it is not there. Raises ``InvalidError``."""
    value = table.get(key, "")
    if not isinstance(value, str):
        raise InvalidError(f"{where}: {key} is no text", hint="quote it")
    return value.strip()


def truth_of(table: Mapping[str, Any], key: str, where: str) -> bool:
    """True or false; false when it is not there. Raises ``InvalidError``."""
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise InvalidError(f"{where}: {key} is neither true nor false", hint="write it without quotes")
    return value


def registry_of(name: str) -> str | None:
    """A whole registry's name; None for anything else."""
    try:
        return canonical_host(parse_registry(name))
    except InvalidError:
        return None
