"""Logins (cases P01-P17)."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import count
from threading import Barrier, Event
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.errors import AuthError, RegistryError
from reconciler.registry.challenge import parse_challenges
from reconciler.registry.hosts import Credentials, HostConfig, MirrorEndpoint, RegistryHosts
from reconciler.testing.scripted_registry import FOREVER, ScriptedRegistry, Step

from .conftest import MemorySink, layer, manifest, served

DATA = manifest()
HEAD = "HEAD /v2/app/manifests/1"
SECRET = "s3cret-password"
USER = Credentials("ci", SECRET)
BASIC = "Basic " + base64.b64encode(f"ci:{SECRET}".encode()).decode()


def wants(*challenges: str, **more) -> Step:
    """A 401. Several challenges are one header; a Step has one header of a name."""
    return Step(401, b"", {"WWW-Authenticate": ", ".join(challenges)}, **more)


def bearer(storage: ScriptedRegistry, scope: str = "repository:app:pull") -> str:
    return f'Bearer realm="{storage.url}/token",service="reg",scope="{scope}"'


def token(value: str = "abc", **more) -> Step:
    return Step(200, json.dumps({"token": value, **more}).encode())


def test_p01_a_token_is_fetched_and_the_request_retried_once(harness, registry, storage, ref):
    registry.on(HEAD, wants(bearer(storage)), served(DATA))
    storage.on("GET /token", token("abc"))
    assert harness.client(registry, credentials=USER).tag_digest(ref("app:1")) is not None
    assert storage.lines == ["GET /token?service=reg&scope=repository%3Aapp%3Apull"]
    assert storage.headers("GET ")["authorization"] == BASIC
    assert "authorization" not in registry.headers(HEAD, 0)
    assert registry.headers(HEAD, 1)["authorization"] == "Bearer abc"


def test_p01_anonymous_tokens(harness, registry, storage, ref):
    registry.on(HEAD, wants(bearer(storage)), served(DATA))
    storage.on("GET /token", Step(200, b'{"access_token": "abc"}'))
    assert harness.client(registry).tag_digest(ref("app:1")) is not None
    assert "authorization" not in storage.headers("GET ")


def test_p01_a_token_that_is_refused_ends_it(harness, registry, storage, ref):
    registry.on(HEAD, wants(bearer(storage)), wants(bearer(storage)))
    storage.on("GET /token", token())
    with pytest.raises(AuthError, match="401"):
        harness.client(registry).tag_digest(ref("app:1"))


def test_p02_the_first_supported_challenge_is_chosen(harness, registry, storage, ref):
    registry.on(HEAD, wants("Negotiate", bearer(storage, "repository:app:pull,push"), 'Basic realm="x"'), served(DATA))
    storage.on("GET /token", token())
    assert harness.client(registry, credentials=USER).tag_digest(ref("app:1")) is not None
    assert "scope=repository%3Aapp%3Apull%2Cpush" in storage.lines[0]


def test_p02_challenge_grammar():
    parsed = parse_challenges(
        [
            'Negotiate, Bearer realm="https://a/t?x=1,2",scope="repository:a:pull,push repository:b:pull",'
            ' Basic realm="q\\"q"',
            "Digest abc123==",
            'basic REALM=plain , charset="UTF-8"',
        ]
    )
    assert [(c.scheme, dict(c.parameters)) for c in parsed] == [
        ("negotiate", {}),
        ("bearer", {"realm": "https://a/t?x=1,2", "scope": "repository:a:pull,push repository:b:pull"}),
        ("basic", {"realm": 'q"q'}),
        ("digest", {}),
        ("basic", {"realm": "plain", "charset": "UTF-8"}),
    ]


@given(st.text(max_size=200))
def test_p02_no_header_breaks_the_parser(header):
    parse_challenges([header])


@pytest.mark.parametrize(
    "challenge",
    [
        'Bearer service="x"',
        'Bearer realm="/token"',
        'Bearer realm="ftp://h/t"',
        'Bearer realm="file:///etc/passwd"',
        'Bearer realm="http://user@h/t"',
        'Bearer realm="http://[v1.x]/t"',
        'Bearer realm="http://xn--a/t"',
        "Negotiate",
    ],
)
def test_p04_unusable_challenges(harness, registry, ref, challenge):
    registry.on(HEAD, wants(challenge))
    with pytest.raises(AuthError):
        harness.client(registry, credentials=USER).tag_digest(ref("app:1"))
    assert registry.count("") == 1


def test_p07_basic(harness, registry, ref):
    registry.on(HEAD, wants('Basic realm="x"'), served(DATA, times=2))
    client = harness.client(registry, credentials=lambda host, _: USER if host == registry.host else None)
    assert client.tag_digest(ref("app:1")) is not None
    assert client.tag_digest(ref("app:1")) is not None
    assert registry.headers(HEAD, 1)["authorization"] == BASIC
    assert registry.count(HEAD) == 3, "the second question sends the login at once"


def test_p07_basic_without_credentials(harness, registry, ref):
    registry.on(HEAD, wants('Basic realm="x"'))
    with pytest.raises(AuthError, match="login required") as caught:
        harness.client(registry).tag_digest(ref("app:1"))
    assert f"reconciler login {registry.host}" in caught.value.hint


def test_p07_wrong_password_is_tried_once_and_never_shown(harness, registry, ref):
    registry.on(HEAD, wants('Basic realm="x"', times=2))
    with pytest.raises(AuthError) as caught:
        harness.client(registry, credentials=USER).tag_digest(ref("app:1"))
    assert registry.count("") == 2
    shown = (
        f"{caught.value} {caught.value.hint} {caught.value.__cause__} {USER!r} {HostConfig('h', credentials=USER)!r}"
    )
    assert SECRET not in shown
    assert BASIC not in shown


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
def test_p08_nothing_is_sent_over_plain_http_that_was_not_asked_for(harness, registry, mirror, storage, ref, scheme):
    """An http:// mirror URL permits bytes in the clear, not a login."""
    mirror.on("GET ", wants('Basic realm="x"' if scheme == "basic" else bearer(storage)))
    registry.on("GET ", served(DATA))
    client = harness.client(
        registry,
        mirrors={registry.host: (MirrorEndpoint(mirror.url),)},
        hosts={mirror.host: HostConfig(mirror.host, credentials=USER)},
    )
    assert client.manifest(ref(f"app@{layer(DATA).digest}")) == DATA
    assert mirror.count("") == 1
    assert "authorization" not in mirror.headers("GET ")
    assert storage.asked == []
    assert any("plain http" in note for note in harness.notes)


