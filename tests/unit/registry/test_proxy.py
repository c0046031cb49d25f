"""Which proxy for which host."""

from __future__ import annotations

import pytest

from reconciler.registry.proxy import Proxies

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


def test_a_proxys_password_is_in_no_repr():
    assert "secret" not in repr(Proxies.from_variables({"https_proxy": "http://u:secret@p"}))
