"""Docker's ``daemon.json``: its ``registry-mirrors`` stand before Docker Hub, for tags too."""

from __future__ import annotations

import json

from reconciler.errors import InvalidError
from reconciler.registry.from_host.found import Found, Rule, Said
from reconciler.registry.hosts import HUB


def read_daemon_json(text: str, where: str) -> Said:
    """What the file says; ``where`` names it in notes and errors. Raises ``InvalidError`` for what is no such file."""
    try:
        document = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        raise InvalidError(f"{where} is no JSON: {error}", hint="mend it, or leave `from_host` out") from None
    urls = document.get("registry-mirrors") or [] if isinstance(document, dict) else None
    if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
        raise InvalidError(f"{where}: registry-mirrors is no list of URLs", hint="mend it, or leave `from_host` out")
    found = Found(where)
    mirrors = (found.mirror(url, "first") for url in urls)
    if urls:
        found.rules[HUB] = Rule(tuple(dict.fromkeys(mirror for mirror in mirrors if mirror is not None)))
    return found.said()
