"""An HTTP server that says what a test tells it to say, and remembers what it was asked.

    with ScriptedRegistry() as registry:
        registry.on("GET /v2/app/blobs/", Step(200, body=b"abc", cut=1), Step(206, body=b"bc"))
        ...
        assert registry.headers("GET /v2/app/blobs/", 1)["range"] == "bytes=1-"

Bodies of requests need a Content-Length. A request takes the first unused step among those whose prefix its
``METHOD /path`` has. One that no step is left for is answered 599 and kept in ``unexpected``; leaving the ``with``
block then fails.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from reconciler.registry.hosts import origin_of
from reconciler.testing.recorded import ROLL, Asked

FOREVER = 1_000_000
Headers = Mapping[str, str] | Sequence[tuple[str, str]]
_PIECE = 16 * 1024
_REALM = re.compile(r'realm="?(https?://[^",\s]+)', re.ASCII)


@dataclass(frozen=True, slots=True)
class Step:
    """One answer, given ``times`` times.

    ``cut`` closes the connection after so many bytes of the body, though the whole length was announced. ``length``
    announces another length; a negative one announces none and sends the body in chunks. ``before`` runs first, in the
    server's thread: to hold an answer back until the test lets it go. ``head_pause`` runs after every byte of the head,
    ``body_pause`` after every 16 KiB of the body. ``body`` and ``headers`` may be functions of what was asked; headers
    that are pairs may have a name twice.
    """

    status: int = 200
    body: bytes | Callable[[Asked], bytes] = b""
    headers: Headers | Callable[[Asked], Headers] = field(default_factory=dict)
    cut: int | None = None
    length: int | None = None
    times: int = 1
    before: Callable[[], object] | None = None
    head_pause: Callable[[], object] | None = None
    body_pause: Callable[[], object] | None = None

    def said(self, asked: Asked) -> tuple[bytes, list[tuple[str, str]]]:
        """Body and headers of the answer to ``asked``."""
        headers = self.headers(asked) if callable(self.headers) else self.headers
        pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        return (self.body(asked) if callable(self.body) else self.body), pairs


@dataclass(slots=True)
class _Rule:
    """The steps for one kind of request."""

    prefix: str
    step: Step
    left: int


class ScriptedRegistry:
    """The server, on a free loopback port, while its ``with`` block runs.

    ``certificate`` is (chain, key): then it speaks TLS; with ``client_ca`` only to clients known to that authority.
    """

    def __init__(self, certificate: tuple[Path, Path] | None = None, client_ca: Path | None = None) -> None:
        self._certificate = certificate
        self._client_ca = client_ca
        self._rules: list[_Rule] = []
        self._guard = threading.Lock()
        self._stack = ExitStack()
        self.asked: list[Asked] = []
        self.connections = 0
        self.unexpected: list[str] = []
        self.wants_login = False
        self.realms: set[str] = set()
        self.issued: set[str] = set()

    def on(self, prefix: str, *steps: Step) -> Self:
        """Adds answers for requests whose ``METHOD /path?query`` begins with ``prefix``."""
        with self._guard:
            self._rules += [_Rule(prefix, step, step.times) for step in steps]
        return self

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        return f"{'https' if self._certificate else 'http'}://{self.host}"

    @property
    def lines(self) -> list[str]:
        """The requests, in the order of their arrival."""
        return [asked.line for asked in self.asked]

    def count(self, prefix: str) -> int:
        """How many requests began with ``prefix``."""
        return len(self.matching(prefix))

    def matching(self, prefix: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.line.startswith(prefix)]

    def headers(self, prefix: str, index: int = 0) -> Mapping[str, str]:
        """The headers of the ``index``-th request that began with ``prefix``."""
        return self.matching(prefix)[index].headers

    def answer(self, asked: Asked) -> Step:
        """Records a request and takes its step."""
        step = self.scripted(asked)
        if step is None:
            self.unexpected.append(asked.line)
        return step or Step(599, b"unscripted")

    def scripted(self, asked: Asked) -> Step | None:
        """Records a request; the first unused step for it, which is then used, or None."""
        with self._guard:
            self.asked.append(asked)
            for rule in self._rules:
                if rule.left and asked.line.startswith(rule.prefix):
                    rule.left -= 1
                    return rule.step
        return None

    def remember(self, asked: Asked, body: bytes, headers: Sequence[tuple[str, str]]) -> None:
        """Keeps what an answer says of logins: whether one is wanted, whose tokens are, and the tokens made here."""
        for name, value in headers:
            if name.lower() in ("www-authenticate", "proxy-authenticate"):
                self.wants_login = True
                self.realms |= {origin_of(realm) for realm in _REALM.findall(value)}
        if "/token" in asked.line:
            try:
                document = json.loads(body)
                self.issued |= {str(document[key]) for key in ("token", "access_token") if key in document}
            except (ValueError, TypeError):
                pass  # no token server's answer

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"registry": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        if self._certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self._certificate)
            if self._client_ca is not None:
                context.load_verify_locations(self._client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        self._stack.enter_context(ROLL.entry(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._stack.close()
        if kind is None and self.unexpected:
            raise AssertionError(f"requests without a step: {self.unexpected}")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away, or refuses our certificate, is part of the play."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 30
    registry: ScriptedRegistry

    def setup(self) -> None:
        super().setup()
        self.registry.connections += 1

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def _play(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self._read(headers)
        if body is None:
            self.close_connection = True
            return
        asked = Asked(f"{self.command} {self.path}", headers, body)
        step = self.registry.answer(asked)
        if step.before is not None:
            step.before()
        whole, pairs = step.said(asked)
        self.registry.remember(asked, whole, pairs)
        self._head(step, whole, pairs)
        if self.command == "HEAD":
            return
        chunked = step.length is not None and step.length < 0
        body = whole if step.cut is None else whole[: step.cut]
        if chunked:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            body += b"0\r\n\r\n" if step.cut is None else b""
        self._send(body, _PIECE, step.body_pause)
        if step.cut is not None or (not chunked and step.length not in (None, len(whole))):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def _head(self, step: Step, whole: bytes, pairs: list[tuple[str, str]]) -> None:
        length = len(whole) if step.length is None else step.length
        if length < 0:
            pairs = [("Transfer-Encoding", "chunked"), *pairs]
        elif "content-length" not in {name.lower() for name, _ in pairs}:
            pairs = [("Content-Length", str(length)), *pairs]
        lines = [f"HTTP/1.1 {step.status} Scripted", *(f"{name}: {value}" for name, value in pairs), "", ""]
        self._send("\r\n".join(lines).encode("latin-1"), 1, step.head_pause)

    def _send(self, data: bytes, piece: int, pause: Callable[[], object] | None) -> None:
        if pause is None:
            self.wfile.write(data)
            return
        for start in range(0, len(data), piece):
            self.wfile.write(data[start : start + piece])
            pause()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _play  # noqa: N815

    def _read(self, headers: Mapping[str, str]) -> bytes | None:
        """The request's body; None when the client went away in the middle of it: then there was no request."""
        length = int(headers.get("content-length", "0"))
        body = self.rfile.read(length)
        return body if len(body) == length else None
