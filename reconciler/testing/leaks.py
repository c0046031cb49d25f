"""Whether a secret reached a server that it was not meant for, from what scripted servers were asked and answered.

A login may reach the server it was given for, and the token server that this one named. A token may reach the server
that named the token server which made it. Nothing else may reach anybody, in whatever part of a request.
"""

from __future__ import annotations

import base64
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import quote_plus

from reconciler.registry.hosts import Credentials, origin_of
from reconciler.testing.scripted_registry import Asked, ScriptedRegistry

_REALM = re.compile(r'realm="?(https?://[^",\s]+)', re.ASCII)
_LONG = 6  # a shorter secret may stand in a request by chance


def find_leaks(servers: Sequence[ScriptedRegistry], given: Iterable[tuple[str, Credentials]]) -> list[str]:
    """One line for each secret at a wrong place. ``given`` are the logins by the host that they are for."""
    token_servers = {server.url: _realms(server) for server in servers}
    allowed: dict[str, set[str]] = defaultdict(set)
    for host, login in given:
        for server in servers:
            if server.host == host:
                for shape in shapes_of(login):
                    allowed[shape] |= {server.url, *token_servers[server.url]}
            else:
                for shape in shapes_of(login):
                    allowed[shape] |= set()
    for server in servers:
        for token in _tokens(server):
            allowed[f"Bearer {token}"] |= {url for url, realms in token_servers.items() if server.url in realms}
    return [
        f"{secret[:12]}... reached {server.url}: {asked.line}"
        for server in servers
        for asked in server.asked
        for secret, places in allowed.items()
        if server.url not in places and _holds(asked, secret)
    ] + [f"a cookie reached {server.url}" for server in servers for asked in server.asked if "cookie" in asked.headers]


def shapes_of(login: Credentials) -> tuple[str, ...]:
    """The texts by which a login's secrets would be recognised."""
    basic = base64.b64encode(f"{login.username}:{login.password}".encode()).decode()
    secrets = [secret for secret in (login.password, login.identity_token) if len(secret) >= _LONG]
    return (f"Basic {basic}", *secrets, *(quote_plus(secret) for secret in secrets))


def _holds(asked: Asked, secret: str) -> bool:
    if secret.startswith(("Basic ", "Bearer ")):
        return asked.headers.get("authorization") == secret
    whole = " ".join((asked.line, *asked.headers.values(), asked.body[:4096].decode("latin-1")))
    return secret in whole


def _realms(server: ScriptedRegistry) -> set[str]:
    """The origins of the token servers that it named, as ``ScriptedRegistry.url`` has them."""
    challenges = [
        value for _, _, pairs in server.answered for name, value in pairs if name.lower() == "www-authenticate"
    ]
    return {origin_of(realm) for value in challenges for realm in _REALM.findall(value)}


def _tokens(server: ScriptedRegistry) -> set[str]:
    """The tokens it made."""
    found = set()
    for asked, body, _ in server.answered:
        if "/token" not in asked.line:
            continue
        try:
            document: Mapping[str, object] = json.loads(body)
            found |= {str(document[key]) for key in ("token", "access_token") if key in document}
        except (ValueError, TypeError):
            continue
    return found
