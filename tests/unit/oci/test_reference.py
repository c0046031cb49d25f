"""The reference grammar: the R cases, and the laws of its normal form."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reconciler.errors import InvalidError
from reconciler.oci.digest import Digest
from reconciler.oci.reference import Reference, parse_registry

H = "0123456789abcdef" * 4

GOOD = [
    ("R01", "nginx", "docker.io/library/nginx:latest"),
    ("R02", "nginx:1.27", "docker.io/library/nginx:1.27"),
    ("R04", "docker.io/nginx", "docker.io/library/nginx:latest"),
    ("R05", "index.docker.io/nginx:1", "docker.io/library/nginx:1"),
    ("R07", "bitnami/redis", "docker.io/bitnami/redis:latest"),
    ("R08", "docker.io/a/b/c", "docker.io/a/b/c:latest"),
    ("R10", "quay.io/busybox", "quay.io/busybox:latest"),
    ("R11", "docker.io", "docker.io/library/docker.io:latest"),
    ("R13", "localhost:5000/app", "localhost:5000/app:latest"),
    ("R14", "localhost", "docker.io/library/localhost:latest"),
    ("R16", "myhost/app", "docker.io/myhost/app:latest"),
    ("R17", "myhost:5000/app", "myhost:5000/app:latest"),
    ("R19", "Docker/docker", "Docker/docker:latest"),
    ("R23", "nginx:LATEST", "docker.io/library/nginx:LATEST"),
    ("R25", "example.com:5000", "docker.io/library/example.com:5000"),
    ("R26", "example.com/app", "example.com/app:latest"),
    ("R28", "EXAMPLE.com/app", "EXAMPLE.com/app:latest"),
    ("R31", "192.168.0.1:80", "docker.io/library/192.168.0.1:80"),
    ("R32", "127.0.0.1:5000/a/b:c", "127.0.0.1:5000/a/b:c"),
    ("R34", "[2001:db8::1]:5000/a/b:t", "[2001:db8::1]:5000/a/b:t"),
    ("R41", "my_host/app", "docker.io/my_host/app:latest"),
    ("R44", "foo:5000", "docker.io/library/foo:5000"),
    ("R46", "foo/bar:5000", "docker.io/foo/bar:5000"),
    ("R50", "xn--n3h.com/img", "xn--n3h.com/img:latest"),
    ("R53", "1.2.3/app", "1.2.3/app:latest"),
    ("R55", "a.b/c", "a.b/c:latest"),
    ("R56", "foo__bar", "docker.io/library/foo__bar:latest"),
    ("R58", "foo.bar", "docker.io/library/foo.bar:latest"),
    ("R70", "nginx:_x", "docker.io/library/nginx:_x"),
    ("R71", f"nginx@sha256:{H}", f"docker.io/library/nginx@sha256:{H}"),
    ("R71-tag", f"nginx:1@sha256:{H}", f"docker.io/library/nginx:1@sha256:{H}"),
    ("R79", H[:63], f"docker.io/library/{H[:63]}:latest"),
    ("R80", f"docker.io/{H}", f"docker.io/library/{H}:latest"),
    ("R82", "a" * 247, f"docker.io/library/{'a' * 247}:latest"),
    ("R82-host", f"example.com/{'a' * 255}", f"example.com/{'a' * 255}:latest"),
]

BAD = [
    ("R20", "docker/Docker", "lower case"),
    ("R22", "NGINX:latest", "lower case"),
    ("R29", "example.com/App", "lower case"),
    ("R35", "[::1]", "malformed"),
    ("R37", "::1/app", "no host name"),
    ("R38", "fc00::1:5000/debian", "no host name"),
    ("R40", "[::ffff:192.0.2.1]/x", "no host name"),
    ("R43", "my_host.com/app", "no host name"),
    ("R47", "foo:bar/baz", "no host name"),
    ("R49", "example.com:99999/app", "out of range"),
    ("R49-zero", "example.com:0/app", "out of range"),
    ("R52", "example..com/app", "no host name"),
    ("R52-lead", ".example.com/a", "no host name"),
    ("R52-trail", "example.com./a", "no host name"),
    ("R52-dash", "-example.com/a", "no host name"),
    ("R52-dash-end", "example-.com/a", "no host name"),
    ("R59", "foo..bar", "malformed"),
    ("R59-mix", "foo._bar", "malformed"),
    ("R59-dash", "foo-.bar", "malformed"),
    *(
        (f"R61-{i}", t, "malformed")
        for i, t in enumerate(("-foo", "foo-", "_foo", "foo_", "foo.", "foo/-bar", "foo/bar-"))
    ),
    ("R61-dot", ".foo", "malformed"),
    ("R62", "foo//bar", "malformed"),
    ("R62-lead", "/foo", "malformed"),
    ("R62-trail", "foo/", "malformed"),
    ("R62-host", "docker.io/", "missing"),
    ("R64", "https://example.com/app", "no scheme"),
    ("R64-docker", "docker://nginx", "no scheme"),
    ("R67", "nginx:é", "tag is malformed"),
    ("R67-wide", "nginx:１", "tag is malformed"),
    ("R68", "nginx:", "tag is malformed"),
    ("R68-at", "nginx@", "digest"),
    ("R68-sha", "nginx@sha256", "digest"),
    ("R68-tag", ":tag", "missing"),
    ("R68-digest", f"@sha256:{H}", "missing"),
    ("R68-empty", "", "missing"),
    *((f"R70-{i}", f"nginx:{t}", "invalid reference") for i, t in enumerate((".x", "-x", "1.0+b", "a/b"))),
    ("R73-63", f"nginx@sha256:{H[:63]}", "digest"),
    ("R73-65", f"nginx@sha256:{H}0", "digest"),
    ("R74", f"nginx@sha256:{H.upper()}", "digest"),
    ("R76", f"nginx@md5:{H[:32]}", "unsupported digest"),
    ("R77", "nginx@sha256:../../../etc/x", "digest"),
    ("R80-bare", H, "image ID"),
    ("R82-256", f"example.com/{'a' * 256}", "more than 255"),
    ("R82-248", "a" * 248, "more than 255"),
    *(
        (f"R83-{i}", t, "invalid reference")
        for i, t in enumerate(
            ("foo\\bar", "foo?x=1", "foo#x", "foo%2fbar", "foo\0", "foo\n", "foo\x1b[1m", "nginx:1\n")
        )
    ),
]

SECRETS = [
    "user:hunter2@example.com/app",
    "https://user:hunter2@example.com/app",
    "user:hunter2@example.com:5000",
    "user:hunter2@localhost",
    "a@hunter2",
    "user:hunter2@sha256:zz",
    f"user:hunter2@example.com/app@sha256:{H}",
    "user:x@hunter2@example.com/App",
    "docker://user@hunter2",
]


@pytest.mark.parametrize(("written", "normal"), [row[1:] for row in GOOD], ids=[row[0] for row in GOOD])
def test_accepts(written: str, normal: str) -> None:
    reference = Reference.parse(written)
    assert str(reference) == normal
    assert Reference.parse(normal) == reference
    assert Reference.parse(reference.familiar) == reference


@pytest.mark.parametrize(("written", "why"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_refuses(written: str, why: str) -> None:
    with pytest.raises(InvalidError, match=why) as caught:
        Reference.parse(written)
    assert caught.value.hint
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("written", SECRETS)
def test_r65_a_password_is_never_echoed(written: str) -> None:
    with pytest.raises(InvalidError) as caught:
        Reference.parse(written)
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"


def test_r19_the_upper_case_part_is_a_registry() -> None:
    reference = Reference.parse("Docker/docker")
    assert (reference.registry, reference.repository) == ("Docker", "docker")


def test_r85_short_and_full_forms_are_equal() -> None:
    assert Reference.parse("nginx") == Reference.parse("docker.io/library/nginx:latest")


@pytest.mark.parametrize("written", ["nginx", "example.com/library/x", "docker.io/library/localhost", "a/b:1"])
def test_with_digest_keeps_the_repository(written: str) -> None:
    reference = Reference.parse(written)
    pinned = reference.with_digest(Digest(f"sha256:{H}"))
    assert (pinned.name, pinned.tag, pinned.digest) == (reference.name, None, f"sha256:{H}")


def test_familiar_drops_what_docker_implies() -> None:
    assert Reference.parse("docker.io/library/nginx").familiar == "nginx:latest"
    assert Reference.parse("bitnami/redis:7").familiar == "bitnami/redis:7"
    assert Reference.parse("quay.io/a/b").familiar == "quay.io/a/b:latest"


PARTS = st.sampled_from(
    [
        "nginx",
        "a",
        "b.c",
        "localhost",
        "docker.io",
        "library",
        "index.docker.io",
        "Docker",
        "x_y",
        "::1",
        "[::1]",
        H,
        "",
    ]
)
NEARLY = st.builds(
    lambda parts, tail: "/".join(parts) + tail,
    st.lists(PARTS, min_size=1, max_size=4),
    st.sampled_from(["", ":1", ":5000", ":_x", f"@sha256:{H}", f":t@sha256:{H}", "@x", ":"]),
)


@given(st.one_of(NEARLY, st.text(max_size=60)))
@example("docker.io/library/docker.io/x")
@example(f"library/{H}")
@example("docker.io/localhost/x")
def test_r85_parsing_is_stable(written: str) -> None:
    try:
        reference = Reference.parse(written)
    except InvalidError:
        return
    assert Reference.parse(str(reference)) == reference
    assert Reference.parse(reference.familiar) == reference
    assert Reference.parse(reference.familiar).familiar == reference.familiar


@pytest.mark.parametrize(
    ("written", "host"),
    [("docker.io", "docker.io"), ("index.docker.io", "docker.io"), ("localhost", "localhost"), ("a:5000", "a:5000")],
)
def test_registry_hosts(written: str, host: str) -> None:
    assert parse_registry(written) == host


@pytest.mark.parametrize("written", ["", "myhost", "a/b.c", "https://a.b", "a.b:0", "u:p@a.b", "a..b", "[::1"])
def test_registry_hosts_refused(written: str) -> None:
    with pytest.raises(InvalidError) as caught:
        parse_registry(written)
    assert "u:p" not in f"{caught.value} {caught.value.hint}"
