"""What the store's rows claim, read at one moment; rows that make no sense are damage and claim nothing."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import field
from typing import TYPE_CHECKING, TypeVar

from reconciler.errors import ReconcilerError
from reconciler.oci.digest import Digest
from reconciler.store.check.damage import Damage
from reconciler.store.images import ImageRecord, ImageTable, Name, NameTable
from reconciler.store.layers.table import Layer, Layers
from reconciler.value import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from reconciler.store.check.damage import Needs
    from reconciler.store.collection.leases import LeaseTable
    from reconciler.store.content import ContentStore
    from reconciler.store.database import Database

V = TypeVar("V")

MALFORMED = (ReconcilerError, ValueError, TypeError, KeyError, AttributeError)
"""What reading a damaged row may raise."""


@dataclass(slots=True)
class Claims:
    """The store's rows. ``held`` are the items under a lease that holds, ``ended`` the leases that do not."""

    images: dict[Digest, ImageRecord] = field(default_factory=dict)
    names: list[Name] = field(default_factory=list)
    layers: dict[Digest, Layer] = field(default_factory=dict)
    held: frozenset[str] = frozenset()
    ended: tuple[str, ...] = ()
    damage: list[Damage] = field(default_factory=list)
    # Made at the first question.
    _by_image: dict[Digest, list[Name]] | None = None
    _by_layer: dict[Digest, list[ImageRecord]] | None = None

    def blobs(self) -> dict[Digest, list[ImageRecord]]:
        """Every blob that an image claims, indices included, and the images that do."""
        found: dict[Digest, list[ImageRecord]] = defaultdict(list)
        for image in self.images.values():
            index = (image.index_digest,) if image.index_digest is not None else ()
            for digest in dict.fromkeys((*image.blobs, *index)):
                found[digest].append(image)
        return found

    def users_of(self, images: Iterable[ImageRecord], needs: Needs) -> tuple[str, ...]:
        """Who needs any of these images: their names, and what ``needs`` knows; the images by id where nobody does."""
        found: dict[str, None] = {}
        for image in images:
            users = [shown(name) for name in self._names_of().get(image.digest, ())]
            users += needs.images.get(image.digest, ())
            found.update(dict.fromkeys(users or [f"image {image.digest.short}"]))
        return tuple(found)

    def users_of_layer(self, chain_id: Digest, needs: Needs) -> tuple[str, ...]:
        """Who needs an unpacked layer, be it below another."""
        images = self._images_on().get(chain_id, ())
        return tuple(dict.fromkeys((*self.users_of(images, needs), *needs.layers.get(chain_id, ()))))

    def _names_of(self) -> dict[Digest, list[Name]]:
        if self._by_image is None:
            self._by_image = defaultdict(list)
            for name in self.names:
                self._by_image[name.digest].append(name)
        return self._by_image

    def _images_on(self) -> dict[Digest, list[ImageRecord]]:
        if self._by_layer is None:
            self._by_layer = defaultdict(list)
            for image in self.images.values():
                for chain_id in image.chain_ids:
                    self._by_layer[chain_id].append(image)
        return self._by_layer


def shown(name: Name) -> str:
    """A name for a list of users."""
    return f"tag {name.name}" if name.kind == "tag" else name.name


def read_claims(root: Path, database: Database, content: ContentStore, leases: LeaseTable) -> Claims:
    """All rows of the store as they are at one moment. Raises ``HostError`` when the database cannot be read."""
    return database.consistent(lambda: _read(root, database, content, leases))


def _read(root: Path, database: Database, content: ContentStore, leases: LeaseTable) -> Claims:
    claims = Claims()
    images, layers, names = ImageTable(database, content), Layers(root, database), NameTable(database)
    try:
        claims.images = {image.digest: image for image in images.list()}
    except MALFORMED:
        claims.images = _each(database, "images", "digest", images.get, claims.damage)
    claims.layers = _each(database, "layers", "chain_id", layers.get, claims.damage)
    try:
        claims.names = list(names.list())
    except MALFORMED:
        claims.names = list(_names(database, names, claims.damage))
    try:
        claims.held = frozenset(leases.held())
        claims.ended = leases.ended()
    except MALFORMED as error:
        claims.damage.append(Damage("lease", "leases", "malformed", f"a lease cannot be read: {error}"))
    for item in sorted(claims.held):
        if _digest(item) is None:
            claims.damage.append(Damage("lease", item, "malformed", "a lease protects this, which is not a digest"))
    return claims


def _each(
    database: Database, table: str, column: str, get: Callable[[Digest], V | None], damage: list[Damage]
) -> dict[Digest, V]:
    """The rows of a table one by one, by their digest; those that cannot be read are put down as damage."""
    found = {}
    for row in database.query(f"SELECT {column} FROM {table} ORDER BY {column}"):
        try:
            digest = Digest(row[0])
            value = get(digest)
        except MALFORMED as error:
            damage.append(_malformed(table.removesuffix("s"), row[0], error))
        else:
            if value is not None:
                found[digest] = value
    return found


def _names(database: Database, table: NameTable, damage: list[Damage]) -> Iterator[Name]:
    for row in database.query("SELECT name FROM names ORDER BY name"):
        try:
            name = table.lookup(row[0])
        except MALFORMED as error:
            damage.append(_malformed("name", row[0], error))
        else:
            if name is not None:
                yield name


def _malformed(kind: str, id_: object, error: Exception) -> Damage:
    return Damage(kind, str(id_), "malformed", f"its row in the database makes no sense: {error}")


def _digest(text: str) -> Digest | None:
    try:
        return Digest(text)
    except MALFORMED:
        return None