def test_p10_without_expires_in_a_token_lasts_a_minute(harness, registry, storage, ref):
    registry.on(HEAD, wants(bearer(storage)), served(DATA, times=FOREVER))
    storage.on("GET /token", token("one"), token("two"))
    client = harness.client(registry)
    for seconds, expected in [(0, "one"), (40, "one"), (15, "two")]:
        harness.clock.advance(seconds)
        client.tag_digest(ref("app:1"))
        assert registry.asked[-1].headers["authorization"] == f"Bearer {expected}"
    assert registry.count(HEAD) == 4, "the new token was fetched before the old one was refused"


def test_p10_the_wall_clock_does_not_age_a_token(harness, registry, storage, ref):
    registry.on(HEAD, wants(bearer(storage)), served(DATA, times=2))
    storage.on("GET /token", token("one", expires_in=300))
    client = harness.client(registry)
    client.tag_digest(ref("app:1"))
    harness.clock._now += timedelta(days=400)
    client.tag_digest(ref("app:1"))
    assert storage.count("") == 1


def test_p11_a_token_that_expires_in_the_middle_of_a_pull(harness, registry, storage, ref):
    blob = bytes(range(256)) * 16
    registry.on(
        "GET /v2/app/blobs/",
        wants(bearer(storage)),
        Step(200, blob, cut=1000),
        wants(bearer(storage)),
        Step(206, blob[1000:], {"Content-Range": f"bytes 1000-4095/{len(blob)}"}),
    )
    storage.on("GET /token", token("one", expires_in=3600), token("two", expires_in=3600))
    sink = MemorySink()
    harness.client(registry).blob(ref("app:1"), layer(blob), sink)
    assert bytes(sink.data) == blob
    assert [a.headers.get("authorization") for a in registry.asked] == [None, "Bearer one", "Bearer one", "Bearer two"]
    assert registry.asked[3].headers["range"] == "bytes=1000-"


