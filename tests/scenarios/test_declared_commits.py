"""Declared commits: taken once of what a job left, and again only when it left something else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from reconciler.testing.host import Host
from reconciler.testing.registry_server import RegistryServer

pytestmark = pytest.mark.root

SCRIPT = "test -e /once || echo one > /once; test ! -e /flags/more || echo more >> /log"


def declare(host: Host, registry: RegistryServer, config: str = "") -> None:
    (host.specs / "flags").mkdir(exist_ok=True)
    host.declare(
        registry.host,
        f"""\
        images:
          base: {registry.host}/app:1
          made: {{commit: {{container: job, author: A, message: M, when: exited}}{config}}}
        containers:
          job:
            image: base
            command: [sh, -c, "{SCRIPT}"]
            environment: {{ONLY_IN: the-container}}
            volumes: ["./flags:/flags"]
            restart: "no"
            networks: []
        """,
    )


def made(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = host.run("image", "inspect", "shop/made").json[0]
    return found


def run_again(host: Host) -> None:
    host.run("container", "start", "-a", "shop/job")
    host.ended("shop/job")


def test_a_commit_is_taken_again_only_when_the_layer_changed(host: Host, registry: RegistryServer) -> None:
    declare(host, registry)
    host.apply()
    first = made(host)["Id"]
    assert host.changes() == []
    assert "No changes" in host.apply().text
    assert made(host)["Id"] == first

    run_again(host)
    assert host.changes() == []
    host.apply()
    assert made(host)["Id"] == first

    (host.specs / "flags/more").touch()
    run_again(host)
    assert host.changes() == [("image/shop/made", ["update"])]
    host.apply()
    second = made(host)["Id"]
    assert second != first
    assert host.changes() == []
    assert host.run("container", "diff", "shop/job").out.splitlines() == ["A /log", "A /once"]


def test_a_declared_commit_takes_the_images_config_and_its_own(host: Host, registry: RegistryServer) -> None:
    config = ', config: {cmd: [cat, /once], user: "5", labels: {k: v}, exposed_ports: ["80"], volumes: [/data]}'
    declare(host, registry, config)
    host.apply()
    inspected = made(host)
    inner = inspected["Config"]
    assert (inner["Cmd"], inner["User"], inner["Labels"]) == (["cat", "/once"], "5", {"k": "v"})
    assert (inner["ExposedPorts"], inner["Volumes"]) == ({"80/tcp": {}}, {"/data": {}})
    assert "the-container" not in json.dumps(inner)
    manifest = json.loads((host.root / "blobs/sha256" / inspected["Id"].removeprefix("sha256:")).read_text())
    assert manifest["annotations"]["org.opencontainers.image.base.name"] == f"{registry.host}/app:1"
    assert host.changes() == []


def test_a_commit_that_is_made_again_after_it_was_lost_has_the_same_digest(
    make_host: Callable[[str], Host], registry: RegistryServer
) -> None:
    host = make_host("one")
    declare(host, registry)
    host.apply()
    first = made(host)["Id"]
    blob = host.root / "blobs/sha256" / first.removeprefix("sha256:")
    blob.unlink()
    assert host.changes() == [("image/shop/made", ["update"])]
    host.apply()
    assert made(host)["Id"] == first
