"""Which proxy to use for which host, from the variables that every HTTP tool reads. Pure: the caller has them."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import field
from urllib.parse import urlsplit

from reconciler.value import dataclass


@dataclass(frozen=True, slots=True)
class Proxies:
    """``http`` and ``https`` are proxy URLs by the scheme of what is asked for; ``exempt`` hosts are asked directly."""

    http: str | None = field(default=None, repr=False)
    https: str | None = field(default=None, repr=False)
    exempt: tuple[str, ...] = ()

    @classmethod
    def from_variables(cls, variables: Mapping[str, str]) -> Proxies:
        """Reads ``http_proxy``, ``https_proxy``, ``all_proxy`` and ``no_proxy``, in lower or upper case.

        ``HTTP_PROXY`` is left out when ``REQUEST_METHOD`` is set, for a CGI server fills it from a request's header.
        """

        def value(name: str) -> str | None:
            upper = None if name == "http_proxy" and "REQUEST_METHOD" in variables else variables.get(name.upper())
            return variables.get(name) or upper or None

        every = value("all_proxy")
        exempt = tuple(part.strip().lower() for part in (value("no_proxy") or "").split(",") if part.strip())
        return cls(_with_scheme(value("http_proxy") or every), _with_scheme(value("https_proxy") or every), exempt)

    def proxy_for(self, url: str) -> str | None:
        """The proxy for ``url``, or None to go there directly. Loopback is always reached directly."""
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        proxy = self.https if parts.scheme == "https" else self.http
        if proxy is None or _is_loopback(host) or any(_covers(rule, host, parts.port) for rule in self.exempt):
            return None
        return proxy


def _with_scheme(proxy: str | None) -> str | None:
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _covers(rule: str, host: str, port: int | None) -> bool:
    if rule == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(rule, strict=False)
    except ValueError:
        pass
    name, colon, rule_port = rule.partition(":")
    if colon and rule_port != str(port or ""):
        return False
    name = name.removeprefix("*").lstrip(".")
    return host == name or (bool(name) and host.endswith(f".{name}"))
