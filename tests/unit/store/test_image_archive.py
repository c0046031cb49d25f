"""Image archives as tools write them, and as nobody should (cases S53, R77)."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.errors import IntegrityError, InvalidError, LimitError
from reconciler.oci import media
from reconciler.oci.digest import Digest
from reconciler.oci.manifest import MAX_MANIFEST_BYTES, Manifest, parse_manifest
from reconciler.oci.platform import Platform
from reconciler.store.image_archive import files as image_files
from reconciler.store.image_archive.files import ArchiveFiles, DirectoryFiles, seekable
from reconciler.store.image_archive.reader import ArchivedImage, Candidate, images_of

HERE = Platform.parse("linux/amd64")
ARM = Platform.parse("linux/arm64")
LAYER = b"no layer, but bytes"
LINK = "link to "


def dump(document: Any) -> bytes:
    return json.dumps(document).encode()


def tar(files: Mapping[str, bytes | str]) -> bytes:
    """An archive of files; a text is where a symbolic link of that name leads to."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            else:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content if isinstance(content, bytes) else b""))
    return output.getvalue()


class Layout:
    """Collects the files of an OCI layout."""

    def __init__(self) -> None:
        self.files: dict[str, bytes | str] = {"oci-layout": dump({"imageLayoutVersion": "1.0.0"})}

    def blob(self, media_type: str, data: bytes, **fields: Any) -> dict[str, Any]:
        digest = Digest.of(data)
        self.files[f"blobs/sha256/{digest.hex}"] = data
        return {"mediaType": media_type, "digest": digest, "size": len(data), **fields}

    def image(self, platform: Platform = HERE, seed: str = "", **fields: Any) -> dict[str, Any]:
        layer = self.blob(media.OCI_LAYER, LAYER + seed.encode())
        rootfs = {"type": "layers", "diff_ids": [layer["digest"]]}
        config = {"os": platform.os, "architecture": platform.architecture, "rootfs": rootfs}
        manifest = {
            "schemaVersion": 2,
            "config": self.blob(media.OCI_CONFIG, dump(config)),
            "layers": [layer],
        }
        described = {"os": platform.os, "architecture": platform.architecture}
        return self.blob(media.OCI_MANIFEST, dump(manifest), platform=described, **fields)

    def index(self, *entries: Any, **fields: Any) -> dict[str, Any]:
        return self.blob(media.OCI_INDEX, dump({"schemaVersion": 2, "manifests": entries}), **fields)

    def close(self, *entries: Any) -> dict[str, bytes | str]:
        return {**self.files, "index.json": dump({"schemaVersion": 2, "manifests": entries})}


def candidates(files: Mapping[str, bytes | str], platform: Platform = HERE) -> list[Candidate]:
    return images_of(ArchiveFiles(io.BytesIO(tar(files))), platform)


def read_all(archived: ArchivedImage) -> None:
    """Takes every blob out of an image, as a load does. Raises ``IntegrityError``."""
    manifest = parse_manifest(archived.manifest)
    assert isinstance(manifest, Manifest)
    for blob in manifest.blobs:
        with archived.blob(blob) as stream:
            if hashlib.sha256(stream.read(blob.size + 1)).hexdigest() != blob.digest.hex:
                raise IntegrityError("other bytes")


def named(name: str, key: str = "org.opencontainers.image.ref.name") -> dict[str, Any]:
    return {"annotations": {key: name}}


# As tools write them


def test_a_layout_offers_its_images_under_their_names() -> None:
    layout = Layout()
    one, two = layout.image(), layout.image(seed="2")
    found = candidates(layout.close({**one, **named("1.0")}, {**one, **named("latest")}, two))
    assert [sorted(candidate.names) for candidate in found] == [[], ["1.0", "latest"]]
    for candidate in found:
        read_all(candidate.read())


def test_an_index_of_several_platforms_gives_the_image_for_the_one_asked_for() -> None:
    layout = Layout()
    nested = layout.index(layout.image(ARM), layout.image(), **named("app:1"))
    files = layout.close(nested)
    for platform in (HERE, ARM):
        (found,) = candidates(files, platform)
        archived = found.read()
        assert archived.index is not None
        assert Digest.of(archived.index) == nested["digest"]
        assert Digest.of(archived.manifest) == layout.image(platform)["digest"]
    with pytest.raises(InvalidError, match=r"available: linux/amd64, linux/arm64"):
        candidates(files, Platform.parse("linux/s390x"))[0].read()


def test_of_two_images_with_one_name_the_one_for_the_platform_is_meant() -> None:
    layout = Layout()
    files = layout.close({**layout.image(ARM), **named("app:1")}, {**layout.image(), **named("app:1")})
    (found,) = candidates(files)
    assert Digest.of(found.read().manifest) == layout.image()["digest"]


