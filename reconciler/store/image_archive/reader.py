"""Images in archives: OCI layouts (image-spec, image-layout.md), and docker-archives as ``docker save`` writes them.

Names in an archive say which image is which, and no more. Digests are checked before they are used for anything, and
documents are bounded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import field
from functools import partial
from typing import Any, BinaryIO

from reconciler.errors import IntegrityError, InvalidError
from reconciler.oci import media
from reconciler.oci.config import MAX_CONFIG_BYTES, ImageConfig
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.document import read_document, read_object, text_field, texts_field
from reconciler.oci.manifest import Index, Manifest, is_attestation, parse_manifest
from reconciler.oci.platform import Platform
from reconciler.oci.sizes import DEFAULT_MANIFEST_BYTES
from reconciler.store.archive.compression import detect
from reconciler.store.image_archive.files import ImageFiles, read_file
from reconciler.value import dataclass

REF_NAME = "org.opencontainers.image.ref.name"
FULL_NAME = "io.containerd.image.name"
LAYOUT = "oci-layout"
INDEX = "index.json"
DOCKER_MANIFEST = "manifest.json"
_KINDS = {"gzip": media.OCI_LAYER_GZIP, "zstd": media.OCI_LAYER_ZSTD, "none": media.OCI_LAYER}


@dataclass(frozen=True, slots=True)
class ArchivedImage:
    """One image: the bytes of its manifest, those of the index it was chosen from, and where its blobs come from.

    What ``blob`` gives is not verified.
    """

    manifest: bytes
    index: bytes | None
    blob: Callable[[Descriptor], BinaryIO]


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image that an archive offers under ``names``, which are as the archive has them. ``read`` reads it."""

    names: tuple[str, ...]
    read: Callable[[], ArchivedImage] = field(compare=False)


def images_of(files: ImageFiles, platform: Platform) -> list[Candidate]:
    """The images in an archive; of one for several platforms the one that suits ``platform``.

    Raises ``InvalidError``: for what is no image archive, and, here or when an image is read, for a damaged one.
    """
    if files.has(INDEX):
        return _of_layout(files, platform)
    if files.has(DOCKER_MANIFEST):
        return _of_docker(files)
    raise InvalidError(
        "it is neither an OCI layout nor a docker-archive",
        hint="the archive of a root filesystem is imported: `import:` in a spec, `image import` by hand",
    )


def blob_name(digest: Digest) -> str:
    """Where a layout has a blob."""
    return f"blobs/{digest.algorithm}/{digest.hex}"


# OCI layouts


def _of_layout(files: ImageFiles, platform: Platform) -> list[Candidate]:
    header = read_object(read_file(files, LAYOUT, DEFAULT_MANIFEST_BYTES), LAYOUT, DEFAULT_MANIFEST_BYTES)
    version = text_field(header, "imageLayoutVersion", LAYOUT)
    if version.partition(".")[0] != "1":
        raise InvalidError(f"an OCI layout of version {version[:20]!a} is not known", hint="version 1.0.0 is")
    index = parse_manifest(read_file(files, INDEX, DEFAULT_MANIFEST_BYTES), media.OCI_INDEX)
    assert isinstance(index, Index)
    offered = [
        entry
        for entry in index.manifests
        if entry.media_type in media.MANIFESTS | media.INDEXES and not entry.artifact_type and not is_attestation(entry)
    ]
    return [
        Candidate(tuple(dict.fromkeys(names)), partial(_read_layout, files, entry, platform))
        for entry, names in _one_of_each_name(offered, platform).items()
    ]


def _one_of_each_name(entries: list[Descriptor], platform: Platform) -> dict[Descriptor, list[str]]:
    """The entries with their names; of several images with one name the one that suits the platform."""
    named: dict[tuple[str, ...], list[Descriptor]] = {}
    found: dict[Descriptor, list[str]] = {}
    for entry in entries:
        names = tuple(entry.annotations[key] for key in (FULL_NAME, REF_NAME) if key in entry.annotations)
        if not names:
            found.setdefault(entry, [])
        elif entry not in named.setdefault(names, []):
            named[names].append(entry)
    for names, same in named.items():
        entry = same[0] if len(same) == 1 else Index(media.OCI_INDEX, tuple(same)).choose(platform)
        found.setdefault(entry, []).extend(names)
    return found


def _read_layout(files: ImageFiles, entry: Descriptor, platform: Platform) -> ArchivedImage:
    data, index = _document(files, entry), None
    parsed = parse_manifest(data, entry.media_type)
    if isinstance(parsed, Index):
        chosen, index = parsed.choose(platform), data
        data = _document(files, chosen)
    return ArchivedImage(data, index, lambda blob: files.open(blob_name(blob.digest)))


def _document(files: ImageFiles, descriptor: Descriptor) -> bytes:
    data = descriptor.data or read_file(files, blob_name(descriptor.digest), DEFAULT_MANIFEST_BYTES)
    if Digest.of(data) != descriptor.digest or len(data) != descriptor.size:
        raise IntegrityError(
            f"blob {descriptor.digest} in the image archive has other bytes", hint="make the archive again"
        )
    return data


# What `docker save` writes


def _of_docker(files: ImageFiles) -> list[Candidate]:
    data = read_file(files, DOCKER_MANIFEST, DEFAULT_MANIFEST_BYTES)
    entries = read_document(data, DOCKER_MANIFEST, DEFAULT_MANIFEST_BYTES)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InvalidError(f"{DOCKER_MANIFEST} of the docker-archive is not a list of objects")
    return [
        Candidate(texts_field(entry, "RepoTags", DOCKER_MANIFEST), partial(_read_docker, files, entry))
        for entry in entries
    ]


def _read_docker(files: ImageFiles, entry: dict[str, Any]) -> ArchivedImage:
    config_name = text_field(entry, "Config", DOCKER_MANIFEST)
    data = read_file(files, config_name, MAX_CONFIG_BYTES)
    config = Descriptor(media.OCI_CONFIG, Digest.of(data), len(data))
    diff_ids = ImageConfig.parse(data).diff_ids
    sources, layers = {config.digest: config_name}, []
    names = texts_field(entry, "Layers", DOCKER_MANIFEST)
    if len(names) != len(diff_ids):
        raise InvalidError(f"{DOCKER_MANIFEST} names {len(names)} layers, but the config {len(diff_ids)}")
    for name, diff_id in zip(names, diff_ids, strict=True):
        layer = _describe(files, name, diff_id)
        sources[layer.digest] = name
        layers.append(layer)
    manifest = Manifest.build(config, tuple(layers), {})
    return ArchivedImage(manifest, None, lambda blob: files.open(sources[blob.digest]))


def _describe(files: ImageFiles, name: str, diff_id: Digest) -> Descriptor:
    """The layer as it lies in the archive. An uncompressed one is what its diff ID says, or will be refused."""
    with files.open(name) as file:
        head = file.read(512)
        kind = detect(head)
        if kind == "none":
            return Descriptor(media.OCI_LAYER, diff_id, files.size(name))
        hasher = hashlib.sha256(head)
        while chunk := file.read(1 << 20):
            hasher.update(chunk)
    return Descriptor(_KINDS[kind], Digest(f"sha256:{hasher.hexdigest()}"), files.size(name))
