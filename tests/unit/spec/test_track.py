"""Images that track a repository, as they are written."""

from __future__ import annotations

import pytest

from reconciler.model.address import Address
from reconciler.model.resources import Image, Pull
from reconciler.model.selection import TagSelection
from reconciler.oci.reference import Reference

APP = Address("image", "shop/app")
DIGEST = "sha256:" + "a" * 64


def test_a_track_with_every_field(load):
    found = load(
        "images: {app: {pull: r.example.com/app, pull_policy: newer, "
        "track: {semver: '>=1.4 <2', pattern: '.*-alpine', newest: 1, min_age: 3d}}}"
    )
    selection = TagSelection(allow=(".*-alpine",), semver=">=1.4 <2", newest=1, min_age=259200.0)
    assert found.resources[APP] == Image(Pull(Reference("r.example.com", "app"), "newer", track=selection))


@pytest.mark.parametrize("pin", [f"nginx:1.27@{DIGEST}", f"nginx@{DIGEST}", f"localhost:5000/nginx@{DIGEST}"])
def test_a_digest_is_a_pin(load, pin):
    source = load(f"images: {{app: {{pull: '{pin}', track: {{semver: ^1}}}}}}").resources[APP].source
    assert source.reference == Reference.parse(pin)
    assert source.track == TagSelection(semver="^1")
    assert source.picks is None


@pytest.mark.parametrize(
    ("image", "place", "message", "hint"),
    [
        ("{pull: 'nginx:1.27', track: {semver: ^1}}", "a.yaml:3:22", "pull names one", "write pull: nginx;"),
        ("{pull: 'nginx:latest', track: {newest: 1}}", "a.yaml:3:22", "pull names one", "write pull: nginx;"),
        ("{pull: nginx, track: {min_age: 3d}}", "a.yaml:3:29", "does not say which", "give semver"),
        ("{pull: nginx, track: {newest: 2}}", "a.yaml:3:45", "out of range", ""),
        ("{pull: nginx, track: {semver: latest}}", "a.yaml:3:45", "no range of versions", "write such as"),
        ("{pull: nginx, track: {pattern: '('}}", "a.yaml:3:46", "malformed pattern", "regular expression"),
        ("{pull: nginx, track: {tag: x}}", "a.yaml:3:37", "unknown field 'tag'", ""),
        (
            "{import: ./x.tar, track: {newest: 1}}",
            "a.yaml:3:33",
            "track has no meaning with import",
            "it goes with pull",
        ),
    ],
)
def test_mistakes_are_told_where_they_are(refuse, image, place, message, hint):
    told = refuse(f"images: {{app: {image}}}")
    assert place in told
    assert message in told
    assert hint in told


def test_a_container_uses_a_tracked_image_by_name(load):
    found = load("images: {app: {pull: nginx, track: {newest: 1}}}\ncontainers: {web: {image: app}}")
    assert found.resources[Address("container", "shop/web")].image == APP
