"""containers-registries.conf(5) of version 2: podman, skopeo, buildah, CRI-O.

These programs ask a registry's mirrors before the registry, for tags too: ``resolve: first``. A mirror for digests
alone is ``never``; one for tags alone is ``first``, and is asked for the bytes of what it named. ``insecure`` on a
mirror means plain HTTP here; TLS that nobody verifies is never spoken.
"""

from __future__ import annotations

from typing import Any

from reconciler.errors import InvalidError
from reconciler.registry.from_host.found import (
    Found,
    Rule,
    Said,
    document_of,
    registry_of,
    tables_of,
    text_of,
    truth_of,
)
from reconciler.registry.hosts import MirrorEndpoint, Resolve

_PULLS: dict[str, Resolve] = {"all": "first", "tag-only": "first", "digest-only": "never"}


def read_registries_conf(text: str, where: str) -> Said:
    """What the file says; ``where`` names it in notes and errors.

    Raises ``InvalidError`` for what is no such file, and for a block that cannot be kept: it is not left out.
    """
    document = document_of(text, where)
    found = Found(where)
    if isinstance(document.get("registries"), dict):
        raise InvalidError(f"{where} has the old format, version 1", hint="write it as [[registry]] tables, version 2")
    for entry in tables_of(document, "registry", where):
        _registry(found, entry)
    return found.said()


def _registry(found: Found, entry: dict[str, Any]) -> None:
    where = found.where
    location = text_of(entry, "location", where)
    prefix = text_of(entry, "prefix", where) or location
    if not prefix:
        raise InvalidError(f"{where}: a [[registry]] has neither prefix nor location", hint="give it one")
    host, blocked = registry_of(prefix), truth_of(entry, "blocked", where)
    if host is None:
        if blocked:
            raise InvalidError(
                f"{where}: {prefix!a} is blocked, and only a whole registry can be blocked here",
                hint="block the registry, or leave `from_host` out",
            )
        found.note(f"{prefix!a} is left out: rules are for whole registries, not for a part of one or for a pattern")
        return
    if blocked:
        found.rules[host] = Rule(blocked=True)
        return
    if truth_of(entry, "insecure", where):
        found.note(
            f"{prefix}: `insecure` is not carried over; declare `plain_http: true` or `tls: {{ca: FILE}}` "
            "for it under `registries:`"
        )
    only_digests = truth_of(entry, "mirror-by-digest-only", where)
    tables = tables_of(entry, "mirror", where)
    if location and registry_of(location) != host:
        found.note(f"{prefix}: left out: images of one registry cannot be taken from another, {location!a}")
        tables = []
    mirrors = (_mirror(found, prefix, table, only_digests) for table in tables)
    found.rules[host] = Rule(tuple(dict.fromkeys(mirror for mirror in mirrors if mirror is not None)))


def _mirror(found: Found, prefix: str, table: dict[str, Any], only_digests: bool) -> MirrorEndpoint | None:
    location = text_of(table, "location", found.where)
    authority, _, path = location.partition("/")
    if registry_of(authority) is None:
        found.note(f"{prefix}: mirror {location!a} is left out: it names no host")
        return None
    pulls = text_of(table, "pull-from-mirror", found.where) or ("digest-only" if only_digests else "all")
    if pulls not in _PULLS:
        raise InvalidError(
            f"{found.where}: pull-from-mirror of {location!a} is none of {', '.join(sorted(_PULLS))}",
            hint="mend it, or leave `from_host` out",
        )
    scheme = "http" if truth_of(table, "insecure", found.where) else "https"
    # The path is a part of the repository's name there: such a URL begins with /v2 here.
    url = f"{scheme}://{authority}/v2/{path}" if path else f"{scheme}://{authority}"
    return found.mirror(url, _PULLS[pulls])
