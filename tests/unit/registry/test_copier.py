"""Copies of images with all that they name and all that refers to them: what goes, in which order, and how often."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from reconciler.errors import IntegrityError, InvalidError, NotFoundError, RegistryError
from reconciler.oci import media
from reconciler.oci.companion import companion_of, referrers_tag
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.manifest import Index, parse_manifest
from reconciler.oci.narrow import narrow
from reconciler.oci.platform import Platform
from reconciler.oci.reference import Reference
from reconciler.registry.copier import Copier

from .conftest import layer, manifest

AMD, ARM = Platform("linux", "amd64"), Platform("linux", "arm64")
SOURCE, TARGET = Reference.parse("up.example.com/app"), Reference.parse("down.example.com/app:1")


@dataclass
class Registries:
    """Repositories in memory, as far as copies need them. ``done`` tells what was written, in order.

    Those in ``with_api`` list referrers; a manifest is refused when something that it names is not there.
    """

    manifests: dict[tuple[str, Digest], bytes] = field(default_factory=dict)
    tagged: dict[str, Digest] = field(default_factory=dict)
    blobs: set[tuple[str, Digest]] = field(default_factory=set)
    with_api: set[str] = field(default_factory=set)
    lost: set[Digest] = field(default_factory=set)
    done: list[str] = field(default_factory=list)
    fetched: list[Digest] = field(default_factory=list)
    guard: threading.Lock = field(default_factory=threading.Lock)

    def put(self, data: bytes, tag: str = "") -> Digest:
        """Something that the source has, with its blobs."""
        digest = Digest.of(data)
        self.manifests[SOURCE.name, digest] = data
        if tag:
            self.tagged[f"{SOURCE.name}:{tag}"] = digest
        return digest

    def manifest(self, reference):
        self.fetched.append(reference.digest)
        try:
            return self.manifests[reference.name, reference.digest]
        except KeyError:
            raise NotFoundError(f"no {reference}") from None

    def has_manifest(self, reference):
        return (reference.name, reference.digest) in self.manifests

    def tag_digest(self, reference):
        return self.tagged.get(f"{reference.name}:{reference.tag}")

    def tags(self, reference):
        return [name.rpartition(":")[2] for name in self.tagged if name.rpartition(":")[0] == reference.name]

    def listed_referrers(self, reference):
        if reference.registry not in self.with_api:
            return None
        found = []
        for (name, digest), data in self.manifests.items():
            document = json.loads(data)
            if name == reference.name and document.get("subject", {}).get("digest") == reference.digest:
                kind, artifact = document["mediaType"], document.get("artifactType", "")
                found.append(Descriptor(kind, digest, len(data), artifact_type=artifact))
        return tuple(found)

    def referrers(self, reference, artifact_type=""):
        listed = self.listed_referrers(reference)
        if listed is not None:
            return listed
        digest = self.tagged.get(f"{reference.name}:{referrers_tag(reference.digest)}")
        index = parse_manifest(self.manifests[reference.name, digest]) if digest else None
        return index.manifests if isinstance(index, Index) else ()

    def copy_blob(self, source, target, blob, progress):
        assert not source.tag or source.digest
        if blob.digest in self.lost:
            raise RegistryError(f"{blob.digest.short} is lost")
        with self.guard:
            self.done.append(f"blob {blob.digest.short}")
            self.blobs.add((target.name, blob.digest))
        progress(blob.size)
        return "uploaded"

    def push(self, reference, blobs, manifests):
        (pushed,) = manifests
        parsed = parse_manifest(pushed.data, pushed.media_type)
        if isinstance(parsed, Index):
            assert all((reference.name, entry.digest) in self.manifests for entry in parsed.manifests)
        else:
            assert all((reference.name, blob.digest) in self.blobs for blob in parsed.blobs)
        with self.guard:
            self.manifests[reference.name, pushed.digest] = pushed.data
            self.done.append(f"manifest {reference.tag or pushed.digest.short}")
            if reference.tag:
                self.tagged[f"{reference.name}:{reference.tag}"] = pushed.digest


@pytest.fixture
def registries() -> Registries:
    return Registries()


@pytest.fixture
def copier(registries: Registries) -> Iterator[Copier]:
    with ThreadPoolExecutor(4) as pool:
        yield Copier(registries, pool)  # type: ignore[arg-type]


def entry(data: bytes, architecture: str = "", **annotations: str) -> dict[str, object]:
    platform = {"platform": {"os": "linux", "architecture": architecture}} if architecture else {}
    notes = {"annotations": {key.replace("_", "."): text for key, text in annotations.items()}} if annotations else {}
    kind = json.loads(data)["mediaType"]
    return {"mediaType": kind, "digest": Digest.of(data), "size": len(data), **platform, **notes}


def index(*entries: dict[str, object]) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": entries}).encode()


def image(*layers: bytes, **more: object) -> bytes:
    return manifest(layers=[layer(data).to_json() for data in layers], **more)


def signature(subject: bytes) -> bytes:
    return image(b"signature", subject=entry(subject), artifactType="application/vnd.example.signature")


def copy(copier: Copier, digest: Digest, tag: str = "1", **more: object) -> int:
    target = Reference.parse(f"{TARGET.name}:{tag}")
    return copier.tag(SOURCE.with_digest(digest), target, **{"wanted": digest, **more})  # type: ignore[arg-type]


def test_children_come_before_parents_and_the_tag_last(registries, copier):
    amd, arm = image(b"amd"), image(b"arm")
    digest = registries.put(index(entry(amd, "amd64"), entry(arm, "arm64")))
    parts = [registries.put(data) for data in (amd, arm)]
    copy(copier, digest)
    manifests = [line for line in registries.done if line.startswith("manifest")]
    assert manifests == [*(f"manifest {part.short}" for part in parts), "manifest 1"]
    assert registries.tagged[f"{TARGET.name}:1"] == digest


def test_what_several_tags_have_goes_once(registries, copier):
    shared = b"shared" * 1000
    digests = [registries.put(image(shared, f"{number}".encode())) for number in range(12)]
    with ThreadPoolExecutor(6) as steps:
        list(steps.map(lambda pair: copy(copier, pair[1], f"t{pair[0]}"), enumerate(digests)))
    assert registries.done.count(f"blob {Digest.of(shared).short}") == 1


def test_what_is_there_is_not_read_again(registries, copier):
    digest = registries.put(image(b"layer"))
    registries.manifests[TARGET.name, digest] = registries.manifests[SOURCE.name, digest]
    registries.blobs |= {(TARGET.name, Digest.of(b"layer")), (TARGET.name, Digest.of(b"{}"))}
    assert copy(copier, digest) == 0
    assert registries.done == ["manifest 1"]


def test_a_list_of_referrers_is_followed_and_they_precede_the_tag(registries, copier):
    registries.with_api |= {"up.example.com", "down.example.com"}
    signed = image(b"layer")
    digest, signed_by = registries.put(signed), registries.put(signature(signed))
    copy(copier, digest)
    assert registries.done[-2:] == [f"manifest {signed_by.short}", "manifest 1"]


def test_a_target_without_a_list_of_referrers_gets_the_tag_that_stands_in(registries, copier):
    registries.with_api.add("up.example.com")
    signed = image(b"layer")
    digest, signed_by = registries.put(signed), registries.put(signature(signed))
    copy(copier, digest)
    made = registries.tagged[f"{TARGET.name}:{referrers_tag(digest)}"]
    (listed,) = json.loads(registries.manifests[TARGET.name, made])["manifests"]
    assert (listed["digest"], listed["artifactType"]) == (signed_by, "application/vnd.example.signature")


def test_tags_about_a_part_of_an_index_go_along(registries, copier):
    amd = image(b"amd")
    part = registries.put(amd)
    digest = registries.put(index(entry(amd, "amd64")))
    registries.put(image(b"cosign"), f"{referrers_tag(part)}.sig")
    copy(copier, digest)
    assert f"{TARGET.name}:{referrers_tag(part)}.sig" in registries.tagged


def test_without_referrers_nothing_refers(registries, copier):
    registries.with_api.add("up.example.com")
    signed = image(b"layer")
    digest, _ = registries.put(signed), registries.put(signature(signed))
    copy(copier, digest, referrers=False)
    assert registries.tagged.keys() == {f"{TARGET.name}:1"}
    assert len([name for name, _ in registries.manifests if name == TARGET.name]) == 1


def test_p55_an_artifact_is_copied_whatever_it_is_made_of(registries, copier):
    odd = {"mediaType": "application/vnd.example.model+unheard-of", "digest": str(Digest.of(b"model")), "size": 5}
    config = {"mediaType": "application/vnd.example.config", "digest": str(Digest.of(b"no JSON")), "size": 7}
    digest = registries.put(manifest(config=config, layers=[odd], artifactType="application/vnd.example"), "1")
    copy(copier, digest)
    assert registries.tagged[str(TARGET)] == digest
    assert {(TARGET.name, Digest.of(data)) for data in (b"model", b"no JSON")} <= registries.blobs


def test_what_is_lost_leaves_the_tag_as_it_was(registries, copier):
    digest = registries.put(image(b"lost"))
    registries.tagged[f"{TARGET.name}:1"] = Digest.of(b"before")
    registries.lost.add(Digest.of(b"lost"))
    with pytest.raises(RegistryError, match="is lost"):
        copy(copier, digest)
    assert registries.tagged[f"{TARGET.name}:1"] == Digest.of(b"before")


def test_layers_that_may_not_be_passed_on_are_left_where_they_are(registries, copier):
    foreign = {**layer(b"windows").to_json(), "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}
    digest = registries.put(manifest(layers=[foreign]))
    registries.blobs.add((TARGET.name, Digest.of(b"windows")))  # the registry takes their word for it
    copy(copier, digest)
    assert f"blob {Digest.of(b'windows').short}" not in registries.done


def test_a_narrowed_index_has_its_parts_and_not_the_signature_of_the_whole(registries, copier):
    registries.with_api |= {"up.example.com", "down.example.com"}
    amd, arm = image(b"amd"), image(b"arm")
    whole = index(entry(amd, "amd64"), entry(arm, "arm64"))
    digest = registries.put(whole)
    for data in (amd, arm, signature(whole), signature(amd)):
        registries.put(data)
    wanted = Digest.of(narrow(whole, [AMD]))
    copy(copier, digest, wanted=wanted, platforms=[AMD])
    there = {found for name, found in registries.manifests if name == TARGET.name}
    assert there == {wanted, Digest.of(amd), Digest.of(signature(amd))}
    with pytest.raises(IntegrityError, match="narrowing"):
        copy(copier, digest, "2", platforms=[ARM])


def test_narrowing_is_the_same_every_time_and_keeps_what_belongs():
    amd, arm, provenance = image(b"amd"), image(b"arm"), image(b"provenance")
    about = {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": Digest.of(amd)}
    attested = {**entry(provenance, "unknown"), "annotations": about}
    whole = index(entry(amd, "amd64"), entry(arm, "arm64"), attested)
    made = narrow(whole, [AMD])
    assert made == narrow(whole, [AMD])
    assert [part["digest"] for part in json.loads(made)["manifests"]] == [Digest.of(amd), Digest.of(provenance)]
    alone = narrow(whole, [AMD], attestations=False)
    assert [part["digest"] for part in json.loads(alone)["manifests"]] == [Digest.of(amd)]
    assert narrow(whole, [AMD, ARM]) is whole
    assert narrow(amd, [ARM]) is amd
    with pytest.raises(InvalidError, match=r"for linux/amd64, linux/arm64, not for linux/s390x"):
        narrow(whole, [Platform("linux", "s390x")])


def test_tags_that_are_about_another_manifest():
    digest = Digest.of(b"x")
    assert companion_of(referrers_tag(digest)) == companion_of(f"{referrers_tag(digest)}.sig") == digest
    assert companion_of("sha256-abc") is companion_of("1.0") is companion_of(f"v-{referrers_tag(digest)}") is None
