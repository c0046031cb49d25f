"""Syncs as they are written."""

from __future__ import annotations

import pytest

from reconciler.model.address import Address
from reconciler.model.resources import Prune, Sync
from reconciler.model.selection import TagSelection
from reconciler.oci.platform import Platform

TARGET = Address("sync", "r.example.com/mirror/app")


def test_a_sync_with_every_field(load):
    found = load(
        "syncs: {r.example.com/mirror/app: {from: nginx, tags: {names: [edge], allow: ['1\\.2.*'], deny: [x], "
        "semver: '>=1 <2', newest: 3, min_age: 2h}, platforms: [linux/arm64/v8, linux/amd64], referrers: false, "
        "prune: {protect: [keep-.*], max_delete_share: 50%}, interval: 10m}}"
    )
    assert found.resources[TARGET] == Sync(
        "r.example.com/mirror/app",
        "docker.io/library/nginx",
        TagSelection(("edge",), ("1\\.2.*",), ("x",), ">=1 <2", 3, 7200.0),
        (Platform("linux", "amd64"), Platform("linux", "arm64")),
        referrers=False,
        prune=Prune(("keep-.*",), 0.5),
        interval=600.0,
    )
    assert found.owners[TARGET] == {"shop"}


def test_short_forms(load):
    found = load("syncs: {r.example.com/mirror/app: {from: r.example.com/app, tags: [1.10, edge], prune: true}}")
    assert found.resources[TARGET] == Sync(
        "r.example.com/mirror/app", "r.example.com/app", TagSelection(("1.10", "edge")), prune=Prune()
    )
    assert load("syncs: {r.example.com/mirror/app: {from: app, prune: false}}").resources[TARGET].prune is None


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("syncs: {a/b: {from: a/b}}", "a.yaml:3:21: docker.io/a/b is both source and target"),
        ("syncs: {nginx: {from: docker.io/library/nginx}}", "both source and target"),
        ("syncs: {a/b: {from: a/c:1}}", "without a tag"),
        ("syncs: {a/b: {from: a/c:latest}}", "without a tag"),
        ("syncs: {'a/b:1': {from: a/c}}", "without a tag"),
        ("syncs: {a/b: {from: a/c, prune: true}}", "prune needs tags"),
        ("syncs: {a/b: {from: a/c, tags: []}}", "list of tags is empty"),
        ("syncs: {a/b: {from: a/c, tags: {}}}", "tags has no rule"),
        ("syncs: {a/b: {from: a/c, tags: [a b]}}", "malformed tag"),
        ("syncs: {a/b: {from: a/c, tags: {allow: ['(']}}}", "malformed pattern"),
        ("syncs: {a/b: {from: a/c, tags: {semver: nonsense}}}", "semver"),
        ("syncs: {a/b: {from: a/c, tags: {newest: 0}}}", "out of range"),
        ("syncs: {a/b: {from: a/c, tags: [x], prune: {max_delete_share: 2}}}", "malformed share"),
        ("syncs: {a/b: {from: a/c, interval: 10ms}}", "interval is too short"),
        ("syncs: {a/b: {from: a/c, interval: 0s}}", "interval is too short"),
        ("syncs: {a/b: {from: a/c, interval: 0}}", "interval"),
        ("syncs: {a/b: {}}", "from"),
        ("syncs: {a/b: {from: a/c, platform: linux/amd64}}", "did you mean platforms"),
        ("syncs: {a/b: {from: a/c}, docker.io/a/b: {from: a/d}}", "sync/docker.io/a/b is declared twice"),
        ("syncs: {a/b: {from: a/c}, a/c: {from: a/b}}", "syncs copy in a circle"),
        (
            "images: {x: y}\ntags: {a/b:1: {image: x, push: true}}\nsyncs: {a/b: {from: a/c}}",
            "tag/docker.io/a/b:1 is pushed to a repository that sync/docker.io/a/b at a.yaml:5:9 keeps",
        ),
    ],
)
def test_mistakes_are_told_with_their_place(refuse, body, words):
    assert words in refuse(body)


def test_a_tag_that_stays_here_may_have_any_name(load):
    load("images: {x: y}\ntags: {a/b:1: x}\nsyncs: {a/b: {from: a/c}}")
