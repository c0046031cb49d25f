"""Proving who we are: Basic (RFC 7617) and the distribution token flow (Bearer).

A credential is given for one host. It goes to that host's own origin, and, in the token flow, to the token server that
this origin names, over a connection no weaker than the origin's. A token goes only to the origin that asked for it.

The logic is a generator per request, as httpx has it: it yields the header to try next and is sent what the server said
to it. Only token requests leave it through a function, because one is shared by all the threads that wait for the same
scope, and because it must not go out with the registry's client certificate.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit

import httpx

from reconciler.clock import Clock
from reconciler.errors import AuthError, InvalidError, RegistryError
from reconciler.registry.challenge import Challenge, parse_challenges
from reconciler.registry.echo import address
from reconciler.registry.failure import printable
from reconciler.registry.hosts import Credentials, Endpoint, origin_of
from reconciler.registry.turns import Turns
from reconciler.value import dataclass

DEFAULT_LIFETIME = 60.0
_MARGIN = 10.0
_MAX_LIFETIME = 24 * 3600.0
_MAX_ANSWERS = 3
_CLIENT_ID = "reconciler"
_TOKEN = re.compile(r"[\x21-\x7e]{1,65536}", re.ASCII)


Tries = Generator[str | None, Sequence[str], None]
"""The ``Authorization`` headers to try a request with; is sent the ``WWW-Authenticate`` headers of each 401."""


class FetchToken(Protocol):
    def __call__(self, url: str, authorization: str | None, form: Mapping[str, str] | None) -> bytes:
        """GETs ``url`` from a token server, or POSTs ``form`` there; the body, bounded.

        Raises ``RegistryError``, ``AuthError`` when refused.
        """


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

    def __init__(
        self, credentials: Callable[[str, str], Credentials | None], fetch_token: FetchToken, clock: Clock
    ) -> None:
        self._credentials = credentials
        self._fetch_token = fetch_token
        self._clock = clock
        self._schemes: dict[str, _Bearer | None] = {}
        self._tokens: dict[tuple[str, str], _Token] = {}
        self._flights = Turns()
        self._renewed: dict[tuple[str, str], str] = {}

    def tries(self, endpoint: Endpoint, scope: str) -> Tries:
        """How to ask for ``scope`` at ``endpoint``. Ends when there is nothing better to send than what was refused.

        Raises ``AuthError`` when nothing can be sent at all: no login, no encryption, a challenge that nobody can meet.
        """
        header = self._first(endpoint, scope)
        answered: set[tuple[str, ...]] = set()
        while True:
            challenges = tuple((yield header))
            # The same challenge twice means that our answer to it is not good enough.
            if challenges in answered or len(answered) >= _MAX_ANSWERS:
                return
            answered.add(challenges)
            header = self._answer(endpoint, scope, challenges, header)

    def _first(self, endpoint: Endpoint, scope: str) -> str | None:
        """The header to begin with: None until this origin has asked for one."""
        if endpoint.origin not in self._schemes:
            return None
        bearer = self._schemes[endpoint.origin]
        if bearer is None:
            return self._basic(endpoint, scope)
        return self._token(endpoint, bearer, scope, scope, refused=None)

    def _answer(self, endpoint: Endpoint, scope: str, challenges: Sequence[str], refused: str | None) -> str:
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
            header = self._basic(endpoint, scope)
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

    def _basic(self, endpoint: Endpoint, scope: str) -> str:
        credentials = self._credentials(endpoint.credential_name, _repository(scope))
        if credentials is None:
            raise AuthError(
                f"{endpoint.name}: login required",
                hint=f"run `reconciler login {endpoint.credential_name}`, or declare `auth:` under `registries:`",
            )
        if credentials.identity_token:
            raise AuthError(
                f"{endpoint.name}: wants a user name and a password, and the login at hand is an identity token",
                hint=f"run `reconciler login {endpoint.credential_name}` with a user name and a password",
            )
        return _basic_header(credentials)

    def _token(self, endpoint: Endpoint, bearer: _Bearer, scope: str, wanted: str, refused: str | None) -> str:
        """The cached token for ``scope`` unless stale or ``refused``; else one fetched for ``wanted``, once for all."""
        key = (endpoint.origin, scope)
        with self._flights.of(key):
            token = self._tokens.get(key)
            if token is None or token.header == refused or self._clock.monotonic() >= token.stale_at:
                token = self._tokens[key] = self._fetch(endpoint, bearer, wanted)
            return token.header

    def _fetch(self, endpoint: Endpoint, bearer: _Bearer, scope: str) -> _Token:
        credentials = self._credentials(endpoint.credential_name, _repository(scope))
        asked_at = self._clock.monotonic()
        if credentials is not None and credentials.identity_token:
            body = self._exchange(endpoint, bearer, scope, credentials.identity_token)
        else:
            query = [("service", bearer.service)] if bearer.service else []
            query += [("scope", part) for part in scope.split()]
            joint = "&" if urlsplit(bearer.realm).query else "?"
            url = f"{bearer.realm}{joint}{urlencode(query)}" if query else bearer.realm
            body = self._fetch_token(url, None if credentials is None else _basic_header(credentials), None)
        token, lifetime = _read_token(endpoint, _document(endpoint, body))
        return _Token(f"Bearer {token}", asked_at + lifetime - min(_MARGIN, lifetime / 4))

    def _exchange(self, endpoint: Endpoint, bearer: _Bearer, scope: str, identity: str) -> bytes:
        """The token server's answer to an identity token (OAuth 2.0, RFC 6749, section 6).

        It may renew the identity token. The new one serves for the life of this client; where the old one came from is
        not written to.
        """
        held = (endpoint.origin, identity)
        form = {
            "grant_type": "refresh_token",
            "service": bearer.service,
            "client_id": _CLIENT_ID,
            "scope": scope,
            "refresh_token": self._renewed.get(held, identity),
        }
        body = self._fetch_token(bearer.realm, None, form)
        renewed = _document(endpoint, body).get("refresh_token")
        if isinstance(renewed, str) and _TOKEN.fullmatch(renewed):
            self._renewed[held] = renewed
        return body


def _repository(scope: str) -> str:
    """The repository that the first part of a scope is about; "" when it is about none."""
    kind, _, rest = scope.partition(" ")[0].partition(":")
    return rest.rpartition(":")[0] if kind == "repository" else ""


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
        usable = parts.scheme in ("http", "https") and bool(httpx.URL(realm).host) and "@" not in parts.netloc
        origin_of(realm)
    except (httpx.InvalidURL, InvalidError, ValueError):
        usable = False
    if not usable or not _TOKEN.fullmatch(realm):
        raise AuthError(f"{endpoint.name}: names no usable token server: realm={printable(address(realm))!r}")
    if parts.scheme == "http" and not endpoint.origin.startswith("http://"):
        raise AuthError(
            f"{endpoint.name}: names a token server without encryption, {printable(address(realm))};"
            " nothing was sent to it",
            hint="the registry's token realm must be an https URL",
        )
    return realm


def _basic_header(credentials: Credentials) -> str:
    if ":" in credentials.username:
        raise AuthError("a user name for Basic authentication holds no colon (RFC 7617)")
    # A password from a file or a variable may be any bytes: they are sent as they are.
    login = f"{credentials.username}:{credentials.password}".encode("utf-8", "surrogateescape")
    return "Basic " + base64.b64encode(login).decode()


def _document(endpoint: Endpoint, body: bytes) -> dict[str, Any]:
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise RegistryError(f"{endpoint.name}: its token server gave no JSON object")
    return document


def _read_token(endpoint: Endpoint, document: dict[str, Any]) -> tuple[str, float]:
    token = document.get("token") or document.get("access_token")
    # A line break in a token would end the header and begin another.
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise RegistryError(f"{endpoint.name}: its token server gave no usable token")
    lifetime = document.get("expires_in")
    if not isinstance(lifetime, (int, float)) or isinstance(lifetime, bool) or not lifetime > 0:
        lifetime = DEFAULT_LIFETIME
    return token, min(float(lifetime), _MAX_LIFETIME)
