"""HTTP as registries need it: one request, one response, nothing decided. TLS per host, proxies, deadlines, bounds.

httpx is used without its client, which parses redirects, keeps cookies and reads the environment. There is one
connection pool per kind of transport security, so that a client certificate is shown to no host but its own.
"""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

import httpx

from reconciler.clock import Clock
from reconciler.errors import InvalidError, RegistryError
from reconciler.registry.failure import TemporaryError, UnreachableError, printable
from reconciler.registry.hosts import RegistryHosts, TlsConfig, authority_of
from reconciler.registry.proxy import Proxies

CHUNK = 256 * 1024
_ERRNO = re.compile(r"^\[Errno -?\d+\] ", re.ASCII)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect; without a byte; for a small answer in all. ``slowest`` is the least rate of a blob, B/s."""

    connect: float = 10.0
    idle: float = 30.0
    total: float = 60.0
    slowest: int = 16 * 1024

    def for_size(self, size: int) -> float:
        """The time a body of ``size`` bytes may take."""
        return self.total + size / self.slowest


@dataclass(frozen=True, slots=True)
class _Kind:
    """What distinguishes one connection pool from another."""

    encrypted: bool
    tls: TlsConfig | None
    proxy: str | None


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
        self._pools: dict[_Kind, httpx.HTTPTransport] = {}

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
        pool = self._pool(url)
        try:
            return self._exchange(pool, method, url, headers, content)
        except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError) as error:
            if method not in ("GET", "HEAD"):
                raise self.failure(url, error) from None
        except httpx.HTTPError as error:
            raise self.failure(url, error) from None
        # A kept connection may be closed by the server just as we write to it: that says nothing about the server.
        try:
            return self._exchange(pool, method, url, headers, content)
        except httpx.HTTPError as error:
            raise self.failure(url, error) from None

    def _exchange(
        self,
        pool: httpx.HTTPTransport,
        method: str,
        url: str,
        headers: Mapping[str, str],
        content: bytes | Iterable[bytes] | None,
    ) -> httpx.Response:
        timeout = httpx.Timeout(self.timeouts.idle, connect=self.timeouts.connect, pool=None)
        # Digests are over the stored bytes, so nothing may be compressed on the way.
        own = {"User-Agent": self._user_agent, "Accept": "*/*", "Accept-Encoding": "identity"}
        request = httpx.Request(
            method, url, headers={**own, **headers}, content=content, extensions={"timeout": timeout.as_dict()}
        )
        response = pool.handle_request(request)
        response.request = request
        return response

    def chunks(self, response: httpx.Response, expected: int) -> Iterator[bytes]:
        """The body as it travels, never decoded, in pieces of about ``CHUNK`` bytes.

        Raises ``TemporaryError`` when it breaks off or takes longer than ``expected`` bytes may; what came before the
        break has been yielded.
        """
        url = str(response.url)
        deadline = self._clock.monotonic() + self.timeouts.for_size(expected)
        pending = bytearray()
        failure: RegistryError | None = None
        try:
            for piece in response.iter_raw():
                pending += piece
                if len(pending) >= CHUNK:
                    yield bytes(pending)
                    pending.clear()
                if self._clock.monotonic() > deadline:
                    failure = TemporaryError(f"{authority_of(url)}: too slow, gave up on the answer")
                    break
        except httpx.HTTPError as error:
            failure = self.failure(url, error)
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
            for chunk in self.chunks(response, 0):
                body += chunk
                if len(body) >= limit:
                    break
        return bytes(body[:limit])

    def failure(self, url: str, error: httpx.HTTPError) -> RegistryError:
        """What a failed exchange means. Never quotes the URL, whose query may be a signature."""
        server = authority_of(url)
        if (tls := _tls_error(error)) is not None:
            words = getattr(tls, "verify_message", "") or (tls.reason or str(tls)).replace("_", " ").lower()
            return RegistryError(f"{server}: TLS failed: {printable(words)}", hint=_tls_hint(tls, server))
        if isinstance(error, httpx.ConnectTimeout):
            return UnreachableError(f"{server}: no connection within {self.timeouts.connect:g} s")
        if isinstance(error, (httpx.ConnectError, httpx.ProxyError)):
            return UnreachableError(f"{server}: cannot connect: {printable(_ERRNO.sub('', str(error)))}")
        if isinstance(error, httpx.TimeoutException):
            return TemporaryError(f"{server}: silent for {self.timeouts.idle:g} s")
        return TemporaryError(f"{server}: connection broke: {printable(str(error)) or type(error).__name__}")

    def _pool(self, url: str) -> httpx.HTTPTransport:
        encrypted = url.startswith("https://")
        tls = self._hosts.host(authority_of(url)).tls if encrypted else None
        kind = _Kind(encrypted, tls, self._proxies.proxy_for(url))
        with self._guard:
            if kind not in self._pools:
                self._pools[kind] = _new_pool(kind)
            return self._pools[kind]


def _new_pool(kind: _Kind) -> httpx.HTTPTransport:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=16, keepalive_expiry=30)
    try:
        return httpx.HTTPTransport(verify=_context(kind), trust_env=False, proxy=kind.proxy, limits=limits)
    except (ImportError, ValueError, httpx.InvalidURL):
        # Nothing of the error is quoted: a proxy's URL may hold its password.
        raise InvalidError("the configured proxy is not supported", hint="give an http:// or https:// proxy") from None


def _context(kind: _Kind) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not kind.encrypted:
        return context  # trusts no authority: were it ever used, verification would fail
    try:
        context.load_default_certs()
        if kind.tls is not None and kind.tls.ca is not None:
            context.load_verify_locations(cafile=kind.tls.ca)
        if kind.tls is not None and kind.tls.certificate is not None:
            context.load_cert_chain(kind.tls.certificate, kind.tls.key)
    except (OSError, ssl.SSLError) as error:
        raise InvalidError(
            f"cannot use the TLS files {kind.tls}: {error}", hint="give PEM files that can be read"
        ) from None
    return context


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
