"""Which server stands behind a name."""

from __future__ import annotations

import pytest

from reconciler.errors import InvalidError, RefusedError
from reconciler.registry.hosts import Credentials, HostConfig, MirrorEndpoint, RegistryHosts, authority_of, origin_of


def test_the_hub_answers_elsewhere():
    for name in ("docker.io", "index.docker.io", "registry-1.docker.io", "Docker.IO"):
        origin = RegistryHosts().origin(name)
        assert (origin.name, origin.base) == ("docker.io", "https://registry-1.docker.io/v2/")


@pytest.mark.parametrize("host", ["127.0.0.1:5000", "localhost", "[::1]:5000", "registry.example.com"])
def test_plain_http_is_never_guessed(host):
    assert RegistryHosts().origin(host).base == f"https://{host}/v2/"
    assert RegistryHosts({host: HostConfig(host, plain_http=True)}).origin(host).base == f"http://{host}/v2/"


def test_hosts_are_compared_without_case():
    hosts = RegistryHosts(
        {"Registry.Example.com": HostConfig("Registry.Example.com", credentials=Credentials("a", "b"))},
        {"REGISTRY.example.com": (MirrorEndpoint("https://m"),)},
    )
    assert hosts.credentials("registry.EXAMPLE.com") == Credentials("a", "b")
    assert len(hosts.mirrors_of("registry.example.COM")) == 1


@pytest.mark.parametrize(
    ("url", "base", "scope"),
    [
        ("http://m:5001", "http://m:5001/v2/", "repository:app:pull"),
        ("https://m/", "https://m/v2/", "repository:app:pull"),
        ("https://m/cache/hub", "https://m/cache/hub/v2/", "repository:app:pull"),
        ("https://m/v2", "https://m/v2/", "repository:app:pull"),
        ("https://m/v2/proxy/", "https://m/v2/proxy/", "repository:proxy/app:pull"),
        ("https://m/v2ray", "https://m/v2ray/v2/", "repository:app:pull"),
    ],
)
def test_a_mirrors_url_may_have_a_path(url, base, scope):
    (mirror, origin) = RegistryHosts(mirrors={"docker.io": (MirrorEndpoint(url),)}).for_content("docker.io")
    assert mirror.url("app", "blobs/x") == f"{base}app/blobs/x?ns=docker.io"
    assert mirror.scope("app", "pull") == scope
    assert origin.url("app", "blobs/x") == "https://registry-1.docker.io/v2/app/blobs/x"


@pytest.mark.parametrize(
    "url",
    ["m:5000", "ftp://m", "https://", "https://m?x=1", "https://m#x", "https://u:secret@m", "http://m:99999",
     "https://m/v2/../x", "https://m/%2e%2e/x", "https://m/./x", "https://m/a b", "https://m\n.evil", "https://mé"],
)  # fmt: skip
def test_malformed_mirrors(url):
    with pytest.raises(InvalidError) as caught:
        MirrorEndpoint(url)
    assert "secret" not in str(caught.value)


def test_every_other_registry():
    every, hub = MirrorEndpoint("https://every"), MirrorEndpoint("https://hub")
    hosts = RegistryHosts(mirrors={"*": (every,), "docker.io": (hub,), "quay.io": ()})
    assert [mirror.name for mirror in hosts.mirrors_of("docker.io")] == ["https://hub"]
    assert [mirror.name for mirror in hosts.mirrors_of("ghcr.io")] == ["https://every"]
    assert hosts.mirrors_of("quay.io") == ()
    assert hosts.mirrors_of("every") == (), "a registry is no mirror of itself"


@pytest.mark.parametrize("url", ["https://m", "https://M:443", "https://m:443/x"])
@pytest.mark.parametrize("declared", ["m", "m:443"])
def test_a_mirrors_login_and_authority_are_found_with_the_port_spelled_out_or_not(url, declared):
    config = HostConfig(declared, credentials=Credentials("ci", "x"))
    hosts = RegistryHosts({declared: config}, {"r.io": (MirrorEndpoint(url),)})
    found = declared == "m" or ":443" in url
    assert hosts.credentials(hosts.mirrors_of("r.io")[0].credential_name) == (Credentials("ci", "x") if found else None)


