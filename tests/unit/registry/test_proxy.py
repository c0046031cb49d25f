"""Which proxy for which host."""

from __future__ import annotations

import base64

import pytest

from reconciler.clock import SystemClock
from reconciler.errors import InvalidError, RegistryError
from reconciler.oci.digest import Digest
from reconciler.oci.reference import Reference
from reconciler.registry.client import RegistryClient
from reconciler.registry.hosts import HostConfig, RegistryHosts
from reconciler.registry.proxy import Proxies
from reconciler.testing.scripted_registry import ScriptedRegistry, Step

from .conftest import manifest, served

BOTH = {"http_proxy": "http://p:1", "HTTPS_PROXY": "p:2"}


@pytest.mark.parametrize(
    ("no_proxy", "url", "expected"),
    [
        ("", "https://a.io/", "http://p:2"),
        ("", "http://a.io/", "http://p:1"),
        ("", "http://127.0.0.1:5000/", None),
        ("", "http://localhost/", None),
        ("", "http://[::1]:5000/", None),
        ("a.io", "https://a.io/", None),
        ("a.io", "https://b.a.io/", None),
        (".a.io", "https://b.a.io/", None),
        ("*.a.io", "https://b.a.io/", None),
        ("a.io", "https://aa.io/", "http://p:2"),
        ("x, 10.0.0.0/8", "https://10.1.2.3/", None),
        ("10.0.0.0/8", "https://11.1.2.3/", "http://p:2"),
        ("a.io:5000", "https://a.io:5000/", None),
        ("a.io:5000", "https://a.io/", "http://p:2"),
        ("*", "https://a.io/", None),
    ],
)
def test_proxy_for(no_proxy, url, expected):
    assert Proxies.from_variables(BOTH | {"no_proxy": no_proxy}).proxy_for(url) == expected


def test_all_proxy_and_cgi():
    assert Proxies.from_variables({"ALL_PROXY": "socks5://p"}).proxy_for("https://a/") == "socks5://p"
    cgi = {"HTTP_PROXY": "http://evil", "REQUEST_METHOD": "GET"}
    assert Proxies.from_variables(cgi).proxy_for("http://a/") is None


@pytest.mark.parametrize("proxy", ["socks5://u:secret@p:1", "gopher://u:secret@p:1"])
def test_a_proxy_that_is_not_supported(proxy):
    client = RegistryClient(RegistryHosts(), clock=SystemClock(), proxies=Proxies(https=proxy))
    with client, pytest.raises(InvalidError, match="proxy") as caught:
        client.tag_digest(Reference.parse("registry.example.invalid/app:1"))
    assert "secret" not in str(caught.value)


def test_requests_go_through_the_proxy():
    hosts = RegistryHosts({"registry.example.invalid": HostConfig("registry.example.invalid", plain_http=True)})
    # Loopback is never proxied to, but a proxy may well be there.
    with ScriptedRegistry() as proxy:
        proxy.on("HEAD http://registry.example.invalid/v2/app/manifests/1", Step(404))
        with RegistryClient(hosts, clock=SystemClock(), proxies=Proxies(http=proxy.url)) as client:
            assert client.tag_digest(Reference.parse("registry.example.invalid/app:1")) is None


def test_a_proxys_password_is_in_no_repr():
    assert "secret" not in repr(Proxies.from_variables({"https_proxy": "http://u:secret@p"}))


def test_requests_go_through_the_proxy_with_its_own_login(harness, registry):
    data = manifest()
    registry.on("HEAD http://registry.invalid/v2/app/manifests/1", served(data))
    host = HostConfig("registry.invalid", plain_http=True)
    proxies = Proxies(http=f"http://proxy-user:proxy-secret@{registry.host}")
    client = harness.client(hosts={host.host: host}, proxies=proxies)
    assert client.tag_digest(Reference.parse("registry.invalid/app:1")) == Digest.of(data)
    login = base64.b64encode(b"proxy-user:proxy-secret").decode()
    assert registry.asked[0].headers["proxy-authorization"] == f"Basic {login}"
    assert "authorization" not in registry.asked[0].headers


def test_a_proxy_that_fails_is_not_shown_with_its_password(harness, registry):
    registry.on("CONNECT ", Step(407))
    proxies = Proxies(https=f"http://proxy-user:proxy-secret@{registry.host}")
    with pytest.raises(RegistryError) as caught:
        harness.client(proxies=proxies, attempts=1).tag_digest(Reference.parse("registry.invalid/app:1"))
    assert "proxy-secret" not in f"{caught.value} {caught.value.hint}"
