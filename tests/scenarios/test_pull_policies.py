"""When a registry is asked, and for how much: pull policies, hosts that are offline, and bytes counted at both ends."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from reconciler.oci import media
from reconciler.oci.digest import Digest
from reconciler.oci.platform import Platform
from reconciler.store.archive.reader import Entry, Kind
from reconciler.store.archive.writer import archive
from reconciler.testing.host import Host
from reconciler.testing.served_registry import ServedRegistry

pytestmark = pytest.mark.root


def layer(name: str, size: int) -> bytes:
    """A layer of one file that does not compress."""
    body = random.Random(name).randbytes(size)
    return b"".join(archive([(Entry(name.encode(), Kind.FILE, size=size), body)]))


BASE, APP, OTHER = layer("base", 300_000), layer("app", 20_000), layer("other", 1_000)


def put(registry: ServedRegistry, name: str, tag: str, *archives: bytes) -> Digest:
    """An image for this machine."""
    here = Platform.host()
    rootfs = {"type": "layers", "diff_ids": [str(Digest.of(data)) for data in archives]}
    config = json.dumps({"os": here.os, "architecture": here.architecture, "rootfs": rootfs}).encode()
    document = {
        "schemaVersion": 2,
        "mediaType": media.OCI_MANIFEST,
        "config": registry.blob(name, config) | {"mediaType": media.OCI_CONFIG},
        "layers": [registry.blob(name, gzip.compress(data, 1, mtime=0)) for data in archives],
    }
    return registry.put(name, document, tag)


def sent(registry: ServedRegistry) -> int:
    """The bytes of blobs that a registry sent."""
    paths = [
        asked.line.partition("?")[0].split("/") for asked in registry.matching("GET ") if "/blobs/sha256:" in asked.line
    ]
    return sum(len(registry.blobs[path[2]][Digest(path[4])]) for path in paths)


def received(registry: ServedRegistry) -> int:
    """The bytes of blobs that a registry was sent."""
    return sum(len(asked.body) for asked in registry.asked if "/blobs/uploads/" in asked.line)


def pulled(plan: dict[str, Any]) -> int:
    """The bytes that a plan says it will pull."""
    return sum(change["cost"]["pull_bytes"] for change in plan["changes"])


@pytest.fixture
def registry() -> Iterator[ServedRegistry]:
    with ServedRegistry() as served:
        yield served


def images(host: Host, registry: ServedRegistry, more: str = "", **pulls: str) -> None:
    """Declares images by what each pulls, and perhaps how: ``app:1, pull_policy: never``."""
    entries = "".join(f"  {name}: {{pull: {registry.host}/{pull}}}\n" for name, pull in pulls.items())
    host.declare(registry.host, f"images:\n{entries}{more}")


def test_missing_asks_nothing_for_what_is_here_by_whatever_name(host: Host, registry: ServedRegistry) -> None:
    digest = put(registry, "app", "1", BASE, APP)
    images(host, registry, app="app:1")
    host.apply()
    asked = len(registry.asked)
    pinned = {"pinned": f"app@{digest}", "tagged": f"app:9@{digest}", "other": f"other@{digest}, pull_policy: always"}
    images(host, registry, app="app:1", again="app:1", **pinned)
    applied = host.apply().out
    assert "pull " not in applied.partition("Plan: ")[0].replace("pull.", ""), "it costs nothing"
    assert "; 8 layers already there." in applied
    assert host.is_converged()
    assert registry.lines[asked:] == []


def test_never_asks_nothing_and_names_what_is_not_here(host: Host, registry: ServedRegistry) -> None:
    put(registry, "app", "1", BASE)
    host.run("image", "pull", "--plain-http", f"{registry.host}/app:1")
    asked = len(registry.asked)
    images(host, registry, app="app:1, pull_policy: never")
    host.apply()
    assert host.is_converged()
    images(host, registry, app="app:1, pull_policy: never", gone="app:2, pull_policy: never")
    plan = host.run("plan", host.specs, code=1).out
    assert f"{registry.host}/app:2 is not on this host and `pull_policy` is never" in plan
    assert registry.lines[asked:] == []


def test_always_and_newer_cost_a_head_for_each_tag_and_go_on_with_what_is_here(host: Host) -> None:
    with ServedRegistry() as registry:
        for tag in ("1", "2"):
            put(registry, "app", tag, BASE)
        pulls = {"app": "app:1, pull_policy: always", "same": "app:1, pull_policy: always"}
        images(host, registry, **pulls, newer="app:2, pull_policy: newer")
        host.apply()
        asked = len(registry.asked)
        assert host.is_converged()
        assert sorted(registry.lines[asked:]) == ["HEAD /v2/app/manifests/1", "HEAD /v2/app/manifests/2"]
        moved = put(registry, "app", "1", BASE, APP)
        told = host.apply().out
        assert told.count("its tag points at another image") == 2
        assert str(moved) in host.run("image", "ls", "--no-trunc", "--digests").out
    told = host.apply()
    assert told.out.count("nobody could tell whether") == 2, "once for each tag"
    assert told.out.count("the stored image is kept") == 2
    assert "asking again in" in told.err


def test_a_host_offline_goes_on_with_what_came_through_a_mirror(host: Host) -> None:
    with ExitStack() as servers:
        origin, mirror = (servers.enter_context(ServedRegistry()) for _ in range(2))
        for server in (origin, mirror):
            put(server, "app", "1", BASE, APP)
        dead = "http://127.0.0.1:1"
        mirrors = f"mirrors: {{'{origin.host}': ['{dead}', '{mirror.url}']}}\n"
        images(host, origin, mirrors, app="app:1")
        first = host.apply()
        assert f"passing over {dead}: " in first.out
        assert f"Connection refused; asking {mirror.url}" in first.out
        assert (sent(origin), sent(mirror)) == (0, sum(map(len, mirror.blobs["app"].values())))
    images(host, origin, mirrors, app="app:1", more_of_it="app:1")
    said = host.apply()
    assert "asking" not in said.err and "Note:" not in said.out
    assert host.is_converged()
    refused = host.run("image", "pull", "--plain-http", f"{origin.host}/app:1", code=1)
    assert "nobody could tell whether" in refused.err, "who asks for the newest must not be told that it has it"


def test_of_an_image_by_digest_only_what_is_missing_is_asked_for(host: Host, registry: ServedRegistry) -> None:
    digest = put(registry, "app", "1", BASE, APP)
    images(host, registry, app=f"app@{digest}")
    host.apply()
    lost = Digest.of(gzip.compress(APP, 1, mtime=0))
    (host.root / "blobs/sha256" / lost.hex).unlink()
    asked = len(registry.asked)
    assert pulled(host.plan()) == len(registry.blobs["app"][lost])
    assert registry.lines[asked:] == []
    report = host.run("apply", host.specs, "--yes", "-o", "json").json
    assert registry.lines[asked:] == [f"GET /v2/app/blobs/{lost}"]
    assert report["transfer"]["pulled_bytes"] == len(registry.blobs["app"][lost])
    assert (report["transfer"]["there_layers"], report["transfer"]["there_bytes"]) == (
        1,
        len(gzip.compress(BASE, 1, mtime=0)),
    )


def test_what_plan_and_report_tell_is_what_the_registries_counted(host: Host, registry: ServedRegistry) -> None:
    put(registry, "base", "1", BASE)
    put(registry, "one", "1", BASE, APP)
    put(registry, "two", "1", BASE, APP, OTHER)
    host.run("image", "pull", "--plain-http", f"{registry.host}/base:1")
    before = sent(registry)
    with ServedRegistry() as other:
        tags = "".join(f"  {server.host}/new/two:1: {{image: two, push: true}}\n" for server in (registry, other))
        images(host, registry, f"tags:\n{tags}", one="one:1", two="two:1")
        spec = host.specs / "shop.yaml"
        spec.write_text(
            spec.read_text().replace("registries: {", f"registries: {{'{other.host}': {{plain_http: true}}, ")
        )
        plan = host.run("plan", host.specs, "-o", "json").json
        report = host.run("--progress", "json", "apply", host.specs, "--yes", "-o", "json")
        moved = report.json["transfer"]
        assert pulled(plan) == moved["pulled_bytes"] == sent(registry) - before > 0
        assert moved["pushed_bytes"] == received(other) == sum(map(len, other.blobs["new/two"].values()))
    assert received(registry) == 0
    assert moved["mounted_layers"] == 3, "two:1 has all of them, base:1 only one"
    by_change = [change["outcome"]["transfer"] for change in report.json["changes"]]
    for field in ("pulled_bytes", "pushed_bytes", "there_layers", "mounted_bytes"):
        assert sum(transfer[field] for transfer in by_change) == moved[field]
    events = [json.loads(line) for line in report.err.splitlines()]
    steps = [event for event in events if event["event"] == "step" and event["status"] == "done"]
    assert sum(event["pulled_bytes"] for event in steps) == moved["pulled_bytes"]
    states = {event["state"] for event in events if event["event"] == "progress"}
    assert states >= {"waiting", "pulling", "downloading", "complete", "exists", "mounted", "uploading", "pushed"}