def test_another_port_is_another_server():
    config = HostConfig("m", credentials=Credentials("ci", "x"))
    mirrors = (MirrorEndpoint("https://m:80"), MirrorEndpoint("http://m"), MirrorEndpoint("https://m:5000"))
    hosts = RegistryHosts({"m": config}, {"r.io": mirrors})
    assert [mirror.credential_name for mirror in hosts.mirrors_of("r.io")] == ["m:80", "m", "m:5000"]
    assert [mirror.authenticates for mirror in hosts.mirrors_of("r.io")] == [True, False, True]


def test_what_stands_for_every_registry_does_not_stand_for_itself():
    every = (MirrorEndpoint("https://m/cache"), MirrorEndpoint("https://n"))
    hosts = RegistryHosts(mirrors={"*": every})
    assert [mirror.name for mirror in hosts.mirrors_of("m")] == ["https://n"]
    assert [mirror.name for mirror in hosts.mirrors_of("M:443")] == ["https://n"]
    assert [mirror.name for mirror in hosts.mirrors_of("m:5000")] == ["https://m/cache", "https://n"]


@pytest.mark.parametrize(
    ("registry", "query"),
    [("[::1]:5000", "ns=%5B%3A%3A1%5D%3A5000"), ("r.io:443", "ns=r.io%3A443"), ("Index.Docker.IO", "ns=docker.io")],
)
def test_p62_ns_names_the_registry_as_references_do(registry, query):
    hosts = RegistryHosts(mirrors={"*": (MirrorEndpoint("https://m/p"),)})
    assert hosts.mirrors_of(registry)[0].url("a/b", "blobs/x") == f"https://m/p/v2/a/b/blobs/x?{query}"


def test_the_order_for_tags_and_for_content():
    declared = (
        MirrorEndpoint("https://a"),
        MirrorEndpoint("https://b", "first"),
        MirrorEndpoint("https://c", "never"),
    )
    hosts = RegistryHosts(mirrors={"r.io": declared})
    assert [end.name for end in hosts.for_tags("r.io")] == ["https://b", "r.io", "https://a"]
    assert [end.name for end in hosts.for_content("r.io")] == ["https://a", "https://b", "https://c", "r.io"]


def test_credentials_come_from_the_declaration_else_from_the_source():
    def source(host: str, _repository: str) -> Credentials:
        return Credentials("source", host)

    declared = HostConfig("a.io", credentials=lambda host, _: Credentials("declared", host))
    hosts = RegistryHosts({"a.io": declared}, credentials_for=source)
    assert hosts.credentials("a.io") == Credentials("declared", "a.io")
    assert hosts.credentials("index.docker.io") == Credentials("source", "docker.io")


def test_an_http_mirror_sends_no_login_unless_its_host_is_declared_plain():
    mirrors = {"r.io": (MirrorEndpoint("http://m:1"), MirrorEndpoint("http://n:1"), MirrorEndpoint("https://o"))}
    hosts = RegistryHosts({"n:1": HostConfig("n:1", plain_http=True)}, mirrors)
    assert [mirror.authenticates for mirror in hosts.mirrors_of("r.io")] == [False, True, True]


def test_no_password_in_any_repr():
    secret = Credentials("ci", "s3cret")
    assert "s3cret" not in repr(RegistryHosts({"a": HostConfig("a", credentials=secret)}))


def test_origins_spell_out_the_port():
    assert origin_of("HTTPS://Host/x") == "https://host:443"
    assert origin_of("http://[::1]:5000/") == "http://[::1]:5000"
    assert authority_of("https://host:443/") == "host"
    assert authority_of("http://host:443/") == "host:443"


def test_a_blocked_registry_has_nobody_to_ask():
    hosts = RegistryHosts(mirrors={"*": (MirrorEndpoint("https://m"),)}, blocked={"Index.docker.io": "/etc/x.conf"})
    for ask in (hosts.origin, hosts.mirrors_of, hosts.for_content, hosts.for_tags):
        with pytest.raises(RefusedError, match=r"^docker.io is blocked by /etc/x\.conf$"):
            ask("docker.io")
    assert len(hosts.for_content("quay.io")) == 2
