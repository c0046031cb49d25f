"""A token server as registries use them (distribution's "Token Authentication"), signing with a key of its own.

It serves plain http on loopback, or TLS with the registry's own certificate. Needs openssl.
"""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from reconciler.testing.recorded import ROLL, Asked

ISSUER, SERVICE = "reconciler-test", "registry-test"


@dataclass(frozen=True, slots=True)
class TokenServer:
    """A running token server. Its tokens are signed under the certificate ``bundle``."""

    realm: str
    bundle: Path
    asked: list[Asked] = field(default_factory=list)
    issued: set[str] = field(default_factory=set)
    realms: set[str] = field(default_factory=set)
    wants_login: bool = True

    @property
    def url(self) -> str:
        return self.realm.removesuffix("/token")

    @property
    def host(self) -> str:
        return urlsplit(self.realm).netloc

    @property
    def lines(self) -> list[str]:
        """The requests, in the order of their arrival."""
        return [asked.line for asked in self.asked]


@contextmanager
def running_token_server(
    directory: Path,
    users: Mapping[str, str],
    *,
    identity_tokens: Mapping[str, str] | None = None,
    lifetime: int = 300,
    certificate: tuple[Path, Path] | None = None,
) -> Iterator[TokenServer]:
    """Gives every user of ``users`` (name: password) all that is asked for, until the block ends.

    ``identity_tokens`` (token: name) are taken by POST in place of a password.
    """
    directory.mkdir(parents=True, exist_ok=True)
    key, bundle = directory / "key.pem", directory / "bundle.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=tokens"
    subprocess.run([*command.split(), "-keyout", key, "-out", bundle], check=True, capture_output=True)
    der = ssl.PEM_cert_to_DER_cert(bundle.read_text())
    asked: list[Asked] = []
    issued: set[str] = set()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

        def do_GET(self) -> None:
            self._record(b"")
            query = parse_qs(urlsplit(self.path).query)
            login = self.headers.get("Authorization", "").removeprefix("Basic ")
            name, _, password = base64.b64decode(login).decode().partition(":")
            self._answer(name if users.get(name) == password else "", query.get("scope", []), "token")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self._record(body)
            form = parse_qs(body.decode())
            name = (identity_tokens or {}).get(form.get("refresh_token", [""])[0], "")
            self._answer(name, " ".join(form.get("scope", [])).split(), "access_token")

        def _record(self, body: bytes) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked.append(Asked(f"{self.command} {self.path}", headers, body))

        def _answer(self, name: str, scopes: list[str], kind: str) -> None:
            body = b'{"details": "incorrect username or password"}'
            if name:
                token = _token(key, der, name, [part for scope in scopes for part in scope.split()], lifetime)
                issued.add(token)
                body = json.dumps({kind: token, "expires_in": lifetime}).encode()
            self.send_response(200 if name else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        scheme = "https" if certificate is not None else "http"
        running = TokenServer(f"{scheme}://127.0.0.1:{server.server_port}/token", bundle, asked, issued)
        with ROLL.entry(running):
            yield running
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _token(key: Path, der: bytes, name: str, scopes: list[str], lifetime: int) -> str:
    """A JSON Web Token (RFC 7519), RS256, with the access that the scopes ask for."""
    now = int(time.time())
    access = []
    for scope in scopes:
        kind, _, rest = scope.partition(":")
        repository, _, actions = rest.rpartition(":")
        access.append({"type": kind, "name": repository, "actions": actions.split(",")})
    claims = {
        "iss": ISSUER,
        "sub": name,
        "aud": SERVICE,
        "exp": now + lifetime,
        "nbf": now - 10,
        "iat": now,
        "jti": uuid.uuid4().hex,
        "access": access,
    }
    header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
    signed = f"{_part(json.dumps(header).encode())}.{_part(json.dumps(claims).encode())}"
    command = ["openssl", "dgst", "-sha256", "-sign", str(key)]
    signature = subprocess.run(command, input=signed.encode(), check=True, capture_output=True).stdout
    return f"{signed}.{_part(signature)}"


def _part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
