"""Which servers stand behind a registry's name: addresses, transport security, credentials, mirrors. Pure values.

Rules of lookup:

- Hosts are compared without regard to case. ``docker.io``, ``index.docker.io`` and ``registry-1.docker.io`` are one
  registry, named ``docker.io``, whose API answers at ``registry-1.docker.io``.
- Plain HTTP is never guessed, not even on loopback: it takes ``plain_http`` on the host or an ``http://`` mirror URL.
  The latter permits bytes in the clear, but no credentials; ``plain_http`` permits both, since its user asked for it.
- The mirror key ``*`` stands for every registry that has no key of its own.
- A mirror's URL may have a path. ``https://host/prefix`` asks ``/prefix/v2/REPOSITORY/...`` (a server mounted under a
  path), and a path that begins with ``/v2`` is taken as it stands: ``https://host/v2/project`` asks
  ``/v2/project/REPOSITORY/...`` (a project of a shared server). These are containerd's two forms.
- Mirrors are asked with the query ``ns=REGISTRY``, as containerd does, so that one server can stand for several
  registries. An origin never gets it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, unquote, urlencode, urlsplit

from reconciler.errors import InvalidError, RefusedError
from reconciler.value import dataclass

Resolve = Literal["first", "fallback", "never"]
EVERY_OTHER = "*"
HUB = "docker.io"
_HUB_API = "registry-1.docker.io"
_PLAIN = re.compile(r"[!-~]+")
_HUB_ALIASES = frozenset({HUB, "index.docker.io", _HUB_API})


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Trust and identity for one host. ``ca`` is trusted besides the system's authorities; PEM files all."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name and a password, or an identity token that stands for both. No secret is in a ``repr``."""

    username: str
    password: str = field(repr=False)
    identity_token: str = field(default="", repr=False)


CredentialSource = Callable[[str, str], Credentials | None]
"""Given a registry's name (``docker.io``, ``host:port``) and a repository there ("" for none), the credentials for it
or None. May be called by any thread."""


def no_credentials(_host: str, _repository: str) -> Credentials | None:
    """A source that knows nobody."""
    return None


@dataclass(frozen=True, slots=True)
class HostConfig:
    """What the user declared about one host. ``credentials`` is a value or a source asked when a server wants them."""

    host: str
    plain_http: bool = False
    tls: TlsConfig | None = None
    credentials: Credentials | CredentialSource | None = None


