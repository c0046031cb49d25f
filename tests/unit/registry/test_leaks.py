"""What looks for leaked logins finds them."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from reconciler.registry.hosts import Credentials
from reconciler.testing.leaks import CERTIFICATE, find_leaks, shapes_of
from reconciler.testing.recorded import ROLL
from reconciler.testing.scripted_registry import FOREVER, Step

LOGIN = Credentials("ci", "canary-5512")
BASIC = shapes_of(LOGIN)[0]


def ask(server, path: str = "/", **more) -> None:
    with httpx.Client(trust_env=False) as client:
        client.request(more.pop("method", "GET"), server.url + path, **more)


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Here it does, on purpose."""
    yield
    ROLL.news()


def leaks(*servers, given=()) -> list[str]:
    return find_leaks([(server, server.asked) for server in servers], given)


@pytest.fixture
def servers(registry, storage):
    for server in (registry, storage):
        server.on("GET /token", Step(200, b'{"token": "t-1"}', times=FOREVER))
        server.on("", Step(200, times=FOREVER))
    return registry, storage


def test_at_home_a_login_is_no_leak(servers):
    registry, storage = servers
    ask(registry, headers={"Authorization": BASIC})
    ask(storage)
    assert leaks(*servers, given=[(registry.host, LOGIN)]) == []


@pytest.mark.parametrize(
    "request_",
    [
        {"headers": {"Authorization": BASIC}},
        {"headers": {"X-Other": "pass=canary-5512"}},
        {"path": "/?password=canary-5512"},
        {"method": "POST", "content": b"refresh_token=canary-5512"},
        {"headers": {"Cookie": "a=b"}},
    ],
    ids=["header", "another header", "address", "body", "cookie"],
)
def test_elsewhere_it_is(servers, request_):
    registry, storage = servers
    ask(storage, **request_)
    assert len(leaks(*servers, given=[(registry.host, LOGIN)])) == 1


def test_a_named_token_server_may_have_the_login_and_only_the_registry_its_token(registry, storage, mirror):
    registry.on("", Step(401, b"", {"WWW-Authenticate": f'Bearer realm="{storage.url}/token"'}), Step(200))
    storage.on("", Step(200, b'{"token": "t-1"}'))
    ask(registry)
    ask(storage, "/token", headers={"Authorization": BASIC})
    ask(registry, headers={"Authorization": "Bearer t-1"})
    assert leaks(registry, storage, mirror, given=[(registry.host, LOGIN)]) == []
    mirror.on("", Step(200))
    ask(mirror, headers={"Authorization": "Bearer t-1"})
    assert len(leaks(registry, storage, mirror, given=[(registry.host, LOGIN)])) == 1


def test_who_asks_for_no_login_gets_none(registry):
    registry.on("", Step(200))
    ask(registry, headers={"Authorization": BASIC})
    assert len(leaks(registry)) == 1


def test_a_login_of_which_nothing_is_known_is_for_one_server(registry, storage, mirror):
    for server in (registry, storage, mirror):
        server.on("", Step(401, b"", {"WWW-Authenticate": "Basic realm=x"}), Step(200))
        ask(server)
    ask(registry, headers={"Authorization": BASIC})
    assert leaks(registry, storage, mirror) == []
    ask(storage, headers={"Authorization": BASIC})
    ask(mirror, headers={"Authorization": "Basic " + "b3RoZXI6bG9naW4="})
    assert len(leaks(registry, storage, mirror)) == 1
    mirror.on("", Step(200))
    ask(mirror, "/?password=canary-5512")
    assert len(leaks(registry, storage, mirror)) == 2


@pytest.mark.parametrize("header", ["Proxy-Authorization", CERTIFICATE])
def test_other_proofs_are_for_one_server(registry, storage, header):
    for server in (registry, storage):
        server.on("", Step(200))
        ask(server, headers={header: "proof"})
        assert len(leaks(registry, storage)) == (server is storage)
