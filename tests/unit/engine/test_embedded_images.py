"""What references mean on this host, what recorded facts say, and what retention keeps. No root needed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.engine.embedded.images.lookup import find_image
from reconciler.engine.embedded.images.resolve import ManifestSource, resolve_all
from reconciler.engine.embedded.perform import opener
from reconciler.engine.embedded.registries import merged, recorded_facts
from reconciler.engine.embedded.state import SCHEMAS, WriterState
from reconciler.engine.embedded.upkeep.retention import (
    HISTORY,
    Rules,
    forgettable,
    kept_generations,
    last_wanted,
    rules_of,
)
from reconciler.engine.port import Generation, GenerationEntry, HostFacts
from reconciler.errors import ConflictError, NotFoundError, RegistryError
from reconciler.model.address import Address
from reconciler.model.canonical import form
from reconciler.model.desired import Pin, Resolution
from reconciler.model.facts import Absent, Unknown
from reconciler.model.observed import ObservedFact
from reconciler.model.resources import Auth, Endpoint, FileContent, Mirror, Pull, Registry
from reconciler.oci import media
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.manifest import Manifest
from reconciler.oci.platform import Platform
from reconciler.oci.reference import Reference
from reconciler.store.database import WritableDatabase
from reconciler.store.identity import claim_identity
from reconciler.store.images import ImageRecord, LayerRecord, Name

HERE = Platform.host()
ELSEWHERE = Platform("linux", "riscv64" if HERE.architecture != "riscv64" else "amd64")
INDEX = Digest.of(b"index")
IMAGE = Address("image", "shop/app")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[WriterState]:
    root = tmp_path / "root"
    root.mkdir(0o700)
    opened = WriterState(claim_identity(root, run=tmp_path / "run"), WritableDatabase(root, SCHEMAS))
    yield opened
    opened.close()


def store(
    state: WriterState, seed: str, *, platform: Platform = HERE, index: Digest | None = None, name: str = ""
) -> Digest:
    """An image of one layer, complete as far as records tell; perhaps the one that a name means."""
    config, layer = json.dumps({"seed": seed}).encode(), seed.encode()
    record = LayerRecord(state.content.put(layer), len(layer), media.OCI_LAYER_GZIP, Digest.of(b"tar" + layer))
    descriptor = Descriptor(media.OCI_CONFIG, state.content.put(config), len(config))
    manifest = Manifest.build(descriptor, (Descriptor(record.media_type, record.digest, record.size),), {})
    digest = state.content.put(manifest)
    image = ImageRecord(digest, media.OCI_MANIFEST, descriptor, (record,), index, platform, 1, "", "2026-01-01")
    state.images.add(image)
    with state.database.transaction() as connection:
        row = (image.chain_ids[0], None, record.diff_id)
        connection.execute("INSERT INTO layers VALUES (?, ?, ?, '', 1, 1)", row)
    if name:
        state.names.set(Name(str(Reference.parse(name)), digest, "shop", "tag"))
    return digest


class Unreachable:
    """A registry client whose registry does not answer."""

    def __init__(self) -> None:
        self.asked = 0

    def resolve(self, reference: Reference, known: object, *, quiet: bool) -> None:
        self.asked += 1
        raise RegistryError("no route to host", attempt=f"resolve {reference}", hint="plug it in")


def resolve(state: WriterState, pull: Pull, client: Unreachable | None = None) -> Resolution:
    found = resolve_all({IMAGE: pull}, state, lambda: client or Unreachable(), ManifestSource(state, {}), {})  # type: ignore[arg-type]
    return found[IMAGE]


def pin(state: WriterState, text: str, platform: Platform | None = None) -> Digest | None:
    found = resolve(state, Pull(Reference.parse(text), "missing", platform))
    return found.digest if isinstance(found, Pin) else None


# References on this host


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [
        ("app:3", "there is app:1, app:2"),
        ("app", "there is app:1, app:2"),
        ("ap:1", "did you mean app:1?"),
        ("debain", "did you mean debian:bookworm?"),
        ("Debian", "did you mean debian:bookworm?"),
        ("something/else", "list them with: reconciler image ls"),
        ("", "list them with: reconciler image ls"),
    ],
)
def test_a_name_that_is_not_there_is_told_what_may_have_been_meant(state: WriterState, wanted: str, hint: str) -> None:
    for name in ("app:1", "app:2", "debian:bookworm"):
        store(state, name, name=name)
    with pytest.raises(NotFoundError) as caught:
        find_image(state, wanted)
    assert str(caught.value) == f"no image {wanted!r} on this host"
    assert caught.value.hint == hint


def test_what_is_on_disk_is_not_asked_for(state: WriterState) -> None:
    digest, client = store(state, "a", name="app:1"), Unreachable()
    assert resolve(state, Pull(Reference.parse("app:1")), client) == Pin(digest, None, answered_by="store")
    assert client.asked == 0


def test_a_digest_of_an_index_means_the_image_for_the_platform(state: WriterState) -> None:
    other = store(state, "other", platform=ELSEWHERE, index=INDEX)
    mine = store(state, "mine", index=INDEX)
    assert pin(state, f"app@{INDEX}") == mine
    assert pin(state, f"app@{INDEX}", ELSEWHERE) == other


def test_two_platforms_of_one_tag_are_both_found(state: WriterState) -> None:
    mine = store(state, "mine", index=INDEX)
    other = store(state, "other", platform=ELSEWHERE, index=INDEX, name="app:1")  # pulled last: it has the name
    assert pin(state, "app:1") == mine
    assert pin(state, "app:1", ELSEWHERE) == other


def test_a_digest_of_an_image_means_no_sibling_of_it(state: WriterState) -> None:
    store(state, "mine", index=INDEX)
    other = store(state, "other", platform=ELSEWHERE, index=INDEX)
    assert pin(state, f"app@{other}") == other
    assert pin(state, f"app@{other}", ELSEWHERE) == other
    assert pin(state, f"app@{other}", HERE) is None


def test_the_only_image_of_a_tag_is_taken_as_it_is(state: WriterState) -> None:
    digest = store(state, "odd", platform=ELSEWHERE, name="app:1")
    assert pin(state, "app:1") == digest


def test_p52_the_only_image_of_a_tag_is_not_taken_for_another_platform(state: WriterState) -> None:
    store(state, "odd", platform=ELSEWHERE, name="app:1")
    client = Unreachable()
    found = resolve(state, Pull(Reference.parse("app:1"), "missing", HERE), client)
    assert isinstance(found, Absent)
    assert f"for {ELSEWHERE}, not for {HERE}" in found.reason
    assert client.asked == 0
    assert isinstance(resolve(state, Pull(Reference.parse("app:1"), "always", HERE), client), Unknown)
    assert client.asked == 1


def test_an_image_without_its_blobs_is_not_there_one_that_is_packed_is(state: WriterState) -> None:
    digest = store(state, "a", name="app:1")
    with state.database.transaction() as connection:
        connection.execute("DELETE FROM layers")
    assert pin(state, "app:1") == digest
    state.content.remove(Digest.of(b"a"))
    assert isinstance(resolve(state, Pull(Reference.parse("app:1"))), Unknown)


@pytest.mark.parametrize("policy", ["always", "newer"])
def test_policies_that_ask_fall_back_to_what_is_stored_with_a_note(state: WriterState, policy: str) -> None:
    digest, client = store(state, "a", name="app:1"), Unreachable()
    found = resolve(state, Pull(Reference.parse("app:1"), policy), client)  # type: ignore[arg-type]
    assert isinstance(found, Pin)
    assert (found.digest, client.asked) == (digest, 1)
    assert "no route to host" in found.note


def test_what_nobody_could_tell_says_why_and_not_of_what_and_what_to_do(state: WriterState) -> None:
    assert resolve(state, Pull(Reference.parse("app:1"))) == Unknown("no route to host", "plug it in")


def test_never_is_absent_without_asking(state: WriterState) -> None:
    client = Unreachable()
    assert isinstance(resolve(state, Pull(Reference.parse("app:1"), "never"), client), Absent)
    assert client.asked == 0


# Recorded facts

text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
names = st.text("abc.:0", min_size=1, max_size=8)
registries = st.builds(
    Registry,
    host=names,
    plain_http=st.booleans(),
    auth=st.none() | st.builds(Auth, username=text, password_file=text, password_environment=text, helper=text),
    ca=text,
    certificate=text,
    key=text,
)
mirrors = st.builds(
    Mirror,
    host=names,
    endpoints=st.lists(
        st.builds(Endpoint, url=text, resolve=st.sampled_from(["first", "fallback", "never"])), max_size=3
    ).map(tuple),
)


@given(registry=registries, mirror=mirrors)
def test_recorded_registries_and_mirrors_are_what_was_declared(registry: Registry, mirror: Mirror) -> None:
    facts = {
        Address("registry", registry.host): ObservedFact(json.loads(json.dumps(form(registry))), frozenset({"shop"})),
        Address("mirror", mirror.host): ObservedFact(json.loads(json.dumps(form(mirror))), frozenset({"shop"})),
    }
    assert recorded_facts(facts) == HostFacts((registry,), (mirror,))


def test_what_is_declared_wins_over_what_was_recorded() -> None:
    recorded = HostFacts((Registry("a", plain_http=True), Registry("b")), (Mirror("*", (Endpoint("http://old"),)),))
    declared = HostFacts((Registry("a"),), (Mirror("*", (Endpoint("http://new"),)),))
    assert merged(declared, recorded) == HostFacts((Registry("a"), Registry("b")), declared.mirrors)


# Archives


def test_an_archive_that_changed_under_the_same_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rootfs.tar"
    path.write_bytes(b"one")
    planned = FileContent(str(path), Digest.of(b"one").hex, 3)
    with opener(planned)() as file:
        assert file.read() == b"one"
    path.write_bytes(b"two")
    with pytest.raises(ConflictError):
        opener(planned)()


# Retention


def generation(number: int, *seeds: str, source: str = "dir:/a", at: float = 0) -> Generation:
    entries = {Address("image", f"shop/{seed}"): GenerationEntry({}, Digest.of(seed.encode())) for seed in seeds}
    return Generation(frozenset({"shop"}), source, "", entries, number, at)


def rule(**fields: object) -> ObservedFact:
    return ObservedFact(fields, frozenset({"shop"}))


def test_of_several_retention_rules_the_one_that_keeps_most_wins() -> None:
    facts = {
        Address("retention", "a"): rule(keep_generations=1, images_unused_for=60.0, containers_exited_for=10.0),
        Address("retention", "b"): rule(keep_generations=5, containers_exited_for=20.0),
        Address("registry", "keep_generations"): rule(keep_generations=9),
    }
    found = rules_of(facts)
    assert (found.keep_generations, found.images_unused_for, found.containers_exited_for) == (5, 60.0, 20.0)
    assert rules_of({}).keep_generations == 3
    assert rules_of({Address("retention", "a"): rule(keep_generations=0)}).keep_generations == 0


def test_generations_are_kept_for_each_source() -> None:
    busy = [generation(number, source="dir:/busy") for number in range(2, 10)]
    found = kept_generations([generation(1), *busy], 2)
    assert [item.number for item in found] == [1, 8, 9]
    assert kept_generations(busy, 0) == []


def test_an_image_is_in_use_until_the_generation_that_replaced_it() -> None:
    history = [generation(1, "old", at=10), generation(2, "old", at=20), generation(3, "new", at=30)]
    history.append(generation(4, "new", at=40))
    assert last_wanted(history) == {Digest.of(b"old"): 30, Digest.of(b"new"): 40}


@given(
    made=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["x", "y", "z"]), st.integers(0, 30)), max_size=30),
    keep=st.integers(0, 5),
    unused_for=st.integers(0, 30),
)
def test_what_is_forgotten_is_missed_by_no_rule(made: list[tuple[str, str, int]], keep: int, unused_for: int) -> None:
    times = sorted(at for _, _, at in made)
    history = [
        generation(number, seed, source=source, at=at)
        for number, ((source, seed, _), at) in enumerate(zip(made, times, strict=True), 1)
    ]
    now, rules = 30.0, Rules(keep, unused_for)
    gone = set(forgettable(history, rules, now, least=2))
    left = [item for item in history if item.number not in gone]
    assert {item.number for item in kept_generations(left, keep)} == {
        item.number for item in kept_generations(history, keep)
    }
    for digest in (Digest.of(seed.encode()) for seed in "xyz"):
        assert (now - last_wanted(left).get(digest, 0) < unused_for) == (
            now - last_wanted(history).get(digest, 0) < unused_for
        )


def test_history_is_bounded_for_each_source() -> None:
    busy = [generation(number, source="dir:/busy") for number in range(2, HISTORY + 10)]
    history = [generation(1), *busy]
    assert forgettable(history, Rules(), now=1000) == list(range(2, 10))
    assert forgettable(history, Rules(keep_generations=HISTORY + 4), now=1000) == [2, 3, 4, 5]
    recent = [generation(number, at=990) for number in range(1, HISTORY + 10)]
    assert forgettable(recent, Rules(images_unused_for=20), now=1000) == []
