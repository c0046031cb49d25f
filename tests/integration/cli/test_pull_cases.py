"""Pulls of images that are odd, or broken where they were built (cases P43 to P58)."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard

from reconciler.oci import media
from reconciler.oci.digest import Digest
from reconciler.oci.platform import Platform
from reconciler.testing.host import Host
from reconciler.testing.images import archive, entry, write_layout
from reconciler.testing.registry_server import RegistryServer
from reconciler.testing.scripted_registry import FOREVER, ScriptedRegistry, Step

pytestmark = pytest.mark.root

HERE = Platform.host()
ELSEWHERE = Platform("linux", "riscv64" if HERE.architecture != "riscv64" else "amd64")
LAYER, OTHER_LAYER = archive([]), archive([entry("other", b"other")])


class Repository:
    """The repository ``app`` of a registry: blobs as they are put there, and one tag."""

    def __init__(self, registry: ScriptedRegistry) -> None:
        self.registry = registry

    @property
    def reference(self) -> str:
        return f"{self.registry.host}/app:1"

    def blob(self, media_type: str, content: bytes, *, served: bool = True, **fields: Any) -> dict[str, Any]:
        descriptor = {"mediaType": media_type, "digest": str(Digest.of(content)), "size": len(content), **fields}
        if served:
            self.registry.on(f"GET /v2/app/blobs/{descriptor['digest']}", Step(200, content, times=FOREVER))
        return descriptor

    def config(self, platform: Platform = HERE, layers: int = 1, **fields: Any) -> bytes:
        diff_id = str(Digest.of(gzip.decompress(LAYER)))
        rootfs = {"type": "layers", "diff_ids": [diff_id] * layers}
        return json.dumps(
            {"os": platform.os, "architecture": platform.architecture, "rootfs": rootfs, **fields}
        ).encode()

    def image(self, media_type: str = media.OCI_MANIFEST, **fields: Any) -> dict[str, Any]:
        return {
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": self.blob(media.OCI_CONFIG, self.config()),
            "layers": [self.blob(media.OCI_LAYER_GZIP, LAYER)],
            **fields,
        }

    def serve(self, document: Any, content_type: str | None = None, *, tag: str = "1") -> bytes:
        """Puts a manifest under its digest and the tag, with the Content-Type given or its own."""
        data = document if isinstance(document, bytes) else json.dumps(document, indent=1).encode()
        kind = content_type if content_type is not None else document["mediaType"]
        headers = {"Content-Type": kind, "Docker-Content-Digest": str(Digest.of(data))}
        for name in (tag, str(Digest.of(data))):
            for method in ("HEAD", "GET"):
                self.registry.on(f"{method} /v2/app/manifests/{name}", Step(200, data, headers, times=FOREVER))
        return data

    def entry(self, document: dict[str, Any], platform: Platform | None, **fields: Any) -> dict[str, Any]:
        """Puts a manifest there and gives the entry of an index for it."""
        data = self.serve(document, tag="none")
        described = {"os": platform.os, "architecture": platform.architecture} if platform else None
        entry = {"mediaType": document["mediaType"], "digest": str(Digest.of(data)), "size": len(data), **fields}
        return {**entry, "platform": described} if described else entry


@pytest.fixture
def repository() -> Any:
    with ScriptedRegistry() as registry:
        registry.on("GET /v2/ ", Step(200, b"{}", times=FOREVER))
        yield Repository(registry)


def pull(host: Host, repository: Repository, *arguments: str, code: int = 0) -> str:
    result = host.run("image", "pull", "--plain-http", *arguments, repository.reference, code=code)
    if code:
        assert host.run("image", "ls", "-q").out == "", "a refused image was recorded"
        assert list(host.root.glob("layers/*")) == []
    return result.text if code else result.out.strip()


def raw(host: Host, name: str, kind: str = "manifest") -> bytes:
    return host.run("image", "inspect", "--raw", kind, name).out.encode()


@pytest.mark.parametrize("header", ["text/plain", "", f"{media.DOCKER_MANIFEST}; charset=utf-8"])
def test_p43_what_a_header_does_not_tell_the_body_does(host: Host, repository: Repository, header: str) -> None:
    data = repository.serve(repository.image(media.DOCKER_MANIFEST), header)
    assert pull(host, repository) == Digest.of(data)
    assert host.run("image", "inspect", repository.reference).json[0]["Metadata"]["MediaType"] == media.DOCKER_MANIFEST


def test_p44_a_manifest_served_as_another_kind_is_refused(host: Host, repository: Repository) -> None:
    repository.serve(repository.image(media.OCI_MANIFEST), media.DOCKER_MANIFEST)
    assert "was served as" in pull(host, repository, code=1)


def test_p44_an_image_that_is_an_index_too_is_refused(host: Host, repository: Repository) -> None:
    repository.serve(repository.image(manifests=[]))
    assert "an image and what belongs to an index" in pull(host, repository, code=1)


def test_p46_schema_1_is_refused(host: Host, repository: Repository) -> None:
    repository.serve({"schemaVersion": 1, "fsLayers": []}, media.DOCKER_SCHEMA1_SIGNED)
    said = pull(host, repository, code=1)
    assert "schema 1" in said


def test_p47_mixed_types_are_pulled_and_the_bytes_stay_as_they_were(host: Host, repository: Repository) -> None:
    config = repository.blob(media.DOCKER_CONFIG, repository.config(layers=2, odd={"kept": [1, 2.50, "é"]}))
    layers = [repository.blob(kind, LAYER) for kind in (media.OCI_LAYER_GZIP, media.DOCKER_LAYER_GZIP)]
    data = repository.serve(repository.image(config=config, layers=layers, odd="kept", annotations={"a": "b"}))
    assert pull(host, repository) == Digest.of(data)
    assert raw(host, repository.reference) == data
    assert raw(host, repository.reference, "config") == repository.config(layers=2, odd={"kept": [1, 2.50, "é"]})


def test_p49_attestations_are_not_taken_for_the_image(host: Host, repository: Repository) -> None:
    attestation = repository.entry(
        repository.image(annotations={"x": "y"}),
        HERE,
        annotations={"vnd.docker.reference.type": "attestation-manifest"},
    )
    unknown = repository.entry(repository.image(annotations={"x": "z"}), Platform("unknown", "unknown"))
    artifact = repository.entry(repository.image(annotations={"x": "a"}), HERE, artifactType="application/x")
    wanted = repository.entry(repository.image(), HERE)
    index = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [attestation, unknown, artifact, wanted]}
    data = repository.serve(index)
    assert pull(host, repository) == wanted["digest"]
    assert raw(host, repository.reference, "index") == data


@pytest.mark.parametrize("platform", [HERE, ELSEWHERE], ids=["fits", "does not"])
def test_p49_an_entry_without_a_platform_is_taken_if_its_config_fits(
    host: Host, repository: Repository, platform: Platform
) -> None:
    config = repository.blob(media.OCI_CONFIG, repository.config(platform))
    only = repository.entry(repository.image(config=config), None)
    repository.serve({"schemaVersion": 2, "mediaType": media.DOCKER_INDEX, "manifests": [only]})
    if platform == HERE:
        assert pull(host, repository) == only["digest"]
    else:
        assert f"is for {ELSEWHERE}, not for {HERE}" in pull(host, repository, code=1)


def test_p50_what_there_is_is_told_when_nothing_fits(host: Host, repository: Repository) -> None:
    entries = [repository.entry(repository.image(), Platform("linux", name)) for name in ("s390x", "mips64le")]
    repository.serve({"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": entries})
    assert f"for platform {HERE}; available: linux/mips64le, linux/s390x" in pull(host, repository, code=1)


def test_p52_an_index_that_lies_of_a_platform_is_not_believed_unless_forced(host: Host, repository: Repository) -> None:
    config = repository.blob(media.OCI_CONFIG, repository.config(ELSEWHERE))
    lying = repository.entry(repository.image(config=config), HERE)
    repository.serve({"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [lying]})
    assert f"for {ELSEWHERE}" in pull(host, repository, code=1)
    forced = f"{repository.registry.host}/app@{lying['digest']}"
    assert host.run("image", "pull", "--plain-http", forced).out.strip() == lying["digest"]


def test_p53_layers_that_the_config_does_not_count_are_refused(host: Host, repository: Repository) -> None:
    for config in (repository.config(layers=2), repository.config(rootfs={"type": "other", "diff_ids": []})):
        tag = Digest.of(config).hex[:8]
        repository.serve(repository.image(config=repository.blob(media.OCI_CONFIG, config)), tag=tag)
        said = host.run("image", "pull", "--plain-http", f"{repository.registry.host}/app:{tag}", code=1).err
        assert "2 diff IDs" in said or "rootfs.type" in said
    assert host.run("image", "ls", "-q").out == ""
    assert repository.registry.count(f"GET /v2/app/blobs/{Digest.of(LAYER)}") == 0


def test_p55_an_artifact_is_pulled_named_saved_and_pushed_and_does_not_run(
    host: Host, repository: Repository, registry: RegistryServer, tmp_path: Path
) -> None:
    chart = repository.blob("application/vnd.example.chart.layer.v1", b"a chart")
    config = repository.blob("application/vnd.example.chart.config.v1+json", b"no JSON at all")
    data = repository.serve(repository.image(config=config, layers=[chart]))
    assert pull(host, repository) == Digest.of(data)
    assert pull(host, repository) == Digest.of(data)
    assert raw(host, repository.reference) == data
    (seen,) = host.run("image", "inspect", "--oci", repository.reference).json
    assert (seen["RootFS"]["Layers"], seen["OCI"]["config"]) == ([], None)
    assert host.run("image", "ls", "-o", "json").json[0]["platform"] == "unknown/unknown"
    for command in (("container", "run", "--rm"), ("image", "history")):
        said = host.run(*command, repository.reference, code=None)
        assert said.code in (1, 125) and "is an artifact (application/vnd.example.chart.config.v1+json)" in said.err
    target = f"{registry.host}/charts/app:1"
    host.run("image", "tag", repository.reference, target)
    assert host.run("image", "push", "--plain-http", target).out == f"{Digest.of(data)}\n"
    host.run("image", "save", "--format", "oci", "-o", tmp_path / "saved.tar", target)
    with tarfile.open(tmp_path / "saved.tar") as saved:
        assert f"blobs/sha256/{chart['digest'][7:]}" in saved.getnames()
    host.declare(repository.registry.host, f"images: {{app: {{pull: '{repository.reference}', pull_policy: always}}}}")
    assert "artifact" in host.run("plan", host.specs, code=1).text
    host.run("image", "rm", repository.reference, target)
    assert list((host.root / "blobs/sha256").iterdir()) == []


@pytest.mark.parametrize("suffix", ["+encrypted", "+gzip+encrypted", "+lzma", ".x"])
def test_p56_a_layer_of_an_unknown_kind_is_refused_before_any_is_fetched(
    host: Host, repository: Repository, suffix: str
) -> None:
    layers = [repository.blob(media.OCI_LAYER_GZIP, LAYER), repository.blob(media.OCI_LAYER + suffix, OTHER_LAYER)]
    config = repository.blob(media.OCI_CONFIG, repository.config(layers=2))
    repository.serve(repository.image(config=config, layers=layers))
    said = pull(host, repository, code=1)
    assert f"unsupported type {media.OCI_LAYER + suffix}" in said.replace("'", "")
    for layer in (LAYER, OTHER_LAYER):
        assert repository.registry.count(f"GET /v2/app/blobs/{Digest.of(layer)}") == 0


def test_p56_a_zstd_layer_is_unpacked(host: Host, repository: Repository) -> None:
    """In two frames, as parallel compressors write it."""
    plain = gzip.decompress(archive([entry("data", b"of zstd" * 1000)]))
    packed = b"".join(zstandard.compress(part) for part in (plain[:1000], plain[1000:]))
    config = repository.config(rootfs={"type": "layers", "diff_ids": [str(Digest.of(plain))]})
    layers = [repository.blob(media.OCI_LAYER_ZSTD, packed)]
    document = repository.image(config=repository.blob(media.OCI_CONFIG, config), layers=layers)
    data = repository.serve(document)
    assert pull(host, repository) == Digest.of(data)
    (directory,) = (path for path in (host.root / "layers").iterdir() if path.is_dir())
    assert (directory / "data").read_bytes() == b"of zstd" * 1000


def test_p56_a_zstd_layer_that_skopeo_pushed_is_unpacked(host: Host, registry: RegistryServer, tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", [LAYER, archive([entry("data", b"of zstd")])])
    target = f"{registry.host}/zstd:1"
    command = ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-compress-format", "zstd"]
    subprocess.run([*command, "--dest-tls-verify=false", f"oci:{tmp_path}/layout", f"docker://{target}"], check=True)
    host.run("image", "pull", "--plain-http", target)
    manifest = json.loads(raw(host, target))
    assert {layer["mediaType"] for layer in manifest["layers"]} == {media.OCI_LAYER_ZSTD}
    assert [path.read_bytes() for path in (host.root / "layers").glob("*/data")] == [b"of zstd"]


def test_p58_embedded_data_saves_the_fetch_and_wrong_data_does_not(host: Host, repository: Repository) -> None:
    config = repository.config(author="embedded")
    embedded = base64.b64encode(config).decode()
    repository.serve(repository.image(config=repository.blob(media.OCI_CONFIG, config, served=False, data=embedded)))
    pull(host, repository)
    assert host.run("image", "inspect", repository.reference).json[0]["Author"] == "embedded"
    other = repository.config(author="fetched")
    wrong = base64.b64encode(other.replace(b"fetched", b"forgery")).decode()
    repository.serve(repository.image(config=repository.blob(media.OCI_CONFIG, other, data=wrong)), tag="2")
    host.run("image", "pull", "--plain-http", f"{repository.registry.host}/app:2")
    assert host.run("image", "inspect", f"{repository.registry.host}/app:2").json[0]["Author"] == "fetched"
    assert repository.registry.count(f"GET /v2/app/blobs/sha256:{hashlib.sha256(other).hexdigest()}") == 1


def test_an_image_whose_platform_is_no_word_does_not_spoil_the_list(host: Host, repository: Repository) -> None:
    """A platform with a slash or an escape in it, once recorded, could not be read back."""
    hostile = Platform("linux", "am\x1b[31md64/x")
    repository.serve(repository.image(config=repository.blob(media.OCI_CONFIG, repository.config(hostile))))
    assert "malformed platform" in pull(host, repository, code=1)
    assert host.run("image", "ls").out.startswith("REPOSITORY")
