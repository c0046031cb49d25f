"""Connections: TLS per kind of host, proxies, and a deadline over all the reads of an answer's head.

A timeout per read is no deadline: a server that sends a header byte every few seconds would hold a thread for ever. So
reads go through streams that also know until when the whole head must have come.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpcore
import httpx

from reconciler.clock import Clock
from reconciler.errors import InvalidError, RegistryError
from reconciler.registry.hosts import TlsConfig
from reconciler.value import dataclass

_KEPT = 16
_KEPT_SECONDS = 30.0

FAILURES = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
)
"""What an exchange may fail with below HTTP."""


class HeadTimeout(httpcore.ReadTimeout):
    """Bytes came, but the head of the answer was not complete in time."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What distinguishes one connection pool from another."""

    encrypted: bool
    tls: TlsConfig | None
    proxy: str | None


class Limit(threading.local):
    """Until when this thread waits for the head of an answer, once it has written its request."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seconds: float | None = None
        self._until: float | None = None

    @contextmanager
    def of(self, seconds: float) -> Iterator[None]:
        """Within the block, reads since the last write end after ``seconds`` in all."""
        self._seconds, self._until = seconds, None
        try:
            yield
        finally:
            self._seconds = None

    def begin_anew(self) -> None:
        """Something was written: what is waited for now is another answer, or the same request's."""
        self._until = None

    def cut(self, timeout: float | None) -> float | None:
        """How long the next read may take. Raises ``HeadTimeout`` when the time is over."""
        if self._seconds is None:
            return timeout
        now = self._clock.monotonic()
        if self._until is None:
            self._until = now + self._seconds
        if now >= self._until:
            raise HeadTimeout
        return self._until - now if timeout is None else min(timeout, self._until - now)


class _Stream(httpcore.NetworkStream):
    """A stream that keeps its thread's ``Limit``."""

    def __init__(self, inner: httpcore.NetworkStream, limit: Limit) -> None:
        self._inner = inner
        self._limit = limit

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        left = self._limit.cut(timeout)
        try:
            return self._inner.read(max_bytes, left)
        except httpcore.ReadTimeout:
            if left != timeout:
                raise HeadTimeout from None
            raise

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._limit.begin_anew()
        self._inner.write(buffer, timeout)

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, timeout), self._limit)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Backend(httpcore.SyncBackend):
    """TCP over such streams."""

    def __init__(self, limit: Limit) -> None:
        self._limit = limit

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            inner = super().connect_tcp(host, port, timeout, local_address, socket_options)
        except UnicodeError:  # a label that is empty or too long, which Python notices before any resolver
            raise httpcore.ConnectError("its name is no host name") from None
        return _Stream(inner, self._limit)


def new_pool(kind: Kind, limit: Limit) -> httpcore.ConnectionPool:
    """A pool for one kind of connection.

    Raises ``RegistryError`` for TLS files that cannot be used, ``InvalidError`` for such a proxy.
    """
    context, backend = _context(kind), _Backend(limit)
    if kind.proxy is None:
        return httpcore.ConnectionPool(
            context,
            max_connections=None,
            max_keepalive_connections=_KEPT,
            keepalive_expiry=_KEPT_SECONDS,
            network_backend=backend,
        )
    try:
        proxy = httpx.Proxy(kind.proxy)
        if proxy.url.scheme not in ("http", "https") or not proxy.url.raw_host:
            raise ValueError(proxy.url.scheme)
    except (ValueError, httpx.InvalidURL):
        # Nothing of the error is quoted: a proxy's URL may hold its password.
        raise InvalidError("the configured proxy is not supported", hint="give an http:// or https:// proxy") from None
    return httpcore.HTTPProxy(
        httpcore.URL(
            scheme=proxy.url.raw_scheme, host=proxy.url.raw_host, port=proxy.url.port, target=proxy.url.raw_path
        ),
        proxy_auth=proxy.raw_auth,
        ssl_context=context,
        max_connections=None,
        max_keepalive_connections=_KEPT,
        keepalive_expiry=_KEPT_SECONDS,
        network_backend=backend,
    )


def _context(kind: Kind) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not kind.encrypted:
        return context  # trusts no authority: were it ever used, verification would fail
    context.load_default_certs()
    if kind.tls is not None and kind.tls.ca is not None:
        with _reading("CA file", kind.tls.ca):
            context.load_verify_locations(cafile=kind.tls.ca)
    if kind.tls is not None and kind.tls.certificate is not None:
        with _reading("client certificate", kind.tls.certificate, *filter(None, [kind.tls.key])):
            context.load_cert_chain(kind.tls.certificate, kind.tls.key)
    return context


@contextmanager
def _reading(what: str, *paths: Path) -> Iterator[None]:
    """Errors that name the files: Python's name none, or call whatever is no PEM a failure of the library."""
    try:
        yield
    except (OSError, ValueError) as error:
        # An SSL error's number is OpenSSL's own.
        why = error.strerror if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else None
        raise RegistryError(
            f"cannot use the {what} {', '.join(map(str, paths))}: {why or 'no PEM as it should be'}",
            hint="give PEM files that can be read, under `tls:` of the registry",
        ) from None
