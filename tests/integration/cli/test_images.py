"""Images by hand: names, refusals, and what is freed."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from reconciler.testing.host import Host
from reconciler.testing.images import archive, busybox_archive, write_layout
from reconciler.testing.registry_server import RegistryServer

pytestmark = pytest.mark.root


def listed(host: Host) -> list[tuple[str, str | None]]:
    return sorted((item["repository"], item["tag"]) for item in host.run("image", "ls", "-o", "json").json)


def blobs(host: Host) -> int:
    return sum(1 for _ in (host.root / "blobs" / "sha256").iterdir())


def layer(name: str) -> bytes:
    """A gzipped layer with one empty file."""
    return archive([(tarfile.TarInfo(name), b"")])


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


def test_x46_the_last_name_of_an_image_that_runs_goes_by_force_alone_and_the_data_stay(host: Host, image: str) -> None:
    host.run("container", "run", "-d", "--name", "user", image, "sleep", "1000")
    assert "used by container user" in host.run("image", "rm", image, code=1).err
    forced = host.run("image", "rm", "--force", image)
    assert forced.out == f"Untagged: {image}\n"
    assert "stays" in forced.err
    assert host.run("container", "exec", "user", "cat", "/etc/group").out.startswith("root:")


def test_x46_one_of_several_names_goes_though_containers_use_the_image(host: Host, image: str) -> None:
    host.run("image", "tag", image, "tools:1")
    host.run("container", "run", "-d", "--name", "user", image, "sleep", "1000")
    assert host.run("image", "rm", image).out == f"Untagged: {image}\n"
    assert "last name" in host.run("image", "rm", "tools:1", code=1).err


def test_x47_an_image_of_a_stopped_container_by_its_id(host: Host, image: str) -> None:
    short = host.run("image", "ls", "-q").out.strip()
    host.run("container", "run", "--name", "user", image, "true")
    assert "stopped container user" in host.run("image", "rm", short, code=1).err
    assert host.run("image", "rm", "--force", short).out == f"Untagged: {image}\n"
    host.run("container", "start", "user")


def test_several_images_are_removed_at_once_and_the_layers_they_share_with_others_stay(
    host: Host, tmp_path: Path
) -> None:
    base = busybox_archive()
    for name, layers in {"a": [base, layer("a")], "b": [base, layer("a"), layer("b")], "c": [base, layer("c")]}.items():
        write_layout(tmp_path / name, layers)
        host.run("image", "tag", host.run("image", "load", "-i", tmp_path / name).out.split()[-1], f"{name}:1")
    ids = {name: host.run("image", "inspect", f"{name}:1").json[0]["Id"] for name in "abc"}
    said = host.run("image", "rm", "a:1", "b:1").out.splitlines()
    assert said[:2] == ["Untagged: a:1", "Untagged: b:1"]
    assert set(said[2:4]) == {f"Deleted: {ids['a']}", f"Deleted: {ids['b']}"}
    # b's own layer and the one that only a and b had; the lowest is c's too.
    assert len(said) == 6 and len(set(said)) == 6
    left = {f"sha256:{path.name}" for path in (host.root / "layers").glob("?" * 64)}
    assert len(left) == 2
    assert left.isdisjoint(line.removeprefix("Deleted: ") for line in said)
    assert blobs(host) == 4


def test_what_a_generation_can_roll_back_to_stays_and_is_told(host: Host, image: str) -> None:
    registry = image.partition("/")[0]
    host.declare(registry, f"images: {{base: {image}}}")
    host.apply()
    host.declare(registry, f"images: {{other: {registry}/base:alien}}")
    host.apply()
    (mine,) = [item for item in host.run("image", "ls", "-o", "json").json if item["name"] == image]
    said = host.run("image", "rm", image)
    assert said.out == f"Untagged: {image}\n"
    assert f"{mine['id']} stays" in said.err
    assert mine["id"] in host.run("image", "ls", "-q", "--no-trunc").out


def test_history_tells_each_step_newest_first(host: Host, tmp_path: Path) -> None:
    history = [
        {"created": "2024-01-01T00:00:00Z", "created_by": "ADD rootfs\n  in two lines", "comment": "first"},
        {"created_by": "ENV A=b", "empty_layer": True, "author": "Jordan Bach"},
        {"created_by": "RUN " + "x" * 60},
    ]
    write_layout(tmp_path / "layout", [busybox_archive(), layer("a")], history=history)
    digest = host.run("image", "load", "-i", tmp_path / "layout").out.split()[-1]
    steps = host.run("image", "history", "-o", "json", digest).json
    assert [step["created_by"] for step in steps] == [step["created_by"] for step in reversed(history)]
    assert [step["empty_layer"] for step in steps] == [False, True, False]
    assert [step["compressed"] > 0 for step in steps] == [True, False, True]
    assert [step["image"] for step in steps] == [digest, None, None]
    lines = host.run("image", "history", digest).out.splitlines()
    assert lines[0].split() == ["IMAGE", "CREATED", "CREATED", "BY", "SIZE", "AUTHOR", "COMMENT"]
    assert "ADD rootfs in two lines" in lines[3] and "first" in lines[3]
    assert "Jordan Bach" in lines[2] and "  0B  " in lines[2]
    assert "…" in lines[1] and "x" * 60 in host.run("image", "history", "--no-trunc", digest).out
    assert host.run("image", "history", "-q", digest).out.splitlines() == [digest[7:19], "<missing>", "<missing>"]


def test_inspect_shows_what_there_is_and_fails_for_what_is_not(host: Host, image: str) -> None:
    found = host.run("image", "inspect", image, "absent", "Bad:Name:x", code=1)
    (seen,) = found.json
    assert found.err.count("error: ") == 2 and "'absent'" in found.err
    assert seen["RepoDigests"] == [f"{image.rpartition(':')[0]}@{seen['Id']}"]
    assert seen["Parent"] == "" and seen["GraphDriver"]["Name"] == "overlayfs"
    assert Path(seen["GraphDriver"]["Data"]["LowerDir"]).is_dir()
    assert "OCI" not in seen
    (documents,) = [host.run("image", "inspect", "--oci", image).json[0]["OCI"]]
    assert documents["manifest"]["config"]["digest"] == seen["Metadata"]["Config"]
    assert (documents["config"]["rootfs"]["diff_ids"], documents["index"]) == (seen["RootFS"]["Layers"], None)
    assert "one image" in host.run("image", "inspect", "--raw", "manifest", image, image, code=64).err
    assert "index" in host.run("image", "inspect", "--raw", "index", image, code=1).err


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
