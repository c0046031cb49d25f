"""Logins that docker and podman keep (case P19)."""

from __future__ import annotations

import base64
import json

import pytest

from reconciler.errors import InvalidError
from reconciler.registry.dockerconfig import DockerConfig, Kept, with_login, without_login
from reconciler.registry.hosts import Credentials


def auth(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


def parse(**document: object) -> DockerConfig:
    return DockerConfig.parse(json.dumps(document), "config.json")


@pytest.mark.parametrize("key", ["https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io"])
def test_p19_the_hubs_login_has_many_names(key):
    config = parse(auths={key: auth("me:pass:word")})
    for host in ("docker.io", "index.docker.io"):
        assert config.login(host) == Credentials("me", "pass:word")
    assert config.login("quay.io") is None


def test_the_exact_key_wins():
    config = parse(auths={"a.io": auth("exact:1"), "https://a.io/v2/": auth("url:2")})
    assert config.login("A.io") == Credentials("exact", "1")


def test_a_login_for_one_namespace_is_not_for_its_host():
    assert parse(auths={"quay.io/team": auth("a:b")}).login("quay.io") is None


@pytest.mark.parametrize("config", [{"credHelpers": {"a.io": "pass"}}, {"credsStore": "pass", "auths": {"a.io": {}}}])
def test_a_login_that_a_helper_keeps(config):
    assert parse(**config).login("a.io", "team/app") == Kept("pass")
    assert parse(**config).login("b.io") is None


def test_the_longest_namespace_wins():
    """containers-auth.json(5)."""
    config = parse(
        auths={
            "quay.io": auth("host:1"),
            "quay.io/team": auth("team:2"),
            "quay.io/team/app": auth("app:3"),
            "quay.io/team/other": auth("other:4"),
        }
    )
    for repository, name in [
        ("team/app", "app"),
        ("team/app/part", "app"),
        ("team/apple", "team"),
        ("team/other", "other"),
        ("teams", "host"),
        ("", "host"),
    ]:
        found = config.login("quay.io", repository)
        assert isinstance(found, Credentials)
        assert found.username == name


def test_a_url_with_a_path_is_no_namespace():
    assert parse(auths={"https://quay.io/team": auth("a:b")}).login("quay.io", "team/app") is None


def test_identity_tokens():
    found = parse(auths={"a.io": {**auth("00000000-0000:x"), "identitytoken": "long-token"}}).login("a.io")
    assert found == Credentials("", "", "long-token")
    assert "long-token" not in repr(found)


def test_where_a_new_login_belongs():
    config = parse(credsStore="desktop", credHelpers={"a.io": "ecr-login"})
    assert [config.helper_for(host) for host in ("a.io", "b.io", "docker.io")] == ["ecr-login", "desktop", "desktop"]
    assert parse().helper_for("a.io") == ""


def test_a_login_is_set_and_taken_out_and_the_rest_stays():
    text = json.dumps({"auths": {"b.io": auth("b:b"), "https://a.io/v1/": auth("old:1")}, "psFormat": "x"})
    text = with_login(text, "f", "a.io", Credentials("new", "2"))
    assert DockerConfig.parse(text, "f").login("a.io") == Credentials("new", "2")
    gone = without_login(text, "f", "a.io")
    assert gone is not None
    assert json.loads(gone) == {"auths": {"b.io": auth("b:b")}, "psFormat": "x"}
    assert without_login(gone, "f", "a.io") is None


def test_a_login_in_a_helper_leaves_an_empty_entry_and_the_helper_in_charge():
    text = with_login(json.dumps({"credHelpers": {"docker.io": "pass"}}), "f", "docker.io", None)
    assert json.loads(text) == {"credHelpers": {"docker.io": "pass"}, "auths": {"https://index.docker.io/v1/": {}}}
    gone = without_login(text, "f", "docker.io")
    assert gone is not None
    assert json.loads(gone)["credHelpers"] == {"docker.io": "pass"}


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "[]",
        '{"auths": []}',
        '{"auths": {"a": 1}}',
        '{"auths": {"a": {"auth": "c2VjcmV0"}}}',
        "[" * 100_000,
        '{"credsStore": ["c2VjcmV0"]}',
    ],
)
def test_malformed(text):
    with pytest.raises(InvalidError) as caught:
        DockerConfig.parse(text, "config.json")
    assert "config.json" in str(caught.value)
    assert "c2VjcmV0" not in str(caught.value)


def test_an_empty_file_has_no_logins():
    assert DockerConfig.parse("", "x").login("a.io") is None