@dataclass(frozen=True, slots=True)
class MirrorEndpoint:
    """One mirror. ``resolve`` says whether it may translate tags: before the origin, after it failed, or never.

    Raises ``InvalidError`` when ``url`` is no plain http or https URL.
    """

    url: str
    resolve: Resolve = "fallback"

    def __post_init__(self) -> None:
        parts = _split(self.url)
        if parts.username is not None or parts.password is not None:
            raise InvalidError(
                f"the URL of the mirror on {parts.hostname} holds credentials",
                hint="put them under `registries:` for the mirror's host",
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidError(f"mirror {ascii(self.url)} is no http or https URL", hint="write https://host[:port]")
        if parts.query or parts.fragment:
            raise InvalidError(f"mirror {ascii(self.url)} has a query or a fragment", hint="leave it out")
        if not _PLAIN.fullmatch(self.url) or {".", ".."} & set(unquote(parts.path).split("/")):
            raise InvalidError(
                f"mirror {ascii(self.url)} has blanks, other than ASCII, or dots for directories in it",
                hint="write the address as it is sent, such as https://host/prefix",
            )


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server that may answer for a registry.

    ``name`` is how messages call it. ``base`` ends in ``/`` and takes ``REPOSITORY/manifests/...``. ``origin`` is its
    ``scheme://host:port``: credentials go nowhere else. ``upstream`` is the registry a mirror stands for, None for the
    origin itself. ``repository_prefix`` is the part of ``base`` that the server counts as repository.
    """

    name: str
    base: str
    origin: str
    credential_name: str
    authenticates: bool
    upstream: str | None = None
    resolve: Resolve = "fallback"
    repository_prefix: str = ""

    def url(self, repository: str, rest: str) -> str:
        """The address of ``rest`` (``manifests/TAG``, ``blobs/DIGEST``) in ``repository``."""
        query = "" if self.upstream is None else "?" + urlencode({"ns": self.upstream})
        return f"{self.base}{repository}/{rest}{query}"

    def scope(self, repository: str, actions: str) -> str:
        """The token scope for ``actions`` on ``repository`` (distribution token specification)."""
        return f"repository:{self.repository_prefix}{repository}:{actions}"


@dataclass(frozen=True, slots=True)
class RegistryHosts:
    """All that was declared about registries and mirrors. ``credentials_for`` is asked for hosts that declare none.

    A registry in ``blocked`` must not be asked for anything, nor its mirrors; the value names what says so.
    """

    hosts: Mapping[str, HostConfig] = field(default_factory=dict)
    mirrors: Mapping[str, tuple[MirrorEndpoint, ...]] = field(default_factory=dict)
    credentials_for: CredentialSource = no_credentials
    blocked: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocked", {canonical_host(name): why for name, why in self.blocked.items()})
        object.__setattr__(self, "hosts", {canonical_host(name): host for name, host in self.hosts.items()})
        object.__setattr__(self, "mirrors", {canonical_host(name): tuple(urls) for name, urls in self.mirrors.items()})

    def host(self, name: str) -> HostConfig:
        """What was declared for ``name``, or a host about which nothing was."""
        name = canonical_host(name)
        return self.hosts.get(name) or HostConfig(name)

    def _declares(self, name: str) -> bool:
        return canonical_host(name) in self.hosts

    def credentials(self, name: str, repository: str = "") -> Credentials | None:
        """The credentials for ``repository`` of the host ``name``: the declared ones, else ``credentials_for``."""
        declared = self.host(name).credentials
        if isinstance(declared, Credentials):
            return declared
        return (declared or self.credentials_for)(canonical_host(name), repository)

    def origin(self, registry: str) -> Endpoint:
        """The registry itself. Raises ``RefusedError`` for one that is blocked."""
        name = canonical_host(registry)
        if name in self.blocked:
            raise RefusedError(
                f"{name} is blocked by {self.blocked[name]}",
                hint=f"take the images from elsewhere, or declare `{name}` under `mirrors:`, which counts instead",
            )
        plain = self.host(name).plain_http
        authority = _HUB_API if name == HUB else name
        base = f"{'http' if plain else 'https'}://{authority}/v2/"
        return Endpoint(name, base, origin_of(base), name, authenticates=True)

    def mirrors_of(self, registry: str) -> tuple[Endpoint, ...]:
        """The registry's mirrors, in the declared order; a registry is no mirror of itself."""
        name = canonical_host(registry)
        declared = self.mirrors.get(name, self.mirrors.get(EVERY_OTHER, ()))
        own = self.origin(name).origin
        return tuple(end for end in (self._mirror(mirror, name) for mirror in declared) if end.origin != own)

    def for_content(self, registry: str) -> tuple[Endpoint, ...]:
        """Whom to ask for bytes named by digest: the mirrors in order, then the origin."""
        return (*self.mirrors_of(registry), self.origin(registry))

    def for_tags(self, registry: str) -> tuple[Endpoint, ...]:
        """Whom to ask for a tag: mirrors with ``resolve: first``, the origin, mirrors with ``resolve: fallback``."""
        mirrors = self.mirrors_of(registry)
        first = (mirror for mirror in mirrors if mirror.resolve == "first")
        fallback = (mirror for mirror in mirrors if mirror.resolve == "fallback")
        return (*first, self.origin(registry), *fallback)

    def _mirror(self, mirror: MirrorEndpoint, registry: str) -> Endpoint:
        parts = _split(mirror.url)
        path = parts.path.strip("/")
        as_it_stands = path == "v2" or path.startswith("v2/")
        prefix = path.removeprefix("v2").strip("/") if as_it_stands else ""
        base = path if as_it_stands else f"{path}/v2".lstrip("/")
        # A port that is the scheme's own may be spelled out in the one place and not in the other.
        name = next((name for name in (parts.netloc, authority_of(mirror.url)) if self._declares(name)), parts.netloc)
        host = self.host(name)
        return Endpoint(
            name=mirror.url,
            base=f"{parts.scheme}://{parts.netloc}/{base}/",
            origin=origin_of(mirror.url),
            credential_name=host.host,
            authenticates=parts.scheme == "https" or host.plain_http,
            upstream=registry,
            resolve=mirror.resolve,
            repository_prefix=f"{prefix}/" if prefix else "",
        )


def canonical_host(host: str) -> str:
    """The one name under which a registry's host is looked up."""
    host = host.lower()
    return HUB if host in _HUB_ALIASES else host


def origin_of(url: str) -> str:
    """``scheme://host:port`` of a URL, in lower case and with the port spelled out (RFC 6454)."""
    parts = _split(url)
    host = parts.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def authority_of(url: str) -> str:
    """``host[:port]`` of a URL, as it would stand in a reference: lower case, the scheme's own port left out."""
    scheme, _, authority = origin_of(url).partition("://")
    return authority.removesuffix(":443" if scheme == "https" else ":80")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise InvalidError(f"malformed URL: {error}") from None
    return parts
