"""Logins that docker and podman keep: ``config.json`` and ``auth.json`` (containers-auth.json(5)). Pure: text in.

The caller knows where the files are. Credential helpers are not run: a host whose login is in one is an error when
asked for, so that nobody goes on anonymously without knowing.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reconciler.errors import AuthError, InvalidError
from reconciler.registry.hosts import Credentials, canonical_host

_HUB_KEY = "https://index.docker.io/v1/"  # what docker itself writes for Docker Hub


@dataclass(frozen=True, slots=True)
class DockerConfig:
    """The logins of one file, by canonical host. ``helpers`` names the program that keeps a host's login."""

    logins: Mapping[str, Credentials] = field(default_factory=dict)
    helpers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, where: str) -> DockerConfig:
        """Reads a file's text; ``where`` names it in errors. Raises ``InvalidError``."""
        document = _document(text, where)
        logins: dict[str, Credentials] = {}
        helpers: dict[str, str] = {}
        store = str(document.get("credsStore") or "")
        for key, entry in _object(document, "auths", where).items():
            host = _host(key)
            if host is None:
                continue
            found = _credentials(entry, f"the login for {ascii(key)} in {where}")
            # An exact key wins over another spelling of the same host.
            if found is not None and (host not in logins or host == key):
                logins[host] = found
            elif found is None and store:
                helpers[host] = store
        for key, name in _object(document, "credHelpers", where).items():
            helpers[_host(key) or key] = str(name)
        return cls(logins, helpers)

    def credentials(self, host: str) -> Credentials | None:
        """The login for ``host``, None when there is none. Raises ``AuthError`` when it is in a credential helper."""
        host = canonical_host(host)
        if host in self.helpers:
            raise AuthError(
                f"the login for {host} is in the credential helper docker-credential-{self.helpers[host]},"
                " which is not supported yet",
                hint=f"run `reconciler login {host}`, or declare `auth:` under `registries:`",
            )
        return self.logins.get(host)


def with_login(text: str, where: str, host: str, login: Credentials) -> str:
    """The file's text with one login set; whatever else it holds is kept. Raises ``InvalidError``.

    The login is in the file itself, also where a credential helper kept the host's before.
    """
    document = _document(text, where)
    _forget(document, host, where)
    encoded = base64.b64encode(f"{login.username}:{login.password}".encode()).decode()
    auths = document["auths"] = _object(document, "auths", where)
    auths[_HUB_KEY if canonical_host(host) == "docker.io" else canonical_host(host)] = {"auth": encoded}
    return json.dumps(document, indent="\t") + "\n"


def without_login(text: str, where: str, host: str) -> str | None:
    """The file's text without the login for ``host``; None when it holds none. Raises ``InvalidError``."""
    document = _document(text, where)
    return json.dumps(document, indent="\t") + "\n" if _forget(document, host, where) else None


def _forget(document: dict[str, Any], host: str, where: str) -> bool:
    """Drops every spelling of a host from the logins and the helpers."""
    found = [
        (section, key)
        for section in ("auths", "credHelpers")
        for key in _object(document, section, where)
        if _host(key) == canonical_host(host)
    ]
    for section, key in found:
        del document[section][key]
    return bool(found)


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


def _host(key: str) -> str | None:
    """The host of a key, which may be a URL such as ``https://index.docker.io/v1/``.

    None for a login that podman keeps for one namespace of a host: it must not be used for the others.
    """
    bare = key.partition("://")[2] or key
    host, _, path = bare.partition("/")
    return canonical_host(host) if path.strip("/") in ("", "v1", "v2") else None
