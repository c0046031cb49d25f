"""Logins that docker and podman keep (case P19)."""

from __future__ import annotations

import base64
import json

import pytest

from reconciler.errors import AuthError, InvalidError
from reconciler.registry.dockerconfig import DockerConfig
from reconciler.registry.hosts import Credentials


def auth(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


def parse(**document: object) -> DockerConfig:
    return DockerConfig.parse(json.dumps(document), "config.json")


@pytest.mark.parametrize("key", ["https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io"])
def test_p19_the_hubs_login_has_many_names(key):
    config = parse(auths={key: auth("me:pass:word")})
    for host in ("docker.io", "index.docker.io"):
        assert config.credentials(host) == Credentials("me", "pass:word")
    assert config.credentials("quay.io") is None


def test_the_exact_key_wins():
    config = parse(auths={"a.io": auth("exact:1"), "https://a.io/v2/": auth("url:2")})
    assert config.credentials("A.io") == Credentials("exact", "1")


def test_a_login_for_one_namespace_is_not_for_its_host():
    assert parse(auths={"quay.io/team": auth("a:b")}).credentials("quay.io") is None


@pytest.mark.parametrize("config", [{"credHelpers": {"a.io": "pass"}}, {"credsStore": "pass", "auths": {"a.io": {}}}])
def test_helpers_are_not_passed_over_in_silence(config):
    with pytest.raises(AuthError, match="docker-credential-pass") as caught:
        parse(**config).credentials("a.io")
    assert "reconciler login a.io" in caught.value.hint
    assert parse(**config).credentials("b.io") is None


@pytest.mark.parametrize(
    "text",
    ["[", "[]", '{"auths": []}', '{"auths": {"a": 1}}', '{"auths": {"a": {"auth": "c2VjcmV0"}}}', "[" * 100_000],
)
def test_malformed(text):
    with pytest.raises(InvalidError) as caught:
        DockerConfig.parse(text, "config.json")
    assert "config.json" in str(caught.value)
    assert "c2VjcmV0" not in str(caught.value)


def test_an_empty_file_has_no_logins():
    assert DockerConfig.parse("", "x").credentials("a.io") is None
