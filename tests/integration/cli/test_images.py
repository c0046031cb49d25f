"""Images by hand: names, refusals, and what is freed."""

from __future__ import annotations

import pytest

from reconciler.testing.host import Host
from reconciler.testing.registry_server import RegistryServer

pytestmark = pytest.mark.root


def listed(host: Host) -> list[tuple[str, str | None]]:
    return sorted((item["repository"], item["tag"]) for item in host.run("image", "ls", "-o", "json").json)


def blobs(host: Host) -> int:
    return sum(1 for _ in (host.root / "blobs" / "sha256").iterdir())


def test_pulling_prints_the_digest_and_names_the_image(host: Host, registry: RegistryServer) -> None:
    reference = f"{registry.host}/base:1"
    first = host.run("image", "pull", "--plain-http", reference)
    assert "Pull complete" in first.err
    (seen,) = host.run("image", "inspect", reference).json
    assert first.out == seen["Id"] + "\n"
    assert seen["RepoTags"] == [reference]
    before = registry.requests("GET", "/blobs/")
    assert "up to date" in host.run("image", "pull", "--plain-http", reference).err
    assert registry.requests("GET", "/blobs/") == before
    assert host.run("image", "ls", "-q").out.strip() == seen["Id"].removeprefix("sha256:")[:12]
    assert seen["Id"] in host.run("image", "ls", "--digests").out


def test_what_cannot_be_pulled_says_what_to_do(host: Host, registry: RegistryServer) -> None:
    gone = host.run("image", "pull", "--plain-http", f"{registry.host}/gone:1", code=1).err
    assert f"cannot pull {registry.host}/gone:1" in gone and "check the name" in gone
    encrypted = host.run("image", "pull", f"{registry.host}/base:1", code=1).err
    assert "plain_http" in encrypted


def test_references_resolve_by_name_and_by_id(host: Host, image: str) -> None:
    digest = host.run("image", "inspect", image).json[0]["Id"]
    short = digest.removeprefix("sha256:")[:8]
    for name in (image, short, digest, f"{image.rpartition(':')[0]}@{digest}"):
        assert host.run("image", "inspect", name).json[0]["Id"] == digest
    host.run("image", "tag", image, "tools")
    assert host.run("image", "inspect", "docker.io/library/tools:latest").json[0]["Id"] == digest
    assert "image ls" in host.run("image", "inspect", "absent", code=1).err


def test_pushing_what_was_tagged(host: Host, image: str, registry: RegistryServer) -> None:
    target = f"{registry.host}/copies/base:2"
    digest = host.run("image", "inspect", image).json[0]["Id"]
    host.run("image", "tag", image, target)
    assert host.run("image", "push", "--plain-http", target).out == f"{digest}\n"
    host.run("image", "rm", target)
    assert host.run("image", "pull", "--plain-http", target).out == f"{digest}\n"


def test_removing_the_last_name_frees_the_bytes(host: Host, image: str) -> None:
    host.run("image", "tag", image, "tools:1")
    seen = host.run("image", "inspect", image).json[0]
    first = host.run("image", "rm", image)
    assert first.out == f"Untagged: {image}\n"
    last = host.run("image", "rm", "tools:1")
    (layer,) = seen["RootFS"]["Layers"]  # the chain ID of a lowest layer is its diff ID
    assert last.out == f"Untagged: tools:1\nDeleted: {seen['Id']}\nDeleted: {layer}\n"
    assert listed(host) == []
    assert blobs(host) == 0
    assert list((host.root / "layers").iterdir()) == []


def test_x46_the_last_name_of_an_image_in_use_stays(host: Host, image: str) -> None:
    host.run("container", "run", "--name", "user", image, "true")
    refused = host.run("image", "rm", image, code=1)
    assert "user" in refused.err
    assert listed(host) == [tuple(image.rsplit(":", 1))]
    forced = host.run("image", "rm", "--force", image)
    assert forced.out == f"Untagged: {image}\n"
    assert listed(host) == [("<none>", None)]
    host.run("container", "start", "user")


def test_x47_an_image_by_its_id(host: Host, image: str) -> None:
    host.run("image", "tag", image, "tools:1")
    short = host.run("image", "ls", "-q").out.strip()
    assert "tools:1" in host.run("image", "rm", short, code=1).err
    host.run("container", "run", "-d", "--name", "user", image, "sleep", "1000")
    assert "user" in host.run("image", "rm", "--force", short, code=1).err
    assert len(listed(host)) == 2
    host.run("container", "rm", "-f", "user")
    host.run("image", "rm", "--force", short)
    assert listed(host) == []


def test_nothing_is_removed_when_one_name_is_wrong(host: Host, image: str) -> None:
    host.run("image", "rm", image, "absent", code=1)
    assert len(listed(host)) == 1


def test_what_a_stack_holds_is_neither_moved_nor_removed(host: Host, registry: RegistryServer) -> None:
    host.write(
        f"""
        apiVersion: reconciler/v1
        stack: shop
        registries: {{{registry.host}: {{plain_http: true}}}}
        images: {{base: {registry.host}/base:1, other: {registry.host}/base:alien}}
        tags: {{"tools:1": base}}
        """
    )
    host.apply()
    for name in ("shop/base", f"{registry.host}/base:1", "tools:1"):
        assert "stack shop" in host.run("image", "rm", "--force", name, code=1).err
    assert "stack shop" in host.run("image", "tag", "shop/other", "tools:1", code=1).err
    assert ("shop/base", None) in [(name, None if tag == "<none>" else tag) for name, tag in listed(host)]
    assert host.is_converged()
