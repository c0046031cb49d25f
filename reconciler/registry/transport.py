"""HTTP as registries need it: one request, one response, nothing decided. TLS per host, proxies, deadlines, bounds.

httpx's values are used without its client, which parses redirects, keeps cookies and reads the environment. There is
one connection pool per kind of transport security, so that a client certificate is shown to no host but its own.
"""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

import httpcore
import httpx

from reconciler.clock import Clock
from reconciler.errors import InvalidError, RegistryError
from reconciler.registry.echo import address
from reconciler.registry.failure import SlowError, TemporaryError, UnreachableError, printable
from reconciler.registry.hosts import RegistryHosts, authority_of, origin_of
from reconciler.registry.proxy import Proxies
from reconciler.registry.wire import FAILURES, HeadTimeout, Kind, Limit, new_pool
from reconciler.value import dataclass

CHUNK = 256 * 1024
_ERRNO = re.compile(r"^\[Errno -?\d+\] ", re.ASCII)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect; without a byte; for the head of an answer, and for a small answer, in all.

    Rates in B/s: ``slowest`` is the least of a whole blob; ``brisk`` the least over any ``window`` seconds of a blob
    that another server may have too. Only the time spent waiting for the server counts.
    """

    connect: float = 10.0
    idle: float = 30.0
    total: float = 60.0
    slowest: int = 16 * 1024
    brisk: int = 128 * 1024
    window: float = 10.0


class Pace:
    """How fast a body arrives."""

    def __init__(self, timeouts: Timeouts, expected: int, *, brisk: bool) -> None:
        self._timeouts = timeouts
        self._allowed = timeouts.total + expected / timeouts.slowest
        self._brisk = brisk
        self._waited = 0.0
        self._window = 0.0
        self._arrived = 0

    def verdict(self, server: str, seconds: float, size: int) -> TemporaryError | None:
        """What to make of ``size`` bytes that were waited for so long: None while it is fast enough."""
        self._waited += seconds
        self._window += seconds
        self._arrived += size
        if self._waited > self._allowed:
            return TemporaryError(f"{server}: too slow, gave up on the answer")
        if self._window < self._timeouts.window:
            return None
        rate, self._window, self._arrived = self._arrived / self._window, 0.0, 0
        if self._brisk and rate < self._timeouts.brisk:
            return SlowError(f"{server}: slow, {rate / 1024:.0f} KiB/s")
        return None


class Transport:
    """Sends requests; safe to share between threads. ``close`` ends all connections."""

    def __init__(
        self, hosts: RegistryHosts, *, clock: Clock, proxies: Proxies, user_agent: str, timeouts: Timeouts
    ) -> None:
        self._hosts = hosts
        self._clock = clock
        self._proxies = proxies
        self._user_agent = user_agent
        self.timeouts = timeouts
        self._guard = threading.Lock()
        self._limit = Limit(clock)
        self._pools: dict[Kind, httpcore.ConnectionPool] = {}

    def close(self) -> None:
        """Closes every connection. The transport may not be used again."""
        with self._guard:
            for pool in self._pools.values():
                pool.close()
            self._pools.clear()

    def send(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | Iterable[bytes] | None = None
    ) -> httpx.Response:
        """One exchange, without redirects. The body is unread: the caller closes the response.

        ``url`` is also how failures name the server. Raises ``UnreachableError`` or ``TemporaryError`` when the network
        failed, ``RegistryError`` when the server could not be trusted.
        """
        request = self._request(method, url, headers, content)
        pool = self._pool(url)
        try:
            return self._exchange(pool, request)
        except (httpcore.ReadError, httpcore.WriteError, httpcore.RemoteProtocolError) as error:
            if method not in ("GET", "HEAD"):
                raise self.failure(url, error) from None
        except FAILURES as error:
            raise self.failure(url, error) from None
        # A kept connection may be closed by the server just as we write to it: that says nothing about the server.
        try:
            return self._exchange(pool, request)
        except FAILURES as error:
            raise self.failure(url, error) from None

    def _request(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | Iterable[bytes] | None
    ) -> httpx.Request:
        """The request as it is sent. ``RegistryError`` for an address that nobody can ask: servers name some, too."""
        timeout = httpx.Timeout(self.timeouts.idle, connect=self.timeouts.connect, pool=None)
        # Digests are over the stored bytes, so nothing may be compressed on the way.
        own = {"User-Agent": self._user_agent, "Accept": "*/*", "Accept-Encoding": "identity"}
        try:
            origin_of(url)
            return httpx.Request(
                method, url, headers={**own, **headers}, content=content, extensions={"timeout": timeout.as_dict()}
            )
        except (httpx.InvalidURL, InvalidError, ValueError):
            raise RegistryError(f"{printable(address(url))!r} is no address that can be asked") from None

    def _exchange(self, pool: httpcore.ConnectionPool, request: httpx.Request) -> httpx.Response:
        target = request.url
        with self._limit.of(self.timeouts.total):
            answer = pool.handle_request(
                httpcore.Request(
                    request.method,
                    httpcore.URL(
                        scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path
                    ),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        body = _Body(answer, request.method)
        return httpx.Response(answer.status, headers=answer.headers, stream=body, request=request)

    def chunks(
        self, response: httpx.Response, expected: int, *, brisk: bool = False, size: int = CHUNK
    ) -> Iterator[bytes]:
        """The body as it travels, never decoded, in pieces of about ``size`` bytes.

        Raises ``TemporaryError`` when it breaks off or takes longer than ``expected`` bytes may, ``SlowError`` when it
        is to be ``brisk`` and is not; what came before has been yielded.
        """
        url = str(response.url)
        pace = Pace(self.timeouts, expected, brisk=brisk)
        pieces = response.iter_raw()
        pending = bytearray()
        failure: RegistryError | None = None
        while failure is None:
            asked = self._clock.monotonic()
            try:
                piece = next(pieces, None)
            except FAILURES as error:
                failure = self.failure(url, error)
                break
            if piece is None:
                break
            failure = pace.verdict(authority_of(url), self._clock.monotonic() - asked, len(piece))
            pending += piece
            if len(pending) >= size:
                yield bytes(pending)
                pending.clear()
        if pending:
            yield bytes(pending)
        if failure is not None:
            raise failure

    def read(self, response: httpx.Response, limit: int) -> bytes:
        """The whole body. Raises ``InvalidError`` when it has more than ``limit`` bytes, as ``chunks`` otherwise."""
        body = bytearray()
        for chunk in self.chunks(response, 0):
            body += chunk
            if len(body) > limit:
                raise InvalidError(f"{authority_of(str(response.url))}: answer has more than the {limit} bytes allowed")
        return bytes(body)

    def read_start(self, response: httpx.Response, limit: int) -> bytes:
        """The first ``limit`` bytes of an error's body, or fewer when it breaks off."""
        body = bytearray()
        with suppress(RegistryError):
            for chunk in self.chunks(response, 0, size=limit):
                body += chunk
                if len(body) >= limit:
                    break
        return bytes(body[:limit])

    def failure(self, url: str, error: Exception) -> RegistryError:
        """What a failed exchange means. Never quotes the URL, whose query may be a signature."""
        server = authority_of(url)
        if (tls := _tls_error(error)) is not None:
            words = getattr(tls, "verify_message", "") or (tls.reason or str(tls)).replace("_", " ").lower()
            return RegistryError(f"{server}: TLS failed: {printable(words)}", hint=_tls_hint(tls, server))
        if isinstance(error, httpcore.ConnectTimeout):
            return UnreachableError(f"{server}: no connection within {self.timeouts.connect:g} s")
        if isinstance(error, (httpcore.ConnectError, httpcore.ProxyError)):
            return UnreachableError(f"{server}: cannot connect: {printable(_ERRNO.sub('', str(error)))}")
        if isinstance(error, HeadTimeout):
            return TemporaryError(f"{server}: did not finish the head of its answer within {self.timeouts.total:g} s")
        if isinstance(error, httpcore.TimeoutException):
            return TemporaryError(f"{server}: silent for {self.timeouts.idle:g} s")
        return TemporaryError(f"{server}: connection broke: {printable(str(error)) or type(error).__name__}")

    def _pool(self, url: str) -> httpcore.ConnectionPool:
        encrypted = url.startswith("https://")
        tls = self._hosts.host(authority_of(url)).tls if encrypted else None
        kind = Kind(encrypted, tls, self._proxies.proxy_for(url))
        with self._guard:
            if kind not in self._pools:
                self._pools[kind] = new_pool(kind, self._limit)
            return self._pools[kind]


class _Body(httpx.SyncByteStream):
    """The body of an answer, as the pool hands it out."""

    def __init__(self, answer: httpcore.Response, method: str) -> None:
        self._answer = answer
        length = next((value for name, value in answer.headers if name.lower() == b"content-length"), None)
        self._is_empty = method == "HEAD" or length == b"0"

    def __iter__(self) -> Iterator[bytes]:
        self._is_empty = False
        return self._answer.iter_stream()

    def close(self) -> None:
        # The connection serves the next request only if this answer was read to its end, also when there is nothing.
        if self._is_empty:
            with suppress(*FAILURES):
                for _ in self:
                    pass
        self._answer.close()


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def _tls_hint(error: ssl.SSLError, server: str) -> str:
    if error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        return f"{server} does not speak TLS; if it is meant to be plain http, set `plain_http: true` for it"
    return f"if its authority is private, name it: `registries: {{{server}: {{tls: {{ca: FILE}}}}}}`"
