"""Image archives: OCI layouts and docker-archives, as ``docker save``, ``skopeo copy`` and ``buildah push`` write them.

Names inside an archive pick an image and move no tag. Everything read is bounded, and digests are checked before
they are used for anything.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable
from typing import IO, Any, BinaryIO, TypeVar

from reconciler.engine.embedded.images import Images
from reconciler.errors import InvalidError
from reconciler.oci import media
from reconciler.oci.config import MAX_CONFIG_BYTES
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.manifest import MAX_MANIFEST_BYTES, Index, Manifest, parse_manifest
from reconciler.oci.platform import Platform
from reconciler.oci.reference import Reference
from reconciler.store.compression import detect
from reconciler.store.images import ImageRecord

_REF_NAME = "org.opencontainers.image.ref.name"
_FULL_NAME = "io.containerd.image.name"
_MAX_MEMBERS = 100_000

T = TypeVar("T")


def load_archive(archive: BinaryIO, ref: str, images: Images) -> ImageRecord:
    """Loads one image; ``ref`` says which where the archive holds several. Raises ``InvalidError``."""
    try:
        with tarfile.open(fileobj=archive, mode="r:*") as tar:
            members = _Members(tar)
            if members.has("index.json"):
                return _load_layout(members, ref, images)
            if members.has("manifest.json"):
                return _load_docker(members, ref, images)
    except (tarfile.TarError, EOFError, OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidError(f"the image archive cannot be read: {error}", hint="make it again") from None
    raise InvalidError(
        "the archive is neither an OCI layout nor a docker-archive",
        hint="use `import:` for the archive of a root filesystem",
    )


class _Members:
    """The files of an archive by name, read with a bound."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._by_name: dict[str, tarfile.TarInfo] = {}
        for count, member in enumerate(tar):
            if count >= _MAX_MEMBERS:
                raise InvalidError(f"the image archive has more than {_MAX_MEMBERS} members")
            self._by_name[member.name.removeprefix("./")] = member

    def has(self, name: str) -> bool:
        return name in self._by_name

    def open(self, name: str) -> IO[bytes]:
        # docker save links layers that are the same file; extractfile follows links inside the archive only.
        file = self._tar.extractfile(self._by_name[name]) if name in self._by_name else None
        if file is None:
            raise InvalidError(f"the image archive lacks {name[:200]!a}", hint="make it again")
        return file

    def read(self, name: str, limit: int) -> bytes:
        with self.open(name) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise InvalidError(f"{name[:200]!a} in the image archive has more than {limit} bytes")
        return data


# OCI image-spec, image-layout.md


def _load_layout(members: _Members, ref: str, images: Images) -> ImageRecord:
    document = parse_manifest(members.read("index.json", MAX_MANIFEST_BYTES), media.OCI_INDEX)
    assert isinstance(document, Index)
    chosen = _pick(
        [(_names(entry), entry) for entry in document.manifests if not entry.artifact_type], ref, "OCI layout"
    )
    data = _blob(members, chosen, MAX_MANIFEST_BYTES)
    parsed = parse_manifest(data, chosen.media_type)
    if isinstance(parsed, Index):
        entry = parsed.choose(Platform.host())
        data = _blob(members, entry, MAX_MANIFEST_BYTES)
    return images.add_image(data, lambda blob: _open(members, _path(blob.digest)), "load an OCI layout")


def _names(entry: Descriptor) -> tuple[str, ...]:
    return tuple(entry.annotations[key] for key in (_REF_NAME, _FULL_NAME) if key in entry.annotations)


def _blob(members: _Members, descriptor: Descriptor, limit: int) -> bytes:
    data = members.read(_path(descriptor.digest), limit)
    if Digest.of(data) != descriptor.digest:
        raise InvalidError(f"blob {descriptor.digest} in the image archive has other bytes")
    return data


def _path(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


# What `docker save` writes


def _load_docker(members: _Members, ref: str, images: Images) -> ImageRecord:
    entries = json.loads(members.read("manifest.json", MAX_MANIFEST_BYTES))
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InvalidError("manifest.json of the docker-archive is not a list of objects")
    entry = _pick([(tuple(item.get("RepoTags") or ()), item) for item in entries], ref, "docker-archive")
    config = members.read(entry["Config"], MAX_CONFIG_BYTES)
    config_descriptor = Descriptor(media.OCI_CONFIG, Digest.of(config), len(config))
    sources: dict[Digest, Callable[[], BinaryIO]] = {}
    layers = []
    for name in entry["Layers"]:
        layer = _describe(members, name)
        sources[layer.digest] = _opener(members, name)
        layers.append(layer)
    sources[config_descriptor.digest] = _opener(members, entry["Config"])
    data = Manifest.build(config_descriptor, tuple(layers), {})
    return images.add_image(data, lambda blob: sources[blob.digest](), "load a docker-archive")


def _describe(members: _Members, name: str) -> Descriptor:
    hasher, size, head = hashlib.sha256(), 0, b""
    with members.open(name) as file:
        while chunk := file.read(1 << 20):
            head = head or chunk[:512]
            hasher.update(chunk)
            size += len(chunk)
    kinds = {"gzip": media.OCI_LAYER_GZIP, "zstd": media.OCI_LAYER_ZSTD}
    return Descriptor(kinds.get(detect(head), media.OCI_LAYER), Digest(f"sha256:{hasher.hexdigest()}"), size)


def _opener(members: _Members, name: str) -> Callable[[], BinaryIO]:
    return lambda: _open(members, name)


def _open(members: _Members, name: str) -> BinaryIO:
    file: Any = members.open(name)
    return file  # type: ignore[no-any-return]


def _same(name: str, ref: str) -> bool:
    """Whether both mean one image. ``docker save`` writes ``app:1`` where skopeo writes ``docker.io/library/app:1``."""
    if name == ref:
        return True
    try:
        return Reference.parse(name) == Reference.parse(ref)
    except InvalidError:
        return False


def _pick(candidates: list[tuple[tuple[str, ...], T]], ref: str, what: str) -> T:
    """The candidate named ``ref``, or the only one."""
    fitting = [item for names, item in candidates if not ref or any(_same(name, ref) for name in names)]
    if len(fitting) == 1:
        return fitting[0]
    known = ", ".join(sorted(name for names, _ in candidates for name in names)) or "none has a name"
    problem = f"has no image {ref!a}" if ref else f"holds {len(candidates)} images"
    raise InvalidError(f"the {what} {problem}; its names: {known[:500]}", hint="pick one with `load: {file, ref}`")
