"""Proving who we are: Basic (RFC 7617) and the distribution token flow (Bearer).

A credential is given for one host. It goes to that host's own origin, and, in the token flow, to the token server that
this origin names, over a connection no weaker than the origin's. A token goes only to the origin that asked for it.

httpx has a protocol for this, a generator per request. It is not used here, because a token request must be shared by
all the threads that wait for the same scope, and must not go out with the registry's client certificate.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit

from reconciler.clock import Clock
from reconciler.errors import AuthError, RegistryError
from reconciler.registry.challenge import Challenge, parse_challenges
from reconciler.registry.failure import printable
from reconciler.registry.hosts import Credentials, Endpoint

DEFAULT_LIFETIME = 60.0
_MARGIN = 10.0
_MAX_LIFETIME = 24 * 3600.0
_TOKEN = re.compile(r"[\x21-\x7e]{1,65536}", re.ASCII)


class FetchToken(Protocol):
    def __call__(self, url: str, authorization: str | None) -> bytes:
        """GETs ``url`` from a token server; the body, bounded. Raises ``RegistryError``, ``AuthError`` when refused."""


@dataclass(frozen=True, slots=True)
class _Bearer:
    """What a bearer challenge asks for."""

    realm: str
    service: str


@dataclass(frozen=True, slots=True)
class _Token:
    """A token, and until when it is good on the monotonic clock."""

    header: str
    stale_at: float


class Authenticator:
    """Knows, per origin, how it wants to be asked, and keeps its tokens. Safe to share between threads."""

    def __init__(self, credentials: Callable[[str], Credentials | None], fetch_token: FetchToken, clock: Clock) -> None:
        self._credentials = credentials
        self._fetch_token = fetch_token
        self._clock = clock
        self._guard = threading.Lock()
        self._schemes: dict[str, _Bearer | None] = {}
        self._tokens: dict[tuple[str, str], _Token] = {}
        self._flights: dict[tuple[str, str], threading.Lock] = {}

    def authorization(self, endpoint: Endpoint, scope: str) -> str | None:
        """The ``Authorization`` header to begin with: None until this origin has asked for one."""
        if endpoint.origin not in self._schemes:
            return None
        bearer = self._schemes[endpoint.origin]
        if bearer is None:
            return self._basic(endpoint)
        return self._token(endpoint, bearer, scope, scope, refused=None)

    def answer(self, endpoint: Endpoint, scope: str, challenges: Sequence[str], refused: str | None) -> str:
        """The header to answer a 401 with: ``challenges`` are its ``WWW-Authenticate`` headers, ``refused`` was sent.

        Raises ``AuthError`` when there is nothing better to send.
        """
        if not endpoint.authenticates:
            raise AuthError(
                f"{endpoint.name}: wants a login, and none is sent over plain http",
                hint=f"use https, or set `plain_http: true` for {endpoint.credential_name}",
            )
        challenge = _first_supported(endpoint, parse_challenges(challenges))
        if challenge.scheme == "basic":
            self._schemes[endpoint.origin] = None
            header = self._basic(endpoint)
            if header == refused:
                raise AuthError(
                    f"{endpoint.name}: user name or password refused",
                    hint=f"run `reconciler login {endpoint.credential_name}`",
                )
            return header
        bearer = _Bearer(_realm(endpoint, challenge), challenge.parameters.get("service", ""))
        self._schemes[endpoint.origin] = bearer
        asked = challenge.parameters.get("scope", "")
        wanted = " ".join(dict.fromkeys([*asked.split(), *scope.split()]))
        return self._token(endpoint, bearer, scope, wanted, refused)

    def _basic(self, endpoint: Endpoint) -> str:
        credentials = self._credentials(endpoint.credential_name)
        if credentials is None:
            raise AuthError(
                f"{endpoint.name}: login required",
                hint=f"run `reconciler login {endpoint.credential_name}`, or declare `auth:` under `registries:`",
            )
        return _basic_header(credentials)

    def _token(self, endpoint: Endpoint, bearer: _Bearer, scope: str, wanted: str, refused: str | None) -> str:
        """The cached token for ``scope`` unless stale or ``refused``; else one fetched for ``wanted``, once for all."""
        key = (endpoint.origin, scope)
        with self._guard:
            flight = self._flights.setdefault(key, threading.Lock())
        with flight:
            token = self._tokens.get(key)
            if token is None or token.header == refused or self._clock.monotonic() >= token.stale_at:
                token = self._tokens[key] = self._fetch(endpoint, bearer, wanted)
            return token.header

    def _fetch(self, endpoint: Endpoint, bearer: _Bearer, scope: str) -> _Token:
        credentials = self._credentials(endpoint.credential_name)
        query = [("service", bearer.service)] if bearer.service else []
        query += [("scope", part) for part in scope.split()]
        joint = "&" if urlsplit(bearer.realm).query else "?"
        url = f"{bearer.realm}{joint}{urlencode(query)}" if query else bearer.realm
        asked_at = self._clock.monotonic()
        body = self._fetch_token(url, None if credentials is None else _basic_header(credentials))
        token, lifetime = _read_token(endpoint, body)
        return _Token(f"Bearer {token}", asked_at + lifetime - min(_MARGIN, lifetime / 4))


def _first_supported(endpoint: Endpoint, challenges: Sequence[Challenge]) -> Challenge:
    for challenge in challenges:
        if challenge.scheme in ("basic", "bearer"):
            return challenge
    offered = printable(", ".join(challenge.scheme for challenge in challenges)) or "nothing"
    raise AuthError(f"{endpoint.name}: 401, and offers {offered} to log in with; Basic and Bearer are supported")


def _realm(endpoint: Endpoint, challenge: Challenge) -> str:
    realm = challenge.parameters.get("realm", "")
    try:
        parts = urlsplit(realm)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        usable = False
    if not usable or not _TOKEN.fullmatch(realm):
        raise AuthError(f"{endpoint.name}: names no usable token server: realm={printable(realm)!r}")
    if parts.scheme == "http" and not endpoint.origin.startswith("http://"):
        raise AuthError(
            f"{endpoint.name}: names a token server without encryption, {printable(realm)}; nothing was sent to it",
            hint="the registry's token realm must be an https URL",
        )
    return realm


def _basic_header(credentials: Credentials) -> str:
    if ":" in credentials.username:
        raise AuthError("a user name for Basic authentication holds no colon (RFC 7617)")
    return "Basic " + base64.b64encode(f"{credentials.username}:{credentials.password}".encode()).decode()


def _read_token(endpoint: Endpoint, body: bytes) -> tuple[str, float]:
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise RegistryError(f"{endpoint.name}: its token server gave no JSON object")
    token = document.get("token") or document.get("access_token")
    # A line break in a token would end the header and begin another.
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise RegistryError(f"{endpoint.name}: its token server gave no usable token")
    lifetime = document.get("expires_in")
    if not isinstance(lifetime, (int, float)) or isinstance(lifetime, bool) or not lifetime > 0:
        lifetime = DEFAULT_LIFETIME
    return token, min(float(lifetime), _MAX_LIFETIME)
