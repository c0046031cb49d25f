"""Mirrors that a host has for other programs."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.errors import InvalidError
from reconciler.registry.from_host.daemon_json import read_daemon_json
from reconciler.registry.from_host.files import read_host_files
from reconciler.registry.from_host.found import Rule, Said
from reconciler.registry.from_host.hosts_toml import read_hosts_toml
from reconciler.registry.from_host.places import Places
from reconciler.registry.from_host.registries_conf import read_registries_conf
from reconciler.registry.hosts import MirrorEndpoint, RegistryHosts, TlsConfig

WHERE = Path("/etc/containerd/certs.d/docker.io/hosts.toml")


def conf(text: str) -> Said:
    return read_registries_conf(text, "registries.conf")


def toml(text: str, host: str = "docker.io") -> Said:
    return read_hosts_toml(text, host, WHERE)


def docker(text: str) -> Said:
    return read_daemon_json(text, "daemon.json")


def mirrors(said: Said) -> dict[str, tuple[MirrorEndpoint, ...]]:
    return {host: rule.endpoints for host, rule in said.rules.items() if rule.endpoints}


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
    assert mirrors(found) == {
        "docker.io": (
            MirrorEndpoint("https://mirror.example.com:5000", "first"),
            MirrorEndpoint("https://cache.example.com/v2/hub/proxy", "never"),
        ),
        "quay.io": (MirrorEndpoint("https://mirror.example.com", "never"),),
    }
    # As containers does: the mirror's path is the beginning of the repository's name there.
    mirror = RegistryHosts(mirrors=mirrors(found)).mirrors_of("docker.io")[1]
    assert mirror.url("library/nginx", "x").startswith("https://cache.example.com/v2/hub/proxy/library/nginx/x")


@pytest.mark.parametrize(
    ("entry", "note"),
    [
        ('prefix = "docker.io/library"\nlocation = "m.io/library"', "not for a part of one"),
        ('prefix = "*.example.com"\nlocation = ""', "for a pattern"),
        ('prefix = "docker.io"\nlocation = "other.io"', "cannot be taken from another, 'other.io'"),
        ('location = "a.io"\ninsecure = true', "`insecure` is not carried over"),
        ('location = "a.io"\n[[registry.mirror]]\nlocation = "https://m.io"', "names no host"),
    ],
)
def test_what_registries_conf_says_and_rules_cannot(entry, note):
    found = conf(f"[[registry]]\n{entry}\n")
    assert mirrors(found) == {}
    assert found.tls == {}
    (said,) = found.notes
    assert said.startswith("registries.conf: ")
    assert note in said


@pytest.mark.parametrize(
    ("mirror", "endpoint"),
    [
        ("", MirrorEndpoint("https://m.io", "first")),
        ('pull-from-mirror = "all"', MirrorEndpoint("https://m.io", "first")),
        ('pull-from-mirror = "digest-only"', MirrorEndpoint("https://m.io", "never")),
        ('pull-from-mirror = "tag-only"', MirrorEndpoint("https://m.io", "first")),
        ("insecure = true", MirrorEndpoint("http://m.io", "first")),
    ],
)
def test_what_a_mirror_of_registries_conf_comes_to(mirror, endpoint):
    said = conf(f"[[registry]]\nlocation = 'a.io'\n[[registry.mirror]]\nlocation = 'm.io'\n{mirror}\n")
    assert (mirrors(said), said.notes) == ({"a.io": (endpoint,)}, ())


def test_an_insecure_mirror_gets_no_login():
    said = conf("[[registry]]\nlocation='a.io'\n[[registry.mirror]]\nlocation='m.io'\ninsecure=true\n")
    assert not RegistryHosts(mirrors=mirrors(said)).mirrors_of("a.io")[0].authenticates


def test_a_blocked_registry_has_no_mirrors():
    said = conf("[[registry]]\nlocation='A.io'\nblocked=true\n[[registry.mirror]]\nlocation='m.io'\n")
    assert (said.rules, said.notes) == ({"a.io": Rule(blocked=True)}, ())


@pytest.mark.parametrize("prefix", ["docker.io/evil", "*.example.com"])
def test_a_block_that_cannot_be_kept_is_an_error(prefix):
    with pytest.raises(InvalidError, match="only a whole registry can be blocked"):
        conf(f"[[registry]]\nprefix='{prefix}'\nblocked=true\n")


def test_what_is_not_about_mirrors_is_passed_over():
    said = conf('unqualified-search-registries = ["quay.io"]\ncredential-helpers = ["pass"]\n[aliases]\na="b"')
    assert said == Said()


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "registry = 7",
        "[registry]\nx = 1",
        "[[registry]]\nlocation = 7",
        "[registries.search]\nregistries = []",
        "[[registry]]\nlocation = 'a.io'\nmirror = [1]",
        "[[registry]]\nlocation = 'a.io'\nblocked = 'yes'",
        "[[registry]]\nlocation = 'a.io'\n[[registry.mirror]]\nlocation='m.io'\npull-from-mirror = 'some'",
        "[[registry]]\ninsecure = true",
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
    assert mirrors(found) == {
        "docker.io": (
            MirrorEndpoint("https://mirror.example.com", "first"),
            MirrorEndpoint("http://127.0.0.1:5001", "never"),
            MirrorEndpoint("https://cache.example.com/v2/hub", "first"),
            MirrorEndpoint("https://cache.example.com/path", "first"),
        )
    }
    tls = TlsConfig(WHERE.parent / "mirror-ca.pem", Path("/etc/client.pem"), Path("/etc/client.key"))
    assert found.tls == {"mirror.example.com": tls}


@pytest.mark.parametrize(
    ("host", "key"),
    [("_default", "*"), ("a.io", "a.io"), ("a.io:5000", "a.io:5000"), ("a.io_5000_", "a.io:5000"), ("A.io", "a.io")],
)
def test_the_directory_names_the_registry(host, key):
    assert set(toml('[host."https://m.io"]', host).rules) == {key}


def test_the_registrys_own_tls_files():
    found = toml('server = "https://a.io"\nca = ["ca.pem"]\n', "a.io")
    assert found.tls == {"a.io": TlsConfig(WHERE.parent / "ca.pem")}
    assert toml('ca = "ca.pem"\n', "a.io").tls == found.tls


def test_hosts_below_the_registry_itself_stand_in_for_it():
    said = toml('[host."https://a.io"]\n[host."https://registry-1.docker.io"]\n[host."https://b.io"]\n')
    assert mirrors(said) == {
        "docker.io": (MirrorEndpoint("https://a.io", "first"), MirrorEndpoint("https://b.io", "fallback"))
    }


def test_a_plain_host_has_no_tls_to_verify():
    said = toml('[host."http://127.0.0.1:5001/"]\nskip_verify = true\nca = "ca.pem"\n')
    assert (mirrors(said), said.tls, said.notes) == (
        {"docker.io": (MirrorEndpoint("http://127.0.0.1:5001", "first"),)},
        {},
        (),
    )


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ('[host."https://m.io"]\nskip_verify = true', "skip_verify is refused"),
        ('[host."https://m.io"]\ncapabilities = ["push"]', "may not be pulled from"),
        ('[host."https://m.io/x"]\noverride_path = true', "path cannot be asked for"),
        ('[host."https://m.io/v2/x"]\n', "path cannot be asked for"),
        ('[host."https://m.io"]\n[host."https://m.io".header]\nx = "y"', "headers"),
        ('[host."https://m.io"]\nca = ["a", "b"]', "one each is supported"),
        ('[host."https://u:secret@m.io"]', "holds credentials"),
        ('[host."ftp://m.io"]', "no http or https URL"),
        ('server = "https://other.io"', "the last to be asked is the registry itself"),
        ('server = "http://docker.io"', "declare `plain_http: true` for docker.io"),
    ],
)
def test_what_hosts_toml_says_and_rules_cannot(text, note):
    found = toml(text)
    assert (mirrors(found), found.tls) == ({}, {})
    (said,) = found.notes
    assert note in said
    assert "secret" not in said


@pytest.mark.parametrize(
    "text",
    ["[", "host = 7", '[host]\n"https://m" = 7', '[host."https://m"]\ncapabilities = ["fly"]', "server = 7",
     '[host."https://m.io"]\nskip_verify = 1',
     '[host."https://m.io"]\nca = [7]', '[host."https://m.io"]\nclient = [["a", "b", "c"]]'],
)  # fmt: skip
def test_what_is_no_hosts_toml(text):
    with pytest.raises(InvalidError, match=r"hosts\.toml"):
        toml(text)


@pytest.mark.parametrize("host", ["", "x y", "docker", "../a.io"])
def test_what_is_no_directory_of_a_registry(host):
    with pytest.raises(InvalidError, match="is no registry"):
        toml("", host)


def test_the_value_of_a_header_is_never_shown():
    text = '[host."https://m.io"]\n[host."https://m.io".header]\nauthorization = "Bearer hunter2"\n'
    assert "hunter2" not in repr(toml(text))


def test_dockers_mirrors():
    said = docker('{"registry-mirrors": ["https://m.io/", "http://127.0.0.1:5001"], "debug": true}')
    endpoints = (MirrorEndpoint("https://m.io", "first"), MirrorEndpoint("http://127.0.0.1:5001", "first"))
    assert (mirrors(said), said.notes) == ({"docker.io": endpoints}, ())
    assert docker("") == docker("{}") == Said()


@pytest.mark.parametrize("text", ["[", "7", "[]", '{"registry-mirrors": "https://m.io"}', '{"registry-mirrors": [7]}'])
def test_what_is_no_daemon_json(text):
    with pytest.raises(InvalidError, match=r"daemon\.json"):
        docker(text)


@pytest.fixture
def places(tmp_path):
    return Places(tmp_path / "registries.conf", tmp_path / "certs.d", tmp_path / "daemon.json")


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


MIRRORED = "[[registry]]\nlocation='{}'\n[[registry.mirror]]\nlocation='{}'\n"


def test_files_that_are_not_there_are_one_note(places):
    found = read_host_files(places)
    assert (found.rules, found.tls) == ({}, {})
    (note,) = found.notes
    assert all(str(path) in note for path in (places.registries_conf, places.certs_d, places.daemon_json))


def test_a_drop_in_replaces_what_the_file_says_of_a_registry(places):
    main = write(places.registries_conf, MIRRORED.format("docker.io", "one.io") + MIRRORED.format("quay.io", "q.io"))
    drop_ins = places.registries_conf.with_name("registries.conf.d")
    write(drop_ins / "10-a.conf", MIRRORED.format("docker.io", "two.io"))
    last = write(drop_ins / "20-b.conf", MIRRORED.format("docker.io", "three.io"))
    write(drop_ins / "30-c.conf.bak", "[")
    found = read_host_files(places)
    assert {host: (rule.endpoints[0].url, path) for host, (rule, path) in found.rules.items()} == {
        "docker.io": ("https://three.io", last),
        "quay.io": ("https://q.io", main),
    }
    assert found.notes == []


def test_a_drop_in_takes_mirrors_away(places):
    write(places.registries_conf, MIRRORED.format("docker.io", "one.io"))
    write(places.registries_conf.with_name("registries.conf.d") / "a.conf", "[[registry]]\nlocation='docker.io'\n")
    docker_file = write(places.daemon_json, '{"registry-mirrors": ["https://d.io"]}')
    assert read_host_files(places).rules["docker.io"][1] == docker_file


def test_of_several_programs_the_first_counts_and_the_others_are_named(places):
    conf_file = write(places.registries_conf, MIRRORED.format("docker.io", "one.io"))
    toml_file = write(places.certs_d / "docker.io" / "hosts.toml", '[host."https://c.io"]\nca = "ca.pem"\n')
    other = write(places.certs_d / "quay.io" / "hosts.toml", '[host."https://c.io"]\nca = "/ca.pem"\n')
    docker_file = write(places.daemon_json, '{"registry-mirrors": ["https://one.io"]}')
    found = read_host_files(places)
    assert {host: path for host, (_, path) in found.rules.items()} == {"docker.io": conf_file, "quay.io": other}
    assert found.tls == {"c.io": (TlsConfig(Path("/ca.pem")), other)}
    assert found.notes == [f"{toml_file} does not count for docker.io: {conf_file} does"]
    assert docker_file not in str(found.notes), "it says the same"


def test_dotfiles_and_directories_without_a_file_say_nothing(places):
    (places.certs_d / "docker.io").mkdir(parents=True)
    write(places.certs_d / ".git" / "hosts.toml", "[")
    write(places.certs_d / "README", "x")
    assert read_host_files(places).rules == {}


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"a = \n", "line 1"), (b"\xff", "not UTF-8"), (b"#" * (1024 * 1024 + 1), "more than 1048576 bytes")],
)
def test_a_file_that_is_wrong_is_named(places, data, words):
    places.registries_conf.write_bytes(data)
    with pytest.raises(InvalidError, match=words) as caught:
        read_host_files(places)
    assert str(places.registries_conf) in str(caught.value)
    assert "from_host" in caught.value.hint


def test_a_file_that_is_no_file_is_named(places):
    os.mkfifo(places.daemon_json)
    with pytest.raises(InvalidError, match=r"daemon\.json is no regular file"):
        read_host_files(places)


def test_a_file_that_cannot_be_read_is_named(places):
    places.daemon_json.symlink_to(places.daemon_json)
    with pytest.raises(InvalidError, match=r"cannot read .*daemon\.json: Too many levels"):
        read_host_files(places)


@given(st.text(max_size=300))
def test_nothing_breaks_the_readers(text):
    for reader in (conf, toml, docker):
        with contextlib.suppress(InvalidError):
            reader(text)
