"""The registries of the reference engine."""

from __future__ import annotations

from dataclasses import field

from reconciler.model.facts import Absent, Known, RemoteTag, Unknown
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.media import OCI_LAYER_GZIP
from reconciler.oci.reference import Reference
from reconciler.value import dataclass


@dataclass(slots=True)
class MemoryRegistry:
    """What all registries of a test hold: blobs by manifest, and tags. Hosts in ``down`` do not answer; those in
    ``blocked`` must not be asked, by the file named; ``indexes`` are the manifests that consist of others;
    ``referrers`` are what refers to one in a repository."""

    manifests: dict[Digest, tuple[Descriptor, ...]] = field(default_factory=dict)
    tags: dict[str, Digest] = field(default_factory=dict)
    down: set[str] = field(default_factory=set)
    indexes: dict[Digest, tuple[Digest, ...]] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)
    referrers: dict[tuple[str, Digest], frozenset[Digest]] = field(default_factory=dict)

    def publish(self, reference: str, *layers: tuple[str, int]) -> Digest:
        """Puts an image of these layers (name, size) under a tag; without layers, one named as the reference."""
        chosen = layers or ((reference, 1000),)
        blobs = tuple(Descriptor(OCI_LAYER_GZIP, Digest.of(name.encode()), size) for name, size in chosen)
        manifest = Digest.of("\n".join(blob.digest for blob in blobs).encode())
        self.manifests[manifest] = blobs
        self.tags[str(Reference.parse(reference))] = manifest
        return manifest

    def refer(self, repository: str, subject: Digest, *referrers: Digest) -> None:
        """Has the repository list manifests as referring to ``subject``."""
        there = self.referrers.get((repository, subject), frozenset())
        self.referrers[repository, subject] = there.union(referrers)

    def repository(self, name: str) -> dict[str, Digest]:
        """The tags of a repository with their digests."""
        held = ((tag.rpartition(":"), digest) for tag, digest in self.tags.items())
        return {tag: digest for (repository, _, tag), digest in held if repository == name}

    def head(self, reference: Reference) -> RemoteTag:
        if reference.registry in self.blocked:
            return Unknown(f"{reference.registry} is blocked by {self.blocked[reference.registry]}")
        if reference.registry in self.down:
            return Unknown(f"{reference.registry} does not answer")
        found = reference.digest if reference.digest in self.manifests else self.tags.get(str(reference))
        return Known(found) if found else Absent()
