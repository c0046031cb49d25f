"""Images and their names."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from reconciler.errors import IntegrityError, InvalidError, NotFoundError
from reconciler.oci.digest import Digest
from reconciler.store.images import Name

if TYPE_CHECKING:
    from .conftest import Store

LATEST = "docker.io/library/debian:latest"


def test_an_image_is_read_as_it_was_added(store: Store) -> None:
    image = store.add_image(b"one", b"two")
    assert store.images.get(image.digest) == image
    assert store.images.list() == (image,)
    assert store.images.get(Digest.of(b"another")) is None


@pytest.mark.parametrize("lost", [0, 1, 2, 3])
def test_s04_an_image_without_all_its_blobs_is_not_recorded(store: Store, lost: int) -> None:
    image = store.add_image(b"one", b"two")
    store.images.remove(image.digest)
    store.content.remove(image.blobs[lost])
    with pytest.raises(IntegrityError, match=image.blobs[lost]):
        store.images.add(image)
    assert store.images.list() == ()


def test_adding_again_keeps_the_names_and_the_index(store: Store) -> None:
    index = store.content.put(b"index")
    image = store.add_image(b"one", index=index)
    store.names.set(Name(LATEST, image.digest, "", "tag"))
    store.images.add(replace(image, index_digest=None, fetched_at="2027-01-01T00:00:00Z"))
    assert store.images.get(image.digest) == replace(image, fetched_at="2027-01-01T00:00:00Z")
    assert len(store.names.list()) == 1


def test_a_prefix_finds_every_image_that_begins_so(store: Store) -> None:
    images = {store.add_image(b"%d" % number) for number in range(16)}
    for image in images:
        assert store.images.by_prefix(image.digest) == (image,)
        assert store.images.by_prefix(image.digest.hex[:12]) == (image,)
        first = {other for other in images if other.digest.hex[0] == image.digest.hex[0]}
        assert set(store.images.by_prefix(image.digest.hex[0])) == first
    for malformed in ("", "sha256:", "XYZ", "a%", "f" * 65):
        with pytest.raises(InvalidError):
            store.images.by_prefix(malformed)


def test_a_name_moves_in_one_step_and_is_taken_away(store: Store) -> None:
    old, new = store.add_image(b"old"), store.add_image(b"new")
    store.names.set(Name(LATEST, old.digest, "shop", "tag"))
    store.names.set(Name("shop/base", old.digest, "shop", "entry"))
    store.names.set(Name(LATEST, new.digest, "shop", "tag"))
    assert store.names.lookup(LATEST) == Name(LATEST, new.digest, "shop", "tag")
    assert [name.name for name in store.names.list()] == [LATEST, "shop/base"]
    assert [name.name for name in store.names.list(digest=old.digest)] == ["shop/base"]
    assert store.names.list(stack="other") == ()
    assert store.names.remove(LATEST)
    assert not store.names.remove(LATEST)
    assert store.names.lookup(LATEST) is None
    assert len(store.images.list()) == 2


def test_s11_a_name_never_points_at_an_image_that_is_not_there(store: Store) -> None:
    image = store.add_image(b"old")
    store.names.set(Name(LATEST, image.digest, "", "tag"))
    with pytest.raises(NotFoundError):
        store.names.set(Name(LATEST, Digest.of(b"not fetched"), "", "tag"))
    assert store.names.lookup(LATEST) == Name(LATEST, image.digest, "", "tag")


def test_removing_an_image_takes_its_names_and_is_idempotent(store: Store) -> None:
    image = store.add_image(b"one")
    store.names.set(Name(LATEST, image.digest, "", "tag"))
    assert store.images.remove(image.digest)
    assert not store.images.remove(image.digest)
    assert store.names.list() == ()


def test_listing_five_hundred_tags_takes_two_queries(store: Store) -> None:
    images = [store.add_image(b"%d" % number) for number in range(5)]
    with store.database.transaction():
        for number in range(500):
            store.names.set(Name(f"registry.example.com/app:{number}", images[number % 5].digest, "", "tag"))
    statements: list[str] = []
    with store.database.transaction() as connection:
        connection.set_trace_callback(statements.append)
        assert len(store.names.list()) == 500
        assert len(store.images.list()) == 5
        connection.set_trace_callback(None)
    assert len(statements) == 2
