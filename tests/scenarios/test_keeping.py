"""What garbage collection keeps: what specs declare, and the images of the last applies."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from reconciler.testing.host import Host
from reconciler.testing.images import busybox_archive, push_image
from reconciler.testing.registry_server import RegistryServer

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def digests(registry: RegistryServer) -> list[str]:
    """Four images, ``kept:0`` to ``kept:3``."""
    return [push_image(f"{registry.host}/kept:{n}", busybox_archive({"version": f"{n}\n"})) for n in range(4)]


@pytest.fixture
def declare(host: Host, registry: RegistryServer) -> Callable[[int, int], None]:
    """Declares and applies one of the images, for no container, with a number of generations to keep."""

    def declare(number: int, keep: int) -> None:
        host.declare(
            registry.host,
            f"""\
            images: {{app: {registry.host}/kept:{number}}}
            retention: {{images: {{keep_generations: {keep}, unused_for: 0s}}}}
            """,
        )
        host.apply()

    return declare


def stored(host: Host) -> set[str]:
    return {image["id"] for image in host.run("image", "ls", "-o", "json").json}


def layers(host: Host) -> set[str]:
    """The layers that have anything on disk, be it a list of files."""
    return {path.name[:64] for path in (host.root / "layers").iterdir()}


def test_s19_what_specs_declare_is_kept_though_no_container_uses_it(
    host: Host, digests: list[str], declare: Callable[[int, int], None]
) -> None:
    declare(0, 0)
    assert host.run("gc", "-o", "json").json["items"] == []
    assert stored(host) == {digests[0]}
    assert host.is_converged()


def test_s20_the_images_of_the_last_generations_are_kept_and_no_more(
    host: Host, digests: list[str], declare: Callable[[int, int], None]
) -> None:
    for number in range(4):
        declare(number, 2)
    host.run("gc")
    assert stored(host) == set(digests[2:])
    assert {path.name for path in (host.root / "blobs/sha256").iterdir()} >= {d.split(":")[1] for d in digests[2:]}
    assert len(layers(host)) == 2


def test_s20_without_generations_only_what_is_declared_is_kept(
    host: Host, digests: list[str], declare: Callable[[int, int], None]
) -> None:
    declare(0, 0)
    declare(1, 0)
    host.run("gc")
    assert stored(host) == {digests[1]}
    assert len(layers(host)) == 1
    assert host.is_converged()


def test_a_daemon_keeps_what_the_rule_says_and_no_more(
    host: Host, digests: list[str], declare: Callable[[int, int], None]
) -> None:
    declare(0, 1)
    declare(1, 1)
    assert stored(host) == set(digests[:2])
    daemon = host.start("daemon", host.specs, "--interval", "1s", log=True)
    host.until(lambda: stored(host) == {digests[1]})
    host.until(lambda: len(layers(host)) == 1)
    daemon.terminate()
    assert host.finish(daemon).code == 143
    assert host.is_converged()


def test_why_follows_a_layer_to_what_needs_it(
    host: Host, digests: list[str], declare: Callable[[int, int], None]
) -> None:
    declare(0, 2)
    declare(1, 2)
    images = {image["id"]: image for image in host.run("image", "ls", "-o", "json").json}
    assert set(images) == set(digests[:2])
    assert "kept by generation 1: image/shop/app" in host.run("why", digests[0]).out
    kept = host.run("why", digests[1].removeprefix("sha256:")[:16]).out
    assert "kept by image shop/app: declared by stack shop" in kept
    assert "kept by generation 2: image/shop/app" in kept
    declare(1, 1)
    told = host.run("why", digests[0]).out
    assert "nothing keeps it: gc frees" in told
    freed = host.run("gc").out
    assert digests[0].removeprefix("sha256:")[:12] in freed
    assert "nothing in this store has a digest that begins with" in host.run("why", digests[0], code=1).err