def test_p13_a_wider_scope_is_added_to_the_front(harness, registry, storage, ref):
    registry.on(HEAD, wants(bearer(storage, "repository:lib/app:pull")), served(DATA))
    storage.on("GET /token", token())
    harness.client(registry).tag_digest(ref("app:1"))
    assert storage.lines[0].endswith("scope=repository%3Alib%2Fapp%3Apull&scope=repository%3Aapp%3Apull")


def test_p13_a_token_that_is_too_narrow_is_widened_once(harness, registry, storage, ref):
    """The one in hand is good, and not for this: the registry says for what it would be."""
    wider = bearer(storage, "repository:app:pull,push")
    registry.on(HEAD, wants(bearer(storage)), served(DATA), wants(wider), served(DATA), wants(wider, times=2))
    storage.on("GET /token", token("narrow"), token("wide"), token("wider"))
    client = harness.client(registry)
    assert client.tag_digest(ref("app:1")) == client.tag_digest(ref("app:1")) is not None
    assert "scope=repository%3Aapp%3Apull%2Cpush&scope=repository%3Aapp%3Apull" in storage.lines[1]
    sent = [asked.headers.get("authorization") for asked in registry.asked]
    assert sent == [None, "Bearer narrow", "Bearer narrow", "Bearer wide"]
    with pytest.raises(AuthError, match="401"):
        client.tag_digest(ref("app:1"))
    assert (registry.count(HEAD), storage.count("")) == (6, 3), "one retry"


def test_p14_403_is_not_retried_and_carries_the_servers_words(harness, registry, ref):
    body = json.dumps({"errors": [{"code": "DENIED", "message": "no \x1b[31mentry\x07\n" + "x" * 10_000}]}).encode()
    registry.on("GET ", Step(403, body))
    with pytest.raises(AuthError, match="403 DENIED") as caught:
        harness.client(registry).manifest(ref(f"app@{layer(DATA).digest}"))
    assert registry.count("") == 1
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 900


def test_p14_of_a_403_no_more_than_64_kib_are_read(harness, registry, ref):
    """The code stands at the beginning; the rest never comes."""
    stuck, sent = Event(), count()
    body = b'{"errors": [{"code": "DENIED", "message": "' + b"x" * 1_000_000
    registry.on("GET ", Step(403, body, body_pause=lambda: stuck.wait(10) if next(sent) > 4 else None))
    try:
        with pytest.raises(AuthError, match=r"403 .*DENIED"):
            harness.client(registry).manifest(ref(f"app@{layer(DATA).digest}"))
    finally:
        stuck.set()


def test_p16_one_token_for_many_threads(harness, registry, storage, ref):
    """Twenty layers come with one expired token; one of them refreshes it for all."""
    blobs = [bytes([number]) * 100 for number in range(20)]
    registry.on(HEAD, wants(bearer(storage)), served(DATA))
    together = Barrier(20, timeout=10)
    registry.on("GET /v2/app/blobs/", wants(bearer(storage), times=20, before=together.wait))
    for blob in blobs:
        registry.on(f"GET /v2/app/blobs/{layer(blob).digest}", Step(200, blob))
    storage.on("GET /token", token("one", expires_in=3600), token("two", expires_in=3600))
    client = harness.client(registry)
    client.tag_digest(ref("app:1"))

    def fetch(blob: bytes) -> bytes:
        sink = MemorySink()
        client.blob(ref("app:1"), layer(blob), sink)
        return bytes(sink.data)

    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(fetch, blobs)) == blobs
    assert storage.count("GET /token") == 2


@pytest.mark.parametrize("bad", ["a\r\nX-Injected: 1", "a b", "x" * (1 << 20), "", 7, None, "é"])
def test_p17_a_token_that_no_header_can_hold(harness, registry, storage, ref, bad):
    registry.on(HEAD, wants(bearer(storage)))
    storage.on("GET /token", token(bad))
    with pytest.raises(RegistryError):
        harness.client(registry).tag_digest(ref("app:1"))
    assert registry.count(HEAD) == 1


def test_the_token_server_refuses(harness, registry, storage, ref):
    registry.on(HEAD, wants(bearer(storage)))
    storage.on("GET /token", Step(401, b'{"details": "incorrect username or password"}'))
    with pytest.raises(AuthError, match="incorrect username"):
        harness.client(registry, credentials=USER).tag_digest(ref("app:1"))