def test_attestations_and_artifacts_of_a_layout_are_not_offered() -> None:
    layout = Layout()
    attestation = layout.image(Platform("unknown", "unknown"), "a")
    artifact = layout.image(seed="b", artifactType="application/x")
    assert len(candidates(layout.close(attestation, layout.image(), artifact))) == 1


def docker_files(*, old: bool, tags: Any = None) -> dict[str, bytes | str]:
    """What `docker save` writes: blobs since 25, before that a directory for each layer and links to equal ones."""
    rootfs = {"type": "layers", "diff_ids": [Digest.of(LAYER), Digest.of(LAYER)]}
    config = dump({"os": "linux", "architecture": "amd64", "rootfs": rootfs})
    one, two = "1" * 64, "2" * 64
    if old:
        files: dict[str, bytes | str] = {f"{one}/VERSION": b"1.0", f"{one}/json": b"{}", f"{one}/layer.tar": LAYER}
        files |= {f"{two}/layer.tar": f"../{one}/layer.tar", "repositories": dump({"app": {"1": two}})}
        name, layers = f"{Digest.of(config).hex}.json", [f"{one}/layer.tar", f"{two}/layer.tar"]
    else:
        files, name = {}, f"blobs/sha256/{Digest.of(config).hex}"
        layers = [f"blobs/sha256/{Digest.of(LAYER).hex}"] * 2
        files[layers[0]] = LAYER
    entry = {"Config": name, "RepoTags": tags, "Layers": layers}
    return {**files, name: config, "manifest.json": dump([entry])}


@pytest.mark.parametrize("old", [True, False])
def test_a_docker_archive_offers_its_images(old: bool) -> None:
    (found,) = candidates(docker_files(old=old, tags=["app:1", "app:2"]))
    assert found.names == ("app:1", "app:2")
    archived = found.read()
    read_all(archived)
    manifest = parse_manifest(archived.manifest)
    assert isinstance(manifest, Manifest)
    assert [layer.digest for layer in manifest.layers] == [Digest.of(LAYER)] * 2
    assert candidates(docker_files(old=old))[0].names == ()


def test_what_holds_both_forms_is_read_as_a_layout() -> None:
    layout = Layout()
    (found,) = candidates(
        {**docker_files(old=False, tags=["docker:1"]), **layout.close({**layout.image(), **named("oci:1")})}
    )
    assert found.names == ("oci:1",)


def test_a_directory_is_a_layout_too(tmp_path: Path) -> None:
    layout = Layout()
    for name, content in layout.close(layout.image()).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else b"")
    (found,) = images_of(DirectoryFiles(tmp_path), HERE)
    read_all(found.read())
    (tmp_path / "index.json").unlink()
    os.mkfifo(tmp_path / "index.json")
    with pytest.raises(InvalidError):
        images_of(DirectoryFiles(tmp_path), HERE)


def test_embedded_data_stands_in_for_a_blob() -> None:
    layout = Layout()
    entry = layout.image()
    data = layout.files.pop(f"blobs/sha256/{entry['digest'].hex}")
    assert isinstance(data, bytes)
    (found,) = candidates(layout.close({**entry, "data": base64.b64encode(data).decode()}))
    read_all(found.read())


# As nobody should


@pytest.mark.parametrize("digest", ["sha256:../../../etc/passwd", "sha256:" + "A" * 64, "sha256:x", "../x"])
def test_r77_s53_a_bad_digest_is_refused_before_any_path_is_made(digest: str) -> None:
    layout = Layout()
    with pytest.raises(InvalidError, match="digest"):
        candidates(layout.close({**layout.image(), "digest": digest}))


def test_s53_documents_are_refused_by_their_size_before_they_are_read(tmp_path: Path) -> None:
    info = tarfile.TarInfo("index.json")
    info.size = 10 << 30
    huge = tmp_path / "huge.tar"
    huge.write_bytes(info.tobuf())
    os.truncate(huge, 512 + info.size)
    with huge.open("rb") as stream, pytest.raises(InvalidError, match="bytes"):
        ArchiveFiles(stream)
    layout = Layout()
    entry = layout.blob(media.OCI_MANIFEST, b" " * (MAX_MANIFEST_BYTES + 1))
    with pytest.raises(InvalidError, match="more than"):
        candidates(layout.close(entry))[0].read()


def test_s53_members_are_bounded() -> None:
    member = tarfile.TarInfo("x").tobuf()
    with pytest.raises(InvalidError, match="members"):
        ArchiveFiles(io.BytesIO(member * (image_files.MAX_MEMBERS + 1)))


