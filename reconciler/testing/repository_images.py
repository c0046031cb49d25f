"""Images, indexes and signatures put into repositories of plain HTTP registries, without a tool in between."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from functools import partial
from typing import Any, Self

from reconciler.clock import SystemClock
from reconciler.oci import media
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.reference import Reference
from reconciler.registry.client import RegistryClient
from reconciler.registry.hosts import HostConfig, RegistryHosts
from reconciler.registry.upload import PushManifest


class RepositoryImages:
    """Fills and reads one repository, ``host:port/name``. A context: it keeps its connections until the end."""

    def __init__(self, name: str) -> None:
        self.name = name
        host = Reference.parse(name).registry
        self.client = RegistryClient(RegistryHosts({host: HostConfig(host, plain_http=True)}), clock=SystemClock())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def image(self, tag: str | None, *layers: bytes, architecture: str = "amd64", **more: Any) -> Digest:
        """Puts an image of these layers, under a tag or by its digest alone; ``more`` are fields of its manifest."""
        config = json.dumps({"architecture": architecture, "os": "linux", "rootfs": {"diff_ids": []}}).encode()
        contents = [(config, media.OCI_CONFIG), *((layer, media.OCI_LAYER_GZIP) for layer in layers)]
        blobs = [Descriptor(kind, Digest.of(data), len(data)) for data, kind in contents]
        document = {
            "schemaVersion": 2,
            "mediaType": media.OCI_MANIFEST,
            "config": blobs[0].to_json(),
            "layers": [blob.to_json() for blob in blobs[1:]],
            **more,
        }
        openers = [(blob, partial(io.BytesIO, data)) for blob, (data, _) in zip(blobs, contents, strict=True)]
        return self._put(tag, media.OCI_MANIFEST, document, openers)

    def index(
        self, tag: str | None, entries: Mapping[str, Digest], **annotated: tuple[Digest, Mapping[str, str]]
    ) -> Digest:
        """Puts an index: ``entries`` by architecture; ``annotated`` are entries of no platform, with annotations."""
        manifests: list[dict[str, Any]] = [
            {**self._entry(digest), "platform": {"os": "linux", "architecture": architecture}}
            for architecture, digest in entries.items()
        ]
        manifests += [
            {
                **self._entry(digest),
                "platform": {"os": "unknown", "architecture": "unknown"},
                "annotations": dict(annotations),
            }
            for digest, annotations in annotated.values()
        ]
        document = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": manifests}
        return self._put(tag, media.OCI_INDEX, document, [])

    def tags(self) -> dict[str, Digest | None]:
        """The tags and their digests; none of a repository that does not exist."""
        from reconciler.errors import NotFoundError

        try:
            listed = list(self.client.tags(Reference.parse(self.name)))
        except NotFoundError:
            return {}
        return {tag: self.client.tag_digest(Reference.parse(f"{self.name}:{tag}")) for tag in sorted(listed)}

    def read(self, digest: Digest) -> Any:
        """A manifest as a document."""
        return json.loads(self.client.manifest(Reference.parse(self.name).with_digest(digest)))

    def _entry(self, digest: Digest) -> dict[str, Any]:
        data = self.client.manifest(Reference.parse(self.name).with_digest(digest))
        return {"mediaType": json.loads(data)["mediaType"], "digest": digest, "size": len(data)}

    def _put(self, tag: str | None, kind: str, document: Mapping[str, Any], blobs: list[Any]) -> Digest:
        data = json.dumps(document).encode()
        digest = Digest.of(data)
        reference = Reference.parse(f"{self.name}:{tag}" if tag else self.name)
        self.client.push(reference if tag else reference.with_digest(digest), blobs, [PushManifest(kind, data, digest)])
        return digest
