"""One question to one server, with all that HTTP puts between it and the answer: login, redirects, status codes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field
from urllib.parse import urlencode

import httpx

from reconciler.clock import Clock, rfc3339
from reconciler.errors import AuthError, InvalidError, NotFoundError, RateLimitError, RegistryError
from reconciler.registry.auth import Authenticator
from reconciler.registry.echo import address, secrets_of
from reconciler.registry.failure import (
    MAX_ERROR_BODY,
    LimitedError,
    TemporaryError,
    UnreachableError,
    printable,
    server_words,
)
from reconciler.registry.health import Health
from reconciler.registry.hosts import Endpoint, RegistryHosts, authority_of, origin_of
from reconciler.registry.quota import Quota, read_quota
from reconciler.registry.retry import retry_after
from reconciler.registry.transport import Transport
from reconciler.value import dataclass

MAX_REDIRECTS = 10
_MAX_TOKEN_BODY = 128 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
_HOST = re.compile(rb"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")


@dataclass(frozen=True, slots=True)
class Ask:
    """A request: ``what`` it is about in messages ("blob 0123456789ab"), where, how, and what answers are wanted.

    ``content`` that is an iterable is consumed by the first exchange; it is sent again only when it is bytes.
    ``counted`` says that servers with a quota count it. ``passing`` are error codes of the server (distribution-spec,
    "Error Codes") after which asking again may help, besides the statuses that say so.
    """

    what: str
    method: str
    url: str
    scope: str
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | Iterable[bytes] | None = None
    statuses: Collection[int] = (200,)
    counted: bool = False
    passing: tuple[str, ...] = ()

    @property
    def replayable(self) -> bool:
        return self.content is None or isinstance(self.content, bytes)


class Session:
    """Asks servers, and remembers how each wants to be asked. Safe to share between threads.

    ``quota_floor`` leaves so many of a server's counted requests to others, but a tenth of them at most
    (``Quota.floor``): at that number it is not asked any more.
    """

    def __init__(
        self, transport: Transport, hosts: RegistryHosts, clock: Clock, health: Health, quota_floor: int
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._auth = Authenticator(hosts.credentials, self._fetch_token, clock)
        self._health = health
        self._quota_floor = quota_floor
        self._quotas: dict[str, Quota] = {}
        self._highest: dict[str, int] = {}

    def quotas(self) -> tuple[Quota, ...]:
        """What servers last said of how often they may still be asked, by name."""
        now = self._clock.now()
        return tuple(quota for _, quota in sorted(self._quotas.items()) if quota.renewed_at > now)

    @contextmanager
    def exchange(self, endpoint: Endpoint, ask: Ask) -> Iterator[httpx.Response]:
        """The response, its body unread, with a status among ``ask.statuses``. Closes it at the end.

        Raises ``NotFoundError`` for 404, ``AuthError`` for 401 and 403, ``TemporaryError`` where asking again may
        help, ``RegistryError`` for anything else. No answer is retried here but a 401.
        """
        if ask.counted:
            self._check_quota(endpoint)
        response = self._follow(endpoint, ask)
        try:
            if response.status_code not in ask.statuses:
                raise self._refusal(endpoint, ask, response)
            yield response
        finally:
            response.close()

    def read(self, response: httpx.Response, limit: int) -> bytes:
        """The body of a small answer; ``InvalidError`` when it is larger than ``limit``."""
        return self._transport.read(response, limit)

    def read_start(self, response: httpx.Response) -> bytes:
        """What an answer that refuses says, as far as it is worth reading."""
        return self._transport.read_start(response, MAX_ERROR_BODY)

    def chunks(self, response: httpx.Response, expected: int, *, brisk: bool = False) -> Iterator[bytes]:
        """The body of an answer of about ``expected`` bytes, in chunks, as ``Transport.chunks`` gives it."""
        return self._transport.chunks(response, expected, brisk=brisk)

    def _check_quota(self, endpoint: Endpoint) -> None:
        quota = self._quotas.get(endpoint.name)
        # Without a floor it is the server's to say what happens at the end.
        if not self._quota_floor or quota is None or quota.renewed_at <= self._clock.now():
            return
        floor = quota.floor(self._quota_floor, self._highest[endpoint.name])
        if quota.remaining > floor:
            return
        left = f"{quota.remaining} of {quota.limit}" if quota.limit else f"{quota.remaining}"
        unused = f", and {floor} are to stay unused" if floor else ""
        raise RateLimitError(
            f"{endpoint.name}: {left} requests are left{unused}", hint=f"wait until {rfc3339(quota.renewed_at)}"
        )

    def _follow(self, endpoint: Endpoint, ask: Ask) -> httpx.Response:
        url, seen = ask.url, {ask.url}
        while True:
            response = self._authorised(endpoint, ask, url)
            target = response.headers.get("location")
            if response.status_code not in _REDIRECTS or target is None or ask.method not in ("GET", "HEAD"):
                return response
            response.close()
            url = join(endpoint, url, target)
            if url in seen:
                raise RegistryError(f"{endpoint.name}: redirects in a loop when asked for {ask.what}")
            seen.add(url)
            if len(seen) > MAX_REDIRECTS + 1:
                raise RegistryError(f"{endpoint.name}: more than {MAX_REDIRECTS} redirects when asked for {ask.what}")

    def _authorised(self, endpoint: Endpoint, ask: Ask, url: str) -> httpx.Response:
        if origin_of(url) != endpoint.origin:
            return self._elsewhere(f"{endpoint.name}: redirects:", ask.method, url, ask.headers, ask.content)
        tries = self._auth.tries(endpoint, ask.scope)
        header = next(tries)
        while True:
            headers = ask.headers if header is None else {**ask.headers, "Authorization": header}
            response = self._send(endpoint, ask, url, headers)
            if response.status_code != 401 or not ask.replayable:
                return response
            try:
                header = tries.send(response.headers.get_list("www-authenticate"))
            except StopIteration:
                return response
            except BaseException:
                response.close()
                raise
            response.close()

    def _elsewhere(
        self, whose: str, method: str, url: str, headers: Mapping[str, str], content: bytes | Iterable[bytes] | None
    ) -> httpx.Response:
        """What a server says to which the one that was asked sent us; ``whose`` begins its failures."""
        try:
            return self._transport.send(method, url, headers, content)
        except UnreachableError as error:
            # The one that was asked can be reached, and its word on tags still counts.
            raise TemporaryError(f"{whose} {error}") from None

    def _send(self, endpoint: Endpoint, ask: Ask, url: str, headers: Mapping[str, str]) -> httpx.Response:
        try:
            response = self._transport.send(ask.method, url, headers, ask.content)
        except UnreachableError as error:
            self._health.failed(endpoint, error)
            raise
        self._health.reached(endpoint)
        if (quota := read_quota(endpoint.name, response.headers, self._clock.now())) is not None:
            self._quotas[endpoint.name] = quota
            self._highest[endpoint.name] = max(self._highest.get(endpoint.name, 0), quota.remaining)
        return response

    def _refusal(self, endpoint: Endpoint, ask: Ask, response: httpx.Response) -> Exception:
        status, url = response.status_code, str(response.url)
        elsewhere = origin_of(url) != endpoint.origin
        secrets = secrets_of(response.request, signed=elsewhere)
        body = self._transport.read_start(response, MAX_ERROR_BODY) if ask.method != "HEAD" else b""
        words = server_words(body, secrets)
        server = f"{endpoint.name} (at {authority_of(url)})" if elsewhere else endpoint.name
        limit = "rate limit: " if status == 429 else ""
        message = f"{server}: {limit}{ask.method} {ask.what}: {status}" + (f" {words}" if words else "")
        # An address that was signed for a short time: the registry gives a new one. A token that expired before a body
        # which cannot be sent twice: the next attempt begins with a new one.
        if (elsewhere and status in (400, 401, 403)) or (status == 401 and not ask.replayable):
            return TemporaryError(message)
        if status == 404:
            return NotFoundError(
                f"{server}: no {ask.what} there (404{words and ' ' + words})",
                hint=f"check the name; for something private, `reconciler login {endpoint.credential_name}` first",
            )
        if ask.method == "PUT" and "immutable" in words.lower():
            return RegistryError(message, hint="its registry lets nobody move this tag")
        if status in (401, 403):
            wrong = "was refused: correct it" if status == 401 else "may not do this: use another"
            host = endpoint.credential_name
            return AuthError(
                message, hint=f"the login for {host} {wrong}, under `registries:` or with `reconciler login {host}`"
            )
        if status in _TEMPORARY or words.startswith(ask.passing):
            wish = retry_after(response.headers.get("retry-after"), self._clock.now())
            if status == 429:
                hint = "try again later; where logins have a larger quota, log in"
                return LimitedError(message, server=server, hint=hint, retry_after=wish)
            return TemporaryError(message, retry_after=wish)
        return RegistryError(message)

    def _fetch_token(self, url: str, authorization: str | None, form: Mapping[str, str] | None) -> bytes:
        headers = {} if authorization is None else {"Authorization": authorization}
        if form is None:
            response = self._elsewhere("token server", "GET", url, headers, None)
        else:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            response = self._elsewhere("token server", "POST", url, headers, urlencode(form).encode())
        try:
            status = response.status_code
            if status == 200:
                return self._transport.read(response, _MAX_TOKEN_BODY)
            words = server_words(
                self._transport.read_start(response, MAX_ERROR_BODY), secrets_of(response.request, signed=True)
            )
        except InvalidError as error:
            raise RegistryError(f"token server {error}") from None
        finally:
            response.close()
        message = f"token server {authority_of(url)}: {status} {words}".rstrip()
        if status in _TEMPORARY:
            raise TemporaryError(
                message, retry_after=retry_after(response.headers.get("retry-after"), self._clock.now())
            )
        if status in (400, 401, 403):
            raise AuthError(message, hint="check user name, password and rights; `reconciler login` stores new ones")
        if form is not None and status in (404, 405):
            message += "; it does not take identity tokens"
        raise RegistryError(message)


def join(endpoint: Endpoint, url: str, location: str) -> str:
    """Where a ``Location`` given by ``url`` leads (RFC 9110, 10.2.2). ``RegistryError`` for a place we must not go."""
    try:
        target = httpx.URL(url).join(location)
        origin_of(str(target))
    except (httpx.InvalidURL, InvalidError, ValueError):
        raise RegistryError(
            f"{endpoint.name}: sends us to the malformed address {printable(address(location))!r}"
        ) from None
    if target.scheme not in ("http", "https") or not _HOST.fullmatch(target.raw_host) or target.userinfo:
        raise RegistryError(f"{endpoint.name}: sends us to {printable(address(location))!r}, no http address")
    if target.scheme == "http" and url.startswith("https://"):
        raise RegistryError(
            f"{endpoint.name}: sends us from https to plain http at {printable(target.netloc.decode())}",
            hint="the server must know its external address is https (X-Forwarded-Proto behind a proxy)",
        )
    return str(target)