@pytest.mark.parametrize("place", ["../../../etc/passwd", "/etc/passwd", "loop", "missing"])
def test_s53_names_and_links_lead_to_members_only(place: str) -> None:
    files = {**docker_files(old=False), "loop": "loop", "out": place}
    entry = json.loads(files["manifest.json"])[0]
    for changed in ({"Config": place}, {"Config": "out"}, {"Layers": [place, "out"]}):
        with pytest.raises(InvalidError):
            candidates({**files, "manifest.json": dump([{**entry, **changed}])})[0].read()


@pytest.mark.parametrize(
    "changed",
    [
        {"RepoTags": "app:1"},
        {"RepoTags": [1]},
        {"Config": None},
        {"Config": 5},
        {"Layers": []},
        {"Layers": "x"},
        {"Layers": [1, 2]},
        {"Layers": [{}]},
    ],
)
def test_malformed_docker_archives(changed: dict[str, Any]) -> None:
    files = docker_files(old=False)
    assert isinstance(files["manifest.json"], bytes)
    entry = json.loads(files["manifest.json"])[0]
    with pytest.raises(InvalidError):
        candidates({**files, "manifest.json": dump([{**entry, **changed}])})[0].read()


@pytest.mark.parametrize(
    "changed",
    [
        {"oci-layout": dump({"imageLayoutVersion": "2.0.0"})},
        {"oci-layout": b"x"},
        {"oci-layout": dump([])},
        {"index.json": b"[]"},
        {"index.json": dump({"manifests": {}})},
        {"index.json": dump({"schemaVersion": 2, "config": {}, "layers": []})},
    ],
)
def test_malformed_layouts(changed: dict[str, bytes]) -> None:
    layout = Layout()
    with pytest.raises(InvalidError):
        candidates({**layout.close(layout.image()), **changed})


def test_a_layout_without_its_mark_is_refused() -> None:
    layout = Layout()
    files = layout.close(layout.image())
    del files["oci-layout"]
    with pytest.raises(InvalidError, match="oci-layout"):
        candidates(files)


def test_a_document_that_is_there_twice_is_refused() -> None:
    layout = Layout()
    files = layout.close(layout.image())
    for name in ("index.json", "./index.json", "blobs/../index.json"):
        data = tar(files)[: -2 * 512].rstrip(b"\0")
        data += bytes(-len(data) % 512) + tar({name: dump({"manifests": []})})
        with pytest.raises(InvalidError, match="twice"):
            ArchiveFiles(io.BytesIO(data))


def test_other_bytes_under_a_digest_are_refused() -> None:
    layout = Layout()
    entry = layout.image()
    layout.files[f"blobs/sha256/{entry['digest'].hex}"] = dump({"schemaVersion": 2})
    with pytest.raises(IntegrityError):
        candidates(layout.close(entry))[0].read()


@pytest.mark.parametrize("data", [b"", b"x" * 1000, bytes(10240), b"\x1f\x8b" + b"x" * 1000, b"\x28\xb5\x2f\xfdxxx"])
def test_what_is_no_archive_at_all(data: bytes, tmp_path: Path) -> None:
    with pytest.raises((InvalidError, IntegrityError)), seekable(io.BytesIO(data), tmp_path) as stream:
        images_of(ArchiveFiles(stream), HERE)
    assert list(tmp_path.iterdir()) == []


def load(data: bytes) -> None:
    for candidate in images_of(ArchiveFiles(io.BytesIO(data)), HERE):
        read_all(candidate.read())


def layout_files() -> dict[str, bytes | str]:
    layout = Layout()
    return layout.close(layout.index(layout.image(ARM), layout.image(), **named("app:1")))


WHOLE = [tar(layout_files()), tar(docker_files(old=True)), tar(docker_files(old=False))]


@pytest.mark.parametrize("data", WHOLE)
def test_a_cut_archive_is_never_another_exception(data: bytes) -> None:
    load(data)
    end = len(data.rstrip(b"\0"))
    for length in range(0, end, 256):
        with pytest.raises((InvalidError, IntegrityError)):
            load(data[:length])


@settings(deadline=None, max_examples=5 * settings().max_examples, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(WHOLE), st.data())
def test_a_changed_archive_is_never_another_exception(data: bytes, choices: st.DataObject) -> None:
    for _ in range(choices.draw(st.integers(1, 4))):
        at = choices.draw(st.integers(0, len(data)))
        data = data[:at] + choices.draw(st.binary(max_size=4)) + data[at + choices.draw(st.integers(0, 600)) :]
    with contextlib.suppress(InvalidError, IntegrityError, LimitError):
        load(data)
