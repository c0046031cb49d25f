"""Mirrors that a host has declared for other programs: containers' ``registries.conf`` and containerd's ``hosts.toml``.

Pure: text in, values out. What our rules cannot express is left out with a note, never approximated: a mirror less
costs time, a mirror too many may answer what nobody meant it to. TLS verification is never turned off.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from reconciler.errors import InvalidError
from reconciler.oci.reference import parse_registry
from reconciler.registry.hosts import (
    EVERY_OTHER,
    HostConfig,
    MirrorEndpoint,
    RegistryHosts,
    Resolve,
    TlsConfig,
    authority_of,
    canonical_host,
    origin_of,
)

_CAPABILITIES = frozenset({"pull", "resolve", "push", "referrers"})


@dataclass(frozen=True, slots=True)
class FromHost:
    """What was read: ``hosts`` without credentials, and a sentence for each thing that was left out."""

    hosts: RegistryHosts = field(default_factory=RegistryHosts)
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Found:
    """Collects while reading one file."""

    where: str
    hosts: dict[str, HostConfig] = field(default_factory=dict)
    mirrors: dict[str, tuple[MirrorEndpoint, ...]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(f"{self.where}: {text}")

    def result(self) -> FromHost:
        return FromHost(RegistryHosts(self.hosts, self.mirrors), tuple(self.notes))

    def mirror(self, url: str, resolve: Resolve) -> MirrorEndpoint | None:
        try:
            return MirrorEndpoint(url, resolve)
        except InvalidError as error:
            self.note(f"left out: {error}")
            return None


def read_registries_conf(text: str, where: str) -> FromHost:
    """Reads a containers-registries.conf(5) of version 2; ``where`` names it in notes and errors.

    Its mirrors may translate tags, before the origin, unless it says "digest only": so they become ``resolve: first``.
    Raises ``InvalidError`` for what is no such file.
    """
    document = _document(text, where)
    found = _Found(where)
    if isinstance(document.get("registries"), dict):
        raise InvalidError(f"{where} has the old format, version 1", hint="write it as [[registry]] tables, version 2")
    searched = document.get("unqualified-search-registries", [])
    if searched not in ([], ["docker.io"]):
        found.note("unqualified-search-registries: here a short name always means docker.io")
    if document.get("credential-helpers"):
        found.note("credential-helpers: declare them under `registries:`, `auth: {helper: NAME}`")
    for entry in _tables(document, "registry", where):
        _registry(found, entry)
    return found.result()


def _registry(found: _Found, entry: dict[str, Any]) -> None:
    location = _text(entry, "location", found.where)
    prefix = _text(entry, "prefix", found.where) or location
    host = _host(prefix)
    if host is None:
        found.note(f"{prefix!a}: left out: rules are for whole registries, not for a part of one or for a pattern")
        return
    if entry.get("blocked"):
        found.note(f"{prefix}: `blocked` is not carried over: who may pull what is the specs' to say")
    if entry.get("insecure"):
        found.note(f"{prefix}: `insecure` is not carried over: declare `plain_http: true`, or its `tls: {{ca: FILE}}`")
    if location and location != prefix:
        found.note(f"{prefix}: another location, {location!a}, is left out: references name the registry itself")
        return
    only_digests = bool(entry.get("mirror-by-digest-only"))
    mirrors = (_mirror(found, prefix, table, only_digests) for table in _tables(entry, "mirror", found.where))
    usable = tuple(mirror for mirror in mirrors if mirror is not None)
    if usable:
        found.mirrors[host] = usable


def _mirror(found: _Found, prefix: str, table: dict[str, Any], only_digests: bool) -> MirrorEndpoint | None:
    location = _text(table, "location", found.where)
    authority, _, path = location.partition("/")
    if _host(authority) is None:
        found.note(f"{prefix}: mirror {location!a} is left out: it names no host")
        return None
    if table.get("insecure"):
        found.note(f"{prefix}: mirror {location} is left out: `insecure` may mean plain http or no verification of TLS")
        return None
    wanted = _text(table, "pull-from-mirror", found.where) or ("digest-only" if only_digests else "all")
    if wanted not in ("all", "digest-only"):
        found.note(f"{prefix}: mirror {location} is left out: it is for `{wanted[:40]}` pulls")
        return None
    # The path is a part of the repository's name there: such a URL begins with /v2 here.
    url = f"https://{authority}/v2/{path}" if path else f"https://{authority}"
    return found.mirror(url, "never" if wanted == "digest-only" else "first")


def read_hosts_toml(text: str, host: str, where: Path) -> FromHost:
    """containerd's ``hosts.toml`` from the directory of ``host`` (``_default`` means every registry not named).

    ``where`` is the file: what it names is relative to its directory. A host that may only "pull" becomes ``resolve:
    never``, one that may "resolve" too ``resolve: first``. Raises ``InvalidError`` for what is no such file.
    """
    document = _document(text, str(where))
    found = _Found(str(where))
    registry = EVERY_OTHER if host == "_default" else _host(host.replace("_", ":").rstrip(":"))
    if registry is None:
        raise InvalidError(f"{where}: {host!a} is no registry", hint="the directory is named HOST or HOST:PORT")
    server = _text(document, "server", str(where))
    own = RegistryHosts().origin(registry).origin if registry != EVERY_OTHER else ""
    if server and registry != EVERY_OTHER and _origin(server) == own:
        _tls(found, registry, document, where)
    elif server:
        found.note(f"server {server!a} is left out: the last to be asked is the registry itself")
    tables = document.get("host", {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise InvalidError(f"{where}: host is no table of tables")
    mirrors = (_containerd_mirror(found, url, table, where) for url, table in tables.items())
    usable = tuple(mirror for mirror in mirrors if mirror is not None)
    if usable:
        found.mirrors[registry] = usable
    return found.result()


def _containerd_mirror(found: _Found, url: str, table: dict[str, Any], where: Path) -> MirrorEndpoint | None:
    url = url if "://" in url else f"https://{url}"
    capabilities = table.get("capabilities", ["pull", "resolve", "push"])
    if not isinstance(capabilities, list) or not _CAPABILITIES.issuperset(map(str, capabilities)):
        raise InvalidError(f"{where}: the capabilities of {url!a} are no list of pull, resolve and push")
    if "pull" not in capabilities:
        found.note(f"{url} is left out: it may not be pulled from")
        return None
    if table.get("header"):
        found.note(f"{url} is left out: headers of one's own are not sent")
        return None
    mirror = found.mirror(url, "first" if "resolve" in capabilities else "never")
    if mirror is None:
        return None
    path = urlsplit(url).path.rstrip("/")
    ours_as_it_stands = path == "/v2" or path.startswith("/v2/")
    # Without override_path containerd adds /v2 unless the path ends in it; with it, nothing is added.
    theirs_as_it_stands = bool(table.get("override_path")) or path.endswith("/v2")
    if ours_as_it_stands != theirs_as_it_stands:
        found.note(f"{url} is left out: its path cannot be asked for here")
        return None
    return mirror if _tls(found, authority_of(url), table, where) else None


def _tls(found: _Found, host: str, table: dict[str, Any], where: Path) -> bool:
    """Takes over the TLS files of one host; False when it is not to be used without something that was left out."""
    if table.get("skip_verify"):
        found.note(f"{host} is left out: skip_verify is refused; name its authority as `ca`")
        return False
    authorities = _paths(table.get("ca"), where)
    pairs = _pairs(table.get("client"), where)
    if len(authorities) > 1 or len(pairs) > 1:
        found.note(
            f"{host} is left out: it has several authorities or client certificates, and one of each is supported"
        )
        return False
    if not authorities and not pairs:
        return True
    certificate, key = pairs[0] if pairs else (None, None)
    tls = TlsConfig(authorities[0] if authorities else None, certificate, key)
    name = canonical_host(host)
    known = found.hosts.get(name)
    if known is not None and known.tls != tls:
        found.note(f"{host} is left out: it is declared twice, with different TLS files")
        return False
    found.hosts[name] = HostConfig(name, tls=tls)
    return True


def _paths(value: Any, where: Path) -> list[Path]:
    values = value if isinstance(value, list) else [value] if value else []
    if not all(isinstance(item, str) and item for item in values):
        raise InvalidError(f"{where}: ca is no path, or list of paths")
    return [where.parent / item for item in values]


def _pairs(value: Any, where: Path) -> list[tuple[Path, Path | None]]:
    values = value if isinstance(value, list) else [value] if value else []
    pairs: list[tuple[Path, Path | None]] = []
    for item in values:
        names = item if isinstance(item, list) else [item]
        if not 1 <= len(names) <= 2 or not all(isinstance(name, str) for name in names):
            raise InvalidError(f"{where}: client is no list of certificates and keys")
        key = where.parent / names[1] if len(names) == 2 and names[1] else None
        pairs.append((where.parent / names[0], key))
    return pairs


def _document(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidError(f"{where} is no TOML: {error}", hint="mend it, or leave `from_host` out") from None


def _tables(document: Mapping[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    value = document.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InvalidError(f"{where}: {key} is no list of tables", hint=f"write [[{key}]]")
    return value


def _text(table: Mapping[str, Any], key: str, where: str) -> str:
    value = table.get(key, "")
    if not isinstance(value, str):
        raise InvalidError(f"{where}: {key} is no text")
    return value.strip()


def _host(name: str) -> str | None:
    """A whole registry's name; None for anything else."""
    try:
        return canonical_host(parse_registry(name))
    except InvalidError:
        return None


def _origin(url: str) -> str:
    try:
        return origin_of(url if "://" in url else f"https://{url}")
    except InvalidError:
        return ""
