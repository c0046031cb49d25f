"""Images that track a repository of a real registry: what is picked, what it asks, and how a tag comes of age."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reconciler.testing.host import Host
from reconciler.testing.images import archive, busybox_archive, push_image
from reconciler.testing.registry_server import RegistryServer, running_registry

pytestmark = pytest.mark.root

Publish = Callable[..., dict[str, str]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RegistryServer]:
    with running_registry(tmp_path / "registry") as running:
        yield running


@pytest.fixture
def publish(server: RegistryServer) -> Publish:
    """Pushes an image of its own under each tag of ``app``; the digests by tag."""

    def push(*tags: str, seed: str = "") -> dict[str, str]:
        layer = archive([])
        return {tag: push_image(f"{server.host}/app:{tag}", layer, {"Labels": {"v": tag + seed}}) for tag in tags}

    return push


def declare(host: Host, server: RegistryServer, track: str) -> None:
    host.declare(server.host, f"images: {{app: {{pull: {server.host}/app, track: {{{track}}}}}}}\n")


def picked(host: Host) -> str:
    resources = {item["address"]: item["state"] for item in host.run("status", "-o", "json").json["resources"]}
    return str(resources.get("image/shop/app", ""))


def grow_older(host: Host, seconds: float) -> None:
    """All tags that were noted, as if it had been ``seconds`` earlier."""
    with sqlite3.connect(host.root / "state.db") as database:
        database.execute("UPDATE tag_ledger SET seen_at = seen_at - ?", (seconds,))
    database.close()


def files(root: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in root.rglob("*") if path.is_file()}


def test_the_newest_version_is_picked_and_followed(host: Host, server: RegistryServer, publish: Publish) -> None:
    made = publish("1.4.0", "1.5.2", "1.10.0-rc.1", "2.0.0", "latest")
    declare(host, server, 'semver: ">=1.4 <2"')
    (change,) = [item for item in host.plan()["changes"] if item["address"] == "image/shop/app"]
    assert "picked 1.5.2: newest in >=1.4 <2" in change["message"]
    after = {field["path"]: field["after"] for field in change["fields"]}
    assert after == {"digest": made["1.5.2"], "pull.reference": f"{server.host}/app:1.5.2"}
    host.apply()
    assert picked(host).endswith("tracks 1.5.2: newest in >=1.4 <2")
    heads = server.requests("HEAD")
    assert host.is_converged()
    assert server.requests("HEAD") == heads + 1
    publish("1.10.0")
    (change,) = host.plan()["changes"]
    assert (change["reason"], change["actions"]) == ("tag-picked", ["update"])
    host.apply()
    assert host.is_converged()
    assert "1.10.0" in picked(host)


def test_no_tag_fits_and_none_can_be_listed(host: Host, server: RegistryServer, publish: Publish) -> None:
    publish("1.4.0", "1.5.2")
    declare(host, server, "semver: ^3")
    plan = host.run("plan", host.specs, "-o", "json", code=1).json
    (blocked,) = plan["blocked"]
    assert blocked["reason"] == "no-tag"
    assert blocked["message"].endswith("is in ^3; there are 1.5.2, 1.4.0")
    declare(host, server, "pattern: '1[.].*'")
    host.apply()
    os.kill(server.pid, signal.SIGTERM)
    plan = host.run("plan", host.specs, "-o", "json").json
    assert plan["changes"] == []
    assert any("the stored 1.5.2 is kept" in note for note in plan["notes"])


def test_a_version_waits_until_it_is_old_enough(host: Host, server: RegistryServer, publish: Publish) -> None:
    publish("1.4.0")
    host.declare(server.host, "")
    host.apply()
    declare(host, server, "semver: ^1, min_age: 1h")
    before = files(host.root)
    told = host.run("plan", host.specs, code=1).out
    assert "1.4.0 is new, wants 1h" in told
    assert files(host.root) == before
    host.apply(code=1)
    grow_older(host, 7200)
    host.apply()
    assert "tracks 1.4.0" in picked(host)

    publish("1.5.0")
    assert host.is_converged()
    host.apply()
    assert "1.5.0 is new, wants 1h" in picked(host)
    grow_older(host, 1800)
    publish("1.5.0", seed="moved")
    grow_older(host, 7200)
    host.apply()
    assert "tracks 1.4.0" in picked(host), "it moved since it was seen"
    grow_older(host, 7200)
    host.apply()
    assert "tracks 1.5.0" in picked(host)
    assert host.is_converged()


def test_a_pin_stays_whatever_its_track_says(host: Host, server: RegistryServer, publish: Publish) -> None:
    made = publish("1.4.0", "1.5.2")
    pin = f"{server.host}/app:1.4.0@{made['1.4.0']}"
    host.declare(server.host, f"images: {{app: {{pull: '{pin}', track: {{semver: ^1}}}}}}\n")
    host.apply()
    assert picked(host) == made["1.4.0"].removeprefix("sha256:")[:12]
    assert server.requests("GET", "/tags/list") == 0
    assert host.is_converged()


def test_the_example_is_followed_by_a_daemon_until_it_is_pinned(host: Host, server: RegistryServer) -> None:
    """As it stands, but for the port of the registry."""
    text = (Path(__file__).parents[2] / "examples/tracking/tracking.yaml").read_text()
    spec = host.write(text.replace("127.0.0.1:5000", server.host), "tracking.yaml")

    def release(version: str) -> str:
        return push_image(f"{server.host}/app:{version}", busybox_archive({"version": version}))

    def runs(digest: str) -> bool:
        return host.is_running("tracking/web") and host.container("tracking/web")["image"] == digest

    first = release("1.0.0")
    daemon = host.start("daemon", host.specs, "--interval", "1s", log=True)
    host.until(lambda: runs(first))
    second = release("1.1.0")
    host.until(lambda: runs(second))
    assert host.containers().keys() == {"tracking/web"}

    host.run("update", host.specs, "--write")
    pinned = spec.read_text()
    assert pinned == text.replace("127.0.0.1:5000", server.host).replace("/app\n", f"/app:1.1.0@{second}\n")
    third = release("1.2.0")
    host.until(host.is_converged)  # the daemon has read the pin
    before = server.requests("GET", "/app/tags/list")
    assert host.is_converged()
    assert server.requests("GET", "/app/tags/list") == before, "a pin asks for no tags"
    assert runs(second)

    assert "1.2.0: newest in >=1 <2" in host.run("update", host.specs).out
    assert spec.read_text() == pinned
    host.run("update", host.specs, "--write")
    host.until(lambda: runs(third) and host.is_converged())
    daemon.send_signal(signal.SIGTERM)
    assert host.finish(daemon).code == 143
    assert "1 up to date" in host.run("update", host.specs, "--write").out
