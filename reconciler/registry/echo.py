"""Our own secrets, as a server may say them back to us: in the body of an error, or in an address.

Proxies and debugging servers repeat the request that they refuse. What they repeat ends in errors, logs and records.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, quote, quote_plus, urlsplit

import httpx

_SHORTEST = 4  # to hide less would tell more of it than it hides
_LOGIN = re.compile(r"//[^/?#]*@")
_QUERY = re.compile(r"[?#]")


def secrets_of(request: httpx.Request, *, signed: bool = False) -> tuple[str, ...]:
    """What of ``request`` is nobody else's business, longest first, in each form in which it may come back.

    The values in the address count when it was ``signed`` for us.
    """
    secrets: set[str] = set()
    for name in ("authorization", "proxy-authorization"):
        scheme, _, proof = request.headers.get(name, "").partition(" ")
        secrets.add(proof.rstrip("="))
        if scheme == "Basic":
            secrets.update(_password(proof))
    if request.method == "POST" and request.headers.get("content-type") == "application/x-www-form-urlencoded":
        secrets.update(value for key, value in parse_qsl(request.read().decode()) if key == "refresh_token")
    if signed:
        secrets.update(value for _, value in parse_qsl(urlsplit(str(request.url)).query))
    forms = {
        form for secret in secrets for form in (secret, quote(secret), quote_plus(secret), json.dumps(secret)[1:-1])
    }
    return tuple(sorted((form for form in forms if len(form) >= _SHORTEST), key=len, reverse=True))


def without(text: str, secrets: Iterable[str]) -> str:
    """``text`` with three stars for each secret; ``secrets`` are the longest first."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def address(url: str) -> str:
    """``url`` as far as it may be shown: a query may be a signature, and who is before an ``@`` a login."""
    shown = _LOGIN.sub("//***@", url)
    cut = _QUERY.search(shown)
    return shown if cut is None else f"{shown[: cut.start()]}{cut[0]}..."


def _password(proof: str) -> tuple[str, ...]:
    """What stands behind Basic: the password, also in base64 by itself."""
    try:
        password = base64.b64decode(proof).partition(b":")[2]
    except binascii.Error:
        return ()
    return (password.decode("utf-8", "replace"), base64.b64encode(password).decode().rstrip("="))
