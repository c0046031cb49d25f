"""Whether a secret reached a server that it was not meant for, from what the servers of tests were asked.

A login may reach the server it was given for, and the token server that this one named. A token may reach the server
that named the token server which made it. Nothing else may reach anybody, in whatever part of a request; and whoever
asks for no login gets none. Where a test does not say for whom a login is, it is for one server, which asked for it.
"""

from __future__ import annotations

import base64
import binascii
from collections import defaultdict
from collections.abc import Iterable, Sequence
from urllib.parse import quote, quote_plus

from reconciler.registry.hosts import Credentials
from reconciler.testing.recorded import Asked, Recorded

CERTIFICATE = "x-client-certificate"
"""Under this name a server records the fingerprint of the certificate that a client showed."""

_PROOFS = ("authorization", "proxy-authorization", "cookie", CERTIFICATE)
_LONG = 6  # a shorter secret may stand in a request by chance


def find_leaks(
    requests: Iterable[tuple[Recorded, Sequence[Asked]]], given: Iterable[tuple[str, Credentials]] = ()
) -> list[str]:
    """One line for each secret at a wrong place, of these requests to these servers.

    ``given`` are the logins by the host that they are for.
    """
    return _Search(requests, given).leaks()


class _Search:
    """What was sent to whom."""

    def __init__(
        self, requests: Iterable[tuple[Recorded, Sequence[Asked]]], given: Iterable[tuple[str, Credentials]]
    ) -> None:
        self._requests = [(server, tuple(asked)) for server, asked in requests]
        self._servers = [server for server, _ in self._requests]
        self._given: dict[str, set[str]] = defaultdict(set)
        for host, login in given:
            for shape in shapes_of(login):
                self._given[shape] |= self._family_of(host)
        self._proofs: dict[tuple[str, str], dict[str, Asked]] = defaultdict(dict)
        for server, several in self._requests:
            for asked in several:
                for kind in _PROOFS:
                    if value := asked.headers.get(kind):
                        self._proofs[kind, value].setdefault(server.url, asked)

    def leaks(self) -> list[str]:
        found = []
        for (kind, value), places in self._proofs.items():
            wrong = places.keys() - self._home(kind, value)
            found += [f"{kind} {value[:12]}... reached {url}: {places[url].line}" for url in sorted(wrong)]
        return found + self._in_the_open()

    def _home(self, kind: str, value: str) -> set[str]:
        """Where a proof of identity may be."""
        places = self._proofs[kind, value].keys()
        if kind == "cookie":
            return set()
        if kind != "authorization":
            return {next(iter(places))}
        if issuers := {server.url for server in self._servers if value.removeprefix("Bearer ") in server.issued}:
            return {server.url for server in self._servers if server.realms & issuers}
        if value in self._given:
            return self._given[value]
        families = [{server.url, *server.realms} for server in self._servers if server.wants_login]
        return max(families, key=lambda family: len(family & places), default=set())

    def _family_of(self, host: str) -> set[str]:
        """A server and the token servers that it named."""
        return {url for server in self._servers if server.host == host for url in (server.url, *server.realms)}

    def _in_the_open(self) -> list[str]:
        """Secrets that stand in a request elsewhere, in whatever part."""
        homes = {shape: set(home) for shape, home in self._given.items()}
        for kind, value in self._proofs:
            if kind == "authorization" and (login := _login(value)) is not None:
                for shape in shapes_of(login):
                    homes.setdefault(shape, set()).update(self._home(kind, value))
        plain = {shape: home for shape, home in homes.items() if not shape.startswith("Basic ")}
        return [
            f"{shape[:12]}... reached {server.url}: {asked.line}"
            for server, several in self._requests
            for asked in several
            for shape, home in plain.items()
            if server.url not in home and shape in _text(asked)
        ]


def shapes_of(login: Credentials) -> tuple[str, ...]:
    """The texts by which a login's secrets would be recognised."""
    basic = base64.b64encode(f"{login.username}:{login.password}".encode()).decode()
    secrets = [secret for secret in (login.password, login.identity_token) if len(secret) >= _LONG]
    return (f"Basic {basic}", *secrets, *(shape(secret) for secret in secrets for shape in (quote, quote_plus)))


def _login(value: str) -> Credentials | None:
    """What a Basic header proves."""
    scheme, _, encoded = value.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return Credentials(name, password)


def _text(asked: Asked) -> str:
    return " ".join((asked.line, *asked.headers.values(), asked.body[:4096].decode("latin-1")))