IDENTITY = Credentials("", "", "identity-token")


def form(asked) -> dict[str, str]:
    return dict(parse_qsl(asked.body.decode()))


def test_an_identity_token_is_exchanged_by_post(harness, registry, storage, ref):
    registry.on(HEAD, wants(bearer(storage)), served(DATA))
    storage.on("POST /token", Step(200, b'{"access_token": "abc", "expires_in": 60}'))
    assert harness.client(registry, credentials=IDENTITY).tag_digest(ref("app:1")) is not None
    assert registry.headers(HEAD, 1)["authorization"] == "Bearer abc"
    (asked,) = storage.asked
    assert asked.line == "POST /token", "a secret is in no address"
    assert "authorization" not in asked.headers
    assert form(asked) == {
        "grant_type": "refresh_token",
        "service": "reg",
        "client_id": "reconciler",
        "scope": "repository:app:pull",
        "refresh_token": "identity-token",
    }


def test_an_identity_token_that_is_renewed_serves_from_then_on(harness, registry, storage, ref):
    registry.on(HEAD, wants(bearer(storage)), served(DATA, times=2))
    storage.on("POST ", token("one", refresh_token="newer", expires_in=60), token("two", refresh_token="bad\r\n"))
    client = harness.client(registry, credentials=IDENTITY)
    client.tag_digest(ref("app:1"))
    harness.clock.advance(60)
    client.tag_digest(ref("app:1"))
    assert [form(asked)["refresh_token"] for asked in storage.asked] == ["identity-token", "newer"]
    assert registry.asked[-1].headers["authorization"] == "Bearer two"


@pytest.mark.parametrize("status", [400, 401, 404, 405])
def test_an_identity_token_that_is_refused_is_not_shown(harness, registry, storage, ref, status):
    registry.on(HEAD, wants(bearer(storage)))
    storage.on("POST ", Step(status))
    with pytest.raises(RegistryError) as caught:
        harness.client(registry, credentials=IDENTITY).tag_digest(ref("app:1"))
    assert "identity-token" not in f"{caught.value} {caught.value.hint}"


def test_an_identity_token_is_no_password(harness, registry, ref):
    registry.on(HEAD, wants('Basic realm="x"'))
    with pytest.raises(AuthError, match="is an identity token"):
        harness.client(registry, credentials=IDENTITY).tag_digest(ref("app:1"))


def test_a_login_for_one_namespace_is_used_there_only(harness, registry, ref):
    asked: list[tuple[str, str]] = []

    def source(host: str, repository: str) -> Credentials | None:
        asked.append((host, repository))
        return USER if repository.startswith("team/") else None

    registry.on("HEAD /v2/", wants('Basic realm="x"'), served(DATA))
    client = harness.client(registry, credentials=source)
    client.tag_digest(ref("team/app:1"))
    with pytest.raises(AuthError, match="login required"):
        client.tag_digest(ref("other/app:1"))
    assert asked == [(registry.host, "team/app"), (registry.host, "other/app")]


def test_p02_two_headers(harness, registry, storage, ref):
    registry.on(HEAD, Step(401, b"", [("WWW-Authenticate", "Negotiate"), ("WWW-Authenticate", bearer(storage))]))
    registry.on(HEAD, served(DATA))
    storage.on("GET /token", token())
    assert harness.client(registry, credentials=USER).tag_digest(ref("app:1")) is not None


def test_p14_403_goes_on_to_the_next_mirror(harness, registry, mirror, ref):
    mirror.on("GET ", Step(403))
    registry.on("GET ", served(DATA))
    client = harness.client(registry, mirrors={registry.host: (MirrorEndpoint(mirror.url),)})
    assert client.manifest(ref(f"app@{layer(DATA).digest}")) == DATA
    assert mirror.count("") == 1


def test_p19_the_login_of_the_hub_is_for_its_api_host():
    asked: list[str] = []
    hosts = RegistryHosts(credentials_for=lambda host, _: asked.append(host))
    origin = hosts.origin("docker.io")
    hosts.credentials(origin.credential_name)
    assert (origin.origin, asked) == ("https://registry-1.docker.io:443", ["docker.io"])
