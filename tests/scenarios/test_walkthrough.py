"""The walk-through: a base from a mirror, a writer, its commit pushed under two tags, a reader; then a second host."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.testing.host import Host
from reconciler.testing.images import debian_archive, push_image
from reconciler.testing.mirror_server import MirrorServer, running_mirror
from reconciler.testing.registry_server import RegistryServer, running_registry

pytestmark = pytest.mark.root

_READER = """
  reader:
    image: message
    command: [cat, /message.txt]
    restart: "no"
"""


@pytest.fixture(scope="module")
def debian_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with running_registry(tmp_path_factory.mktemp("debian")) as server:
        push_image(f"{server.host}/debian:base", debian_archive())
        yield server


@pytest.fixture
def mirror(debian_registry: RegistryServer, tmp_path: Path) -> Iterator[MirrorServer]:
    with running_mirror(tmp_path / "mirror", debian_registry.url) as server:
        yield server


def first_host(
    registry: RegistryServer, mirror: MirrorServer, reader: str = _READER, repository: str = "jbgo/message"
) -> str:
    return f"""\
apiVersion: reconciler/v1
stack: hello  # the first of the mirrors is dead
registries:
  {registry.host}: {{plain_http: true}}
mirrors:
  {registry.host}:
    - http://127.0.0.1:9
    - {mirror.url}
images:
  base: {registry.host}/debian:base
  message:
    commit: {{container: writer, author: "Jordan Bach", message: "saved my message", when: exited}}
tags:
  {registry.host}/{repository}:v0.0.1: {{image: message, push: true}}
  {registry.host}/{repository}:latest: {{image: message, push: true}}
containers:
  writer:
    image: base
    command: [sh, -c, "echo hello docker > /message.txt"]
    restart: "no"
  web:
    image: base
    command: [sleep, "3600"]
    stop_signal: SIGKILL
{reader}
retention:
  images: {{keep_generations: 0}}
"""


def second_host(registry: RegistryServer, mirror: MirrorServer) -> str:
    return f"""\
apiVersion: reconciler/v1
stack: elsewhere
registries:
  {registry.host}: {{plain_http: true}}
mirrors:
  {registry.host}: [{mirror.url}]
containers:
  reader:
    image: {registry.host}/jbgo/message:v0.0.1
    command: [cat, /message.txt]
    restart: "no"
