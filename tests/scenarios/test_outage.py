"""What the daemon does while an image or a whole registry cannot be had."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from reconciler.testing.host import Host
from reconciler.testing.images import busybox_archive, push_image
from reconciler.testing.registry_server import RegistryServer, running_registry

pytestmark = pytest.mark.root

_SLEEP = 'command: [sleep, "3600"]\n    stop_signal: SIGKILL'


def conditions(host: Host) -> dict[str, Any]:
    found = host.run("status", "-o", "json").json["daemon"]
    return found["conditions"] if found else {}


def stop(host: Host, daemon: subprocess.Popen[str]) -> None:
    daemon.send_signal(signal.SIGTERM)
    assert host.finish(daemon).code == 143


def two(registry: RegistryServer, one: str, other: str) -> str:
    return f"""\
apiVersion: reconciler/v1
stack: shop
registries: {{'{registry.host}': {{plain_http: true}}}}
containers:
  one:
    image: {registry.host}/{one}
    {_SLEEP}
  two:
    image: {registry.host}/{other}
    {_SLEEP}
"""


@pytest.fixture
def without_a_layer(registry: RegistryServer) -> str:
    """An image that resolves and cannot be pulled: its layer is gone from the registry's disk."""
    digest = push_image(f"{registry.host}/torn:1", busybox_archive({"torn": "yes"}))
    data = registry.log.parent / "data/docker/registry/v2"
    manifest = (data / "blobs/sha256" / digest[7:9] / digest[7:] / "data").read_text()
    layer = re.findall(r"sha256:([0-9a-f]{64})", manifest)[-1]
    (data / "blobs/sha256" / layer[:2] / layer / "data").unlink()
    return "torn:1"


def test_g22_an_image_that_cannot_be_pulled_waits_by_itself(
    host: Host, registry: RegistryServer, without_a_layer: str
) -> None:
    host.write(two(registry, "app:1", "app:1"))
    daemon = host.start("daemon", host.specs, "--interval", "1s", log=True)
    host.until(lambda: conditions(host).get("result") == "converged")
    before = host.containers()
    pid = host.pid("shop/one")

    host.write(two(registry, without_a_layer, "app:2"))
    host.until(lambda: host.container("shop/two")["image"] != before["shop/two"]["image"])
    host.until(lambda: conditions(host)["failures"])
    failure = conditions(host)["failures"][0]
    assert failure["address"].startswith("image/shop/") and without_a_layer in failure["address"]
    assert failure["next_try"]
    assert re.search(rf"{without_a_layer}: .*\(next try ", host.run("status").out)
    assert (host.pid("shop/one"), host.container("shop/one")["id"]) == (pid, before["shop/one"]["id"])

    # What waits holds up nothing else.
    os.kill(host.pid("shop/two"), signal.SIGKILL)
    host.until(lambda: host.is_running("shop/two") and host.container("shop/two")["run"] == 2)
    host.until(lambda: conditions(host)["failures"][0]["attempts"] >= 2)
    assert host.pid("shop/one") == pid

    host.write(two(registry, "app:2", "app:2"))
    host.until(lambda: conditions(host)["result"] == "converged")
    assert host.container("shop/one")["image"] == host.container("shop/two")["image"]
    stop(host, daemon)


def test_g26_containers_start_from_the_local_store_while_the_registry_is_down(host: Host, tmp_path: Path) -> None:
    with running_registry(tmp_path / "gone") as registry:
        push_image(f"{registry.host}/app:1", busybox_archive())
        spec = two(registry, "app:1", "app:1").replace(f"image: {registry.host}/app:1", "image: app", 1)
        host.write(spec + f"images: {{app: {{pull: '{registry.host}/app:1', pull_policy: always}}}}\n")
        host.apply()
    for name in ("shop/one", "shop/two"):
        os.kill(host.pid(name), signal.SIGKILL)
        host.until(lambda name=name: not host.is_running(name))
    daemon = host.start("daemon", host.specs, "--interval", "1s", log=True)
    host.until(lambda: host.is_running("shop/one") and host.is_running("shop/two"))
    host.until(lambda: conditions(host).get("result") == "converged")
    stop(host, daemon)
