"""Images that are chosen from an index, and images for another machine than they should be for."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from reconciler.oci.digest import Digest
from reconciler.oci.platform import Platform
from reconciler.testing.host import Host
from reconciler.testing.images import busybox_archive, push_image
from reconciler.testing.registry_server import RegistryServer

pytestmark = pytest.mark.root

HERE = Platform.host()
ELSEWHERE = "linux/riscv64" if HERE.architecture != "riscv64" else "linux/amd64"
_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def push_index(registry: RegistryServer, tag: str, digest: str, platform: str) -> Digest:
    """An index whose only entry is an image of the repository ``many``, said to be for ``platform``."""
    system, _, architecture = platform.partition("/")
    with urllib.request.urlopen(
        urllib.request.Request(f"{registry.url}/v2/many/manifests/{digest}", headers={"Accept": _MANIFEST})
    ) as answer:
        size = len(answer.read())
    entry = {"mediaType": _MANIFEST, "digest": digest, "size": size}
    entry["platform"] = {"os": system, "architecture": architecture}
    data = json.dumps({"schemaVersion": 2, "mediaType": _INDEX, "manifests": [entry]}).encode()
    url = f"{registry.url}/v2/many/manifests/{tag}"
    urllib.request.urlopen(
        urllib.request.Request(url, data, {"Content-Type": _INDEX}, method="PUT"), timeout=10
    ).close()
    return Digest.of(data)


@pytest.fixture(scope="module")
def image(registry: RegistryServer) -> str:
    """The digest of an image for this machine, ``many:single``."""
    return push_image(f"{registry.host}/many:single", busybox_archive({"many": "yes"}))


def layers(host: Host) -> list[Path]:
    return list((host.root / "layers").glob("*"))


def test_a_saved_plan_keeps_the_index_with_the_image(host: Host, registry: RegistryServer, image: str) -> None:
    index = push_index(registry, "index", image, str(HERE))
    host.declare(registry.host, f"images: {{app: {{pull: '{registry.host}/many:index', pull_policy: always}}}}")
    host.run("plan", host.specs, "--out", host.place / "saved")
    host.run("apply", host.place / "saved")
    assert (host.root / "blobs/sha256" / index.hex).is_file()
    before = registry.requests("GET", "/manifests/")
    assert host.is_converged()
    assert registry.requests("GET", "/manifests/") == before


@pytest.mark.parametrize("tag", ["single", "lying"])
def test_p52_an_image_for_another_platform_is_not_pulled(
    host: Host, registry: RegistryServer, image: str, tag: str
) -> None:
    push_index(registry, "lying", image, ELSEWHERE)
    host.declare(registry.host, f"images: {{app: {{pull: '{registry.host}/many:{tag}', platform: {ELSEWHERE}}}}}")
    said = host.apply(code=None).text
    assert f"is for {HERE}, not for {ELSEWHERE}" in said
    assert layers(host) == []
    assert host.run("image", "ls", "-o", "json").json == []


def test_p52_a_stored_image_for_another_platform_is_told_without_asking(
    host: Host, registry: RegistryServer, image: str
) -> None:
    reference = f"{registry.host}/many:single"
    host.declare(registry.host, f"images: {{app: {reference}}}")
    host.apply()
    asked = registry.requests("HEAD", "/manifests/") + registry.requests("GET", "/manifests/")
    host.declare(registry.host, f"images: {{app: {reference}, other: {{pull: '{reference}', platform: {ELSEWHERE}}}}}")
    assert f"is for {HERE}, not for {ELSEWHERE}" in host.run("plan", host.specs, code=1).text
    assert registry.requests("HEAD", "/manifests/") + registry.requests("GET", "/manifests/") == asked