"""


class Gets:
    """Counts the blobs that the registry gave away since this was made; all mirrors pass their requests on to it."""

    def __init__(self, registry: RegistryServer) -> None:
        self._registry = registry
        self._before = self._all()

    def _all(self) -> Counter[str]:
        return Counter(re.findall(r'"GET [^ ]*/blobs/(sha256:[0-9a-f]{64})', self._registry.log.read_text()))

    def since(self) -> Counter[str]:
        return self._all() - self._before


def test_walkthrough(make_host: Callable[[str], Host], debian_registry: RegistryServer, mirror: MirrorServer) -> None:
    one, two = make_host("one"), make_host("two")
    specs = one.write(first_host(debian_registry, mirror))
    gets = Gets(debian_registry)

    result = one.apply("-o", "json")
    applied = result.json
    assert applied["converged"] and applied["generation"] == 1
    assert one.output("hello/reader") == "hello docker\n"
    assert [one.ended(name)["exit_code"] for name in ("hello/writer", "hello/reader")] == [0, 0]
    _is_in_order(result.err)
    assert set(gets.since().values()) == {1}
    _comes_back(one, "hello/web")
    assert mirror.log.read_text().count("/blobs/") >= 2  # the bytes came over the mirror that works
    assert one.is_converged()

    shown = one.run("image", "history", "hello/message", "-o", "json").json
    assert len(shown) == len(one.run("image", "history", "hello/base", "-o", "json").json) + 1
    base, made = (_history(debian_registry, name) for name in ("debian:base", "jbgo/message:v0.0.1"))
    assert made[:-1] == base
    assert (made[-1]["author"], made[-1]["comment"]) == ("Jordan Bach", "saved my message")
    assert len(_layers(debian_registry, "jbgo/message", "v0.0.1")) == 2
    assert _layers(debian_registry, "jbgo/message", "latest") == _layers(debian_registry, "jbgo/message", "v0.0.1")

    two.write(second_host(debian_registry, mirror))
    gets = Gets(debian_registry)
    two.apply()
    assert two.output("elsewhere/reader") == "hello docker\n"
    assert len(gets.since()) == 3 and set(gets.since().values()) == {1}  # a config and two layers
    assert two.is_converged()
    assert one.is_converged()  # what the other host did is no change here

    specs.write_text(first_host(debian_registry, mirror, reader=""))
    plan = one.plan()
    assert [(change["address"], change["actions"]) for change in plan["changes"]] == [
        ("container/hello/reader", ["delete"])
    ]
    one.apply()
    assert set(one.containers()) == {"hello/writer", "hello/web"}
    assert one.is_converged()


def test_gc_frees_what_its_plan_lists_and_nothing_else(
    host: Host, debian_registry: RegistryServer, mirror: MirrorServer
) -> None:
    host.write(first_host(debian_registry, mirror, repository="gc/message"))
    host.apply()
    assert host.run("gc", "--plan", "-o", "json").json["items"] == []
    host.write(
        f"""\
        apiVersion: reconciler/v1
        stack: hello
        registries:
          {debian_registry.host}: {{plain_http: true}}
        retention:
          images: {{keep_generations: 0, unused_for: 0s}}
        """
    )
    host.apply("--max-deletes", "100")
    planned = host.run("gc", "--plan", "-o", "json").json
    before = _files(host.root)
    assert {item["kind"] for item in planned["items"]} >= {"blob", "layer"}
    assert _files(host.root) == before
    freed = host.run("gc", "-o", "json").json
    assert freed == {**planned, "kept": 0}
    gone = before - _files(host.root)
    assert {path.name for path in gone if path.parent.name == "sha256"} == {
        item["id"].removeprefix("sha256:") for item in planned["items"] if item["kind"] == "blob"
    }
    assert host.run("gc", "-o", "json").json["items"] == []
    assert list((host.root / "layers").iterdir()) == []
    assert host.is_converged()


def _comes_back(host: Host, name: str) -> None:
    """The daemon starts a container again that somebody killed."""
    before = host.container(name)
    daemon = host.start("daemon", host.specs, log=True)
    host.until(lambda: host.run("status", "-o", "json").json["daemon"] is not None)
    os.kill(host.pid(name), signal.SIGKILL)
    host.until(lambda: host.is_running(name) and host.container(name)["run"] == before["run"] + 1)
    assert host.container(name)["id"] == before["id"]
    daemon.send_signal(signal.SIGTERM)
    assert host.finish(daemon).code == 143


def _is_in_order(progress: str) -> None:
    """The ends of the steps, as the progress shows them, come in the only order that can work."""
    ended = [line.split(": ")[0] for line in progress.splitlines() if ": done" in line]
    order = [
        "image/hello/base",
        "container/hello/writer",
        "image/hello/message",
        "container/hello/reader",
    ]
    positions = [max(at for at, step in enumerate(ended) if address in step) for address in order]
    assert positions == sorted(positions), ended
    pushed = max(at for at, step in enumerate(ended) if "jbgo/message" in step)
    assert pushed > positions[2]


def _history(registry: RegistryServer, name: str) -> list[dict[str, Any]]:
    """The history of an image on the registry, as another tool reads it."""
    command = ["skopeo", "inspect", "--tls-verify=false", "--config", f"docker://{registry.host}/{name}"]
    history: list[dict[str, Any]] = json.loads(subprocess.check_output(command))["history"]
    return history


def _layers(registry: RegistryServer, repository: str, tag: str) -> list[str]:
    request = urllib.request.Request(
        f"{registry.url}/v2/{repository}/manifests/{tag}",
        headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
    )
    with urllib.request.urlopen(request) as answer:
        return [layer["digest"] for layer in json.load(answer)["layers"]]


def _files(root: Path) -> set[Path]:
    return {path for part in ("blobs", "layers") for path in (root / part).glob("*/*")}
