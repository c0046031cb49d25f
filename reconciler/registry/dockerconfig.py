"""Logins that docker and podman keep: ``config.json`` and ``auth.json`` (containers-auth.json(5)). Pure: text in.

The caller knows where the files are, and runs the credential helpers that they name.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import field
from typing import Any

from reconciler.errors import InvalidError
from reconciler.registry.hosts import HUB, Credentials, canonical_host
from reconciler.registry.keychain import HUB_SERVER
from reconciler.value import dataclass


@dataclass(frozen=True, slots=True)
class Kept:
    """The login is in the credential helper ``docker-credential-NAME``, under the host's name."""

    helper: str


@dataclass(frozen=True, slots=True)
class DockerConfig:
    """The logins of one file, by canonical host, or by ``HOST/NAMESPACE`` as podman keeps them.

    ``helpers`` names the program that keeps a host's login. ``store`` is the one that keeps all others: docker then
    leaves an empty entry behind for each host it logged in to, and only those are asked for there.
    """

    logins: Mapping[str, Credentials] = field(default_factory=dict)
    helpers: Mapping[str, str] = field(default_factory=dict)
    store: str = ""

    @classmethod
    def parse(cls, text: str, where: str) -> DockerConfig:
        """Reads a file's text; ``where`` names it in errors. Raises ``InvalidError``."""
        document = _document(text, where)
        logins: dict[str, Credentials] = {}
        helpers: dict[str, str] = {}
        store = _name(document.get("credsStore"), where)
        for key, entry in _object(document, "auths", where).items():
            scope = _scope(key)
            if scope is None:
                continue
            found = _credentials(entry, f"the login for {ascii(key)} in {where}")
            # An exact key wins over another spelling of the same host.
            if found is not None and (scope not in logins or scope == key):
                logins[scope] = found
            elif found is None and store:
                helpers[scope] = store
        for key, name in _object(document, "credHelpers", where).items():
            helpers[_scope(key) or key] = _name(name, where)
        return cls(logins, helpers, store)

    def login(self, host: str, repository: str = "") -> Credentials | Kept | None:
        """The login for ``repository`` of ``host``, or where it is kept; None when there is none.

        Of several that fit, the one for the longest namespace is it.
        """
        scope = f"{canonical_host(host)}/{repository}".rstrip("/")
        while scope:
            if scope in self.helpers:
                return Kept(self.helpers[scope])
            if scope in self.logins:
                return self.logins[scope]
            scope = scope.rpartition("/")[0]
        return None

    def helper_for(self, host: str) -> str:
        """The helper that a new login for ``host`` belongs into; "" for the file itself."""
        return self.helpers.get(canonical_host(host)) or self.store


def with_login(text: str, where: str, host: str, login: Credentials | None) -> str:
    """The file's text with one login set; whatever else it holds is kept. Raises ``InvalidError``.

    None stands for a login that a helper keeps: then the file says only that there is one.
    """
    document = _document(text, where)
    _forget(document, host, where)
    entry = {}
    if login is not None:
        entry["auth"] = base64.b64encode(f"{login.username}:{login.password}".encode()).decode()
        if login.identity_token:
            entry["identitytoken"] = login.identity_token
    auths = document["auths"] = _object(document, "auths", where)
    auths[HUB_SERVER if canonical_host(host) == HUB else canonical_host(host)] = entry
    return json.dumps(document, indent="\t") + "\n"


def without_login(text: str, where: str, host: str) -> str | None:
    """The file's text without the login for ``host``; None when it holds none. Raises ``InvalidError``."""
    document = _document(text, where)
    return json.dumps(document, indent="\t") + "\n" if _forget(document, host, where) else None


def _forget(document: dict[str, Any], host: str, where: str) -> bool:
    """Drops every spelling of a host from the logins. Which helper is in charge of it stays."""
    auths = _object(document, "auths", where)
    found = [key for key in auths if _scope(key) == canonical_host(host)]
    for key in found:
        del auths[key]
    return bool(found)


def _name(value: object, where: str) -> str:
    if value is not None and not isinstance(value, str):
        raise InvalidError(f"{where}: a credential helper's name is no text")
    return value or ""


def _document(text: str, where: str) -> dict[str, Any]:
    try:
        document: Any = json.loads(text or "{}")
    except (ValueError, RecursionError):
        document = None  # the text holds secrets: not even the position of the error is quoted
    if not isinstance(document, dict):
        raise InvalidError(f"{where} is no JSON object", hint="repair it, or move it away and log in again")
    return document


def _object(document: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    value = document.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidError(f"{where}: {key} is no object")
    return value


def _credentials(entry: Any, where: str) -> Credentials | None:
    """The entry's login; None for an entry without one, as docker leaves behind when a helper keeps it."""
    if not isinstance(entry, dict):
        raise InvalidError(f"{where} is no object")
    if entry.get("identitytoken"):
        return Credentials("", "", str(entry["identitytoken"]))
    if entry.get("username") and entry.get("password"):
        return Credentials(str(entry["username"]), str(entry["password"]))
    encoded = entry.get("auth")
    if not encoded:
        return None
    try:
        username, colon, password = base64.b64decode(str(encoded), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        colon = ""
    if not colon:
        raise InvalidError(f"{where} is malformed", hint="log in again")
    return Credentials(username, password.rstrip("\0"))


def _scope(key: str) -> str | None:
    """What a key is about: a host, which may be given as a URL such as docker's, or a namespace of a host.

    None for a URL with another path: nobody says what it means.
    """
    _, scheme, bare = key.rpartition("://")
    host, _, path = bare.partition("/")
    path = path.strip("/")
    if path in ("", "v1", "v2"):
        return canonical_host(host)
    return None if scheme else f"{canonical_host(host)}/{path}"
