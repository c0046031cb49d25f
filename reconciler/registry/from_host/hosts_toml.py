"""containerd's ``hosts.toml``, one in a directory for each registry.

containerd asks the hosts in order, each for what it may do: one that may ``resolve`` is asked for tags before the
registry (``resolve: first``), one that may only ``pull`` never (``never``). The registry itself may stand among them;
those below it are asked for tags when it does not answer (``fallback``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from reconciler.errors import InvalidError
from reconciler.registry.from_host.found import Found, Rule, Said, document_of, registry_of, text_of, truth_of
from reconciler.registry.hosts import (
    EVERY_OTHER,
    MirrorEndpoint,
    RegistryHosts,
    Resolve,
    TlsConfig,
    authority_of,
    canonical_host,
    origin_of,
)

_CAPABILITIES = frozenset({"pull", "resolve", "push", "referrers"})


def read_hosts_toml(text: str, directory: str, where: Path) -> Said:
    """What the file says of the registry that its ``directory`` is named after (``_default``: every one not named).

    ``where`` is the file; what it names is relative to its directory. Raises ``InvalidError`` for what is no such file.
    """
    document = document_of(text, str(where))
    found = Found(str(where))
    registry = EVERY_OTHER if directory == "_default" else registry_of(directory.replace("_", ":").rstrip(":"))
    if registry is None:
        raise InvalidError(f"{where}: {directory!a} is no registry", hint="the directory is named HOST or HOST:PORT")
    _server(found, registry, document, where)
    tables = document.get("host", {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise InvalidError(f"{where}: host is no table of tables", hint='write [host."https://HOST"]')
    own = "" if registry == EVERY_OTHER else RegistryHosts().origin(registry).origin
    endpoints: list[MirrorEndpoint] = []
    resolve: Resolve = "first"
    for url, table in tables.items():
        url = _url(url)
        if own and _origin(url) == own:
            resolve = "fallback"
        elif (mirror := _mirror(found, url, table, resolve, where)) is not None:
            endpoints.append(mirror)
    found.rules[registry] = Rule(tuple(dict.fromkeys(endpoints)))
    return found.said()


def _server(found: Found, registry: str, document: dict[str, Any], where: Path) -> None:
    """``server`` and the settings beside it are about the registry itself, unless they name another."""
    server = text_of(document, "server", str(where))
    if registry == EVERY_OTHER:
        if server:
            found.note(f"server {server!a} is left out: the last to be asked is the registry itself")
        return
    own = RegistryHosts().origin(registry).origin
    if not server or _origin(_url(server)) == own:
        _tls(found, registry, document, where)
    elif authority_of(_url(server)) == registry and server.startswith("http://"):
        found.note(f"server {server!a} is left out; declare `plain_http: true` for {registry} under `registries:`")
    else:
        found.note(f"server {server!a} is left out: the last to be asked is the registry itself")


def _mirror(found: Found, url: str, table: dict[str, Any], resolve: Resolve, where: Path) -> MirrorEndpoint | None:
    mirror = found.mirror(url, resolve)
    if mirror is None:
        return None
    capabilities = table.get("capabilities", ["pull", "resolve", "push"])
    if not isinstance(capabilities, list) or not _CAPABILITIES.issuperset(map(str, capabilities)):
        raise InvalidError(
            f"{where}: the capabilities of {url!a} are no list of pull, resolve and push", hint="mend the file"
        )
    if "pull" not in capabilities:
        found.note(f"{url} is left out: it may not be pulled from")
        return None
    if table.get("header"):
        found.note(f"{url} is left out: headers of one's own are not sent")
        return None
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    ours_as_it_stands = path == "/v2" or path.startswith("/v2/")
    # Without override_path containerd adds /v2 unless the path ends in it; with it, nothing is added.
    theirs_as_it_stands = truth_of(table, "override_path", str(where)) or path.endswith("/v2")
    if ours_as_it_stands != theirs_as_it_stands:
        found.note(f"{url} is left out: its path cannot be asked for here")
        return None
    if parts.scheme == "https" and not _tls(found, authority_of(url), table, where):
        return None
    return mirror if "resolve" in capabilities else MirrorEndpoint(mirror.url, "never")


def _tls(found: Found, host: str, table: dict[str, Any], where: Path) -> bool:
    """Takes over the TLS files of one host; False when it is not to be used without something that was left out."""
    if truth_of(table, "skip_verify", str(where)):
        found.note(f"{host} is left out: skip_verify is refused; name its authority as `ca`")
        return False
    authorities = _paths(table.get("ca"), where)
    pairs = _pairs(table.get("client"), where)
    if len(authorities) > 1 or len(pairs) > 1:
        found.note(f"{host} is left out: of authorities and of client certificates, one each is supported")
        return False
    if not authorities and not pairs:
        return True
    certificate, key = pairs[0] if pairs else (None, None)
    tls = TlsConfig(authorities[0] if authorities else None, certificate, key)
    name = canonical_host(host)
    if found.tls.setdefault(name, tls) != tls:
        found.note(f"{host} is left out: it is declared twice, with different TLS files")
        return False
    return True


def _paths(value: Any, where: Path) -> list[Path]:
    values = value if isinstance(value, list) else [value] if value else []
    if not all(isinstance(item, str) and item for item in values):
        raise InvalidError(f"{where}: ca is no path, or list of paths", hint="mend the file")
    return [where.parent / item for item in values]


def _pairs(value: Any, where: Path) -> list[tuple[Path, Path | None]]:
    values = value if isinstance(value, list) else [value] if value else []
    pairs: list[tuple[Path, Path | None]] = []
    for item in values:
        names = item if isinstance(item, list) else [item]
        if not 1 <= len(names) <= 2 or not all(isinstance(name, str) for name in names):
            raise InvalidError(f"{where}: client is no list of certificates and keys", hint="mend the file")
        key = where.parent / names[1] if len(names) == 2 and names[1] else None
        pairs.append((where.parent / names[0], key))
    return pairs


def _url(text: str) -> str:
    return text if "://" in text else f"https://{text}"


def _origin(url: str) -> str:
    try:
        return origin_of(url)
    except InvalidError:
        return ""
