"""What looks for leaked logins finds them."""

from __future__ import annotations

import httpx
import pytest

from reconciler.registry.hosts import Credentials
from reconciler.testing.leaks import find_leaks, shapes_of
from reconciler.testing.scripted_registry import FOREVER, Step

LOGIN = Credentials("ci", "canary-5512")
BASIC = shapes_of(LOGIN)[0]


def ask(server, path: str = "/", **more) -> None:
    with httpx.Client(trust_env=False) as client:
        client.request(more.pop("method", "GET"), server.url + path, **more)


@pytest.fixture(autouse=True)
def nothing_leaks() -> None:
    """Here it does, on purpose."""


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
    assert find_leaks(servers, [(registry.host, LOGIN)]) == []


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
    assert len(find_leaks(servers, [(registry.host, LOGIN)])) == 1


def test_a_named_token_server_may_have_the_login_and_only_the_registry_its_token(registry, storage, mirror):
    registry.on("", Step(401, b"", {"WWW-Authenticate": f'Bearer realm="{storage.url}/token"'}), Step(200))
    storage.on("", Step(200, b'{"token": "t-1"}'))
    ask(registry)
    ask(storage, "/token", headers={"Authorization": BASIC})
    ask(registry, headers={"Authorization": "Bearer t-1"})
    assert find_leaks([registry, storage, mirror], [(registry.host, LOGIN)]) == []
    mirror.on("", Step(200))
    ask(mirror, headers={"Authorization": "Bearer t-1"})
    assert len(find_leaks([registry, storage, mirror], [(registry.host, LOGIN)])) == 1
