"""Mirrors that a host has for other programs."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.errors import InvalidError
from reconciler.registry.from_host import FromHost, read_hosts_toml, read_registries_conf
from reconciler.registry.hosts import MirrorEndpoint, TlsConfig

WHERE = Path("/etc/containerd/certs.d/docker.io/hosts.toml")


def conf(text: str) -> FromHost:
    return read_registries_conf(text, "registries.conf")


def toml(text: str, host: str = "docker.io") -> FromHost:
    return read_hosts_toml(text, host, WHERE)


def test_mirrors_of_registries_conf():
    found = conf(
        """
        unqualified-search-registries = ["docker.io"]
        [[registry]]
        prefix = "docker.io"
        location = "docker.io"
        [[registry.mirror]]
        location = "mirror.example.com:5000"
        [[registry.mirror]]
        location = "cache.example.com/hub/proxy"
        pull-from-mirror = "digest-only"
        [[registry]]
        location = "quay.io"
        mirror-by-digest-only = true
        [[registry.mirror]]
        location = "mirror.example.com"
        """
    )
    assert found.notes == ()
    assert found.hosts.mirrors == {
        "docker.io": (
            MirrorEndpoint("https://mirror.example.com:5000", "first"),
            MirrorEndpoint("https://cache.example.com/v2/hub/proxy", "never"),
        ),
        "quay.io": (MirrorEndpoint("https://mirror.example.com", "never"),),
    }
    # As containers does: the mirror's path is the beginning of the repository's name there.
    mirror = found.hosts.mirrors_of("docker.io")[1]
    assert mirror.url("library/nginx", "x").startswith("https://cache.example.com/v2/hub/proxy/library/nginx/x")


@pytest.mark.parametrize(
    ("entry", "note"),
    [
        ('prefix = "docker.io/library"\nlocation = "m.io/library"', "not for a part of one"),
        ('prefix = "*.example.com"\nlocation = ""', "for a pattern"),
        ('prefix = "docker.io"\nlocation = "other.io"', "another location, 'other.io', is left out"),
        ('location = "a.io"\nblocked = true', "`blocked` is not carried over"),
        ('location = "a.io"\ninsecure = true', "`insecure` is not carried over"),
        ('location = "a.io"\n[[registry.mirror]]\nlocation = "m.io"\ninsecure = true', "mirror m.io is left out"),
        (
            'location = "a.io"\n[[registry.mirror]]\nlocation = "m.io"\npull-from-mirror = "tag-only"',
            "`tag-only` pulls",
        ),
        ('location = "a.io"\n[[registry.mirror]]\nlocation = "https://m.io"', "names no host"),
    ],
)
def test_what_registries_conf_says_and_rules_cannot(entry, note):
    found = conf(f"[[registry]]\n{entry}\n")
    assert found.hosts.mirrors == {}
    assert found.hosts.hosts == {}
    (said,) = found.notes
    assert said.startswith("registries.conf: ")
    assert note in said


def test_short_names_and_helpers_are_noted():
    notes = conf('unqualified-search-registries = ["quay.io"]\ncredential-helpers = ["pass"]').notes
    assert [note.split(": ")[1] for note in notes] == ["unqualified-search-registries", "credential-helpers"]


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "registry = 7",
        "[registry]\nx = 1",
        "[[registry]]\nlocation = 7",
        "[registries.search]\nregistries = []",
        "[[registry]]\nlocation = 'a.io'\nmirror = [1]",
        "a = " + "[" * 10_000,
    ],
)
def test_what_is_no_registries_conf(text):
    with pytest.raises(InvalidError, match=r"registries\.conf"):
        conf(text)


def test_mirrors_of_hosts_toml():
    found = toml(
        """
        server = "https://registry-1.docker.io"
        [host."https://mirror.example.com"]
          capabilities = ["pull", "resolve"]
          ca = "mirror-ca.pem"
          client = [["/etc/client.pem", "/etc/client.key"]]
        [host."http://127.0.0.1:5001"]
          capabilities = ["pull"]
        [host."https://cache.example.com/v2/hub"]
          capabilities = ["pull", "resolve", "push"]
          override_path = true
        [host."https://cache.example.com/path"]
        """
    )
    assert found.notes == ()
    assert found.hosts.mirrors == {
        "docker.io": (
            MirrorEndpoint("https://mirror.example.com", "first"),
            MirrorEndpoint("http://127.0.0.1:5001", "never"),
            MirrorEndpoint("https://cache.example.com/v2/hub", "first"),
            MirrorEndpoint("https://cache.example.com/path", "first"),
        )
    }
    tls = TlsConfig(WHERE.parent / "mirror-ca.pem", Path("/etc/client.pem"), Path("/etc/client.key"))
    assert found.hosts.host("mirror.example.com").tls == tls
    assert found.hosts.host("127.0.0.1:5001").plain_http is False, "bytes in the clear, no login"


@pytest.mark.parametrize(
    ("host", "key"),
    [("_default", "*"), ("a.io", "a.io"), ("a.io:5000", "a.io:5000"), ("a.io_5000_", "a.io:5000"), ("A.io", "a.io")],
)
def test_the_directory_names_the_registry(host, key):
    assert set(toml('[host."https://m.io"]', host).hosts.mirrors) == {key}


def test_the_registrys_own_tls_files():
    found = toml('server = "https://a.io"\nca = ["ca.pem"]\n', "a.io")
    assert found.hosts.host("a.io").tls == TlsConfig(WHERE.parent / "ca.pem")


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ('[host."https://m.io"]\nskip_verify = true', "skip_verify is refused"),
        ('[host."https://m.io"]\ncapabilities = ["push"]', "may not be pulled from"),
        ('[host."https://m.io/x"]\noverride_path = true', "path cannot be asked for"),
        ('[host."https://m.io/v2/x"]\n', "path cannot be asked for"),
        ('[host."https://m.io"]\n[host."https://m.io".header]\nx = "y"', "headers"),
        ('[host."https://m.io"]\nca = ["a", "b"]', "several authorities"),
        ('[host."https://u:secret@m.io"]', "holds credentials"),
        ('[host."ftp://m.io"]', "no http or https URL"),
        ('server = "https://other.io"', "the last to be asked is the registry itself"),
    ],
)
def test_what_hosts_toml_says_and_rules_cannot(text, note):
    found = toml(text)
    assert (found.hosts.mirrors, found.hosts.hosts) == ({}, {})
    (said,) = found.notes
    assert note in said
    assert "secret" not in said


@pytest.mark.parametrize(
    "text",
    ["[", "host = 7", '[host]\n"https://m" = 7', '[host."https://m"]\ncapabilities = ["fly"]', "server = 7",
     '[host."https://m.io"]\nca = [7]', '[host."https://m.io"]\nclient = [["a", "b", "c"]]'],
)  # fmt: skip
def test_what_is_no_hosts_toml(text):
    with pytest.raises(InvalidError, match=r"hosts\.toml"):
        toml(text)


@pytest.mark.parametrize("host", ["", "x y", "docker", "../a.io"])
def test_what_is_no_directory_of_a_registry(host):
    with pytest.raises(InvalidError, match="is no registry"):
        toml("", host)


@given(st.text(max_size=300))
def test_nothing_breaks_the_readers(text):
    for reader in (conf, toml):
        with contextlib.suppress(InvalidError):
            reader(text)
