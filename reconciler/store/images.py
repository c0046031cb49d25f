"""What images there are, and what people call them.

An image is one platform's manifest with its config and layers: all of them are blobs in the content store, and are
on disk before the row is written.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Literal

from reconciler.errors import IntegrityError, InvalidError, NotFoundError
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.layers import chain_ids
from reconciler.oci.platform import Platform
from reconciler.value import dataclass

if TYPE_CHECKING:
    import sqlite3

    from reconciler.store.content import ContentStore
    from reconciler.store.database import Database

NameKind = Literal["tag", "entry"]


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """One layer of an image: the blob as distributed, and the digest of the tar in it."""

    digest: Digest
    size: int
    media_type: str
    diff_id: Digest


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image for one platform; ``digest`` is its manifest's, layers are lowest first.

    ``size`` is in bytes as stored: manifest, config and layers. ``created`` is the config's own text, perhaps empty;
    ``fetched_at`` is RFC 3339. ``index_digest`` is the index it was chosen from.
    """

    digest: Digest
    media_type: str
    config: Descriptor
    layers: tuple[LayerRecord, ...]
    index_digest: Digest | None
    platform: Platform
    size: int
    created: str
    fetched_at: str

    @property
    def blobs(self) -> tuple[Digest, ...]:
        """The blobs the image needs. The index is not among them: it is kept when it is there."""
        return (self.digest, self.config.digest, *(layer.digest for layer in self.layers))

    @property
    def chain_ids(self) -> tuple[Digest, ...]:
        """The chain ID of each layer, lowest first."""
        return chain_ids(layer.diff_id for layer in self.layers)


@dataclass(frozen=True, slots=True)
class Name:
    """A name for an image: a full reference (``tag``) or ``stack/name`` of a spec's image entry (``entry``).

    ``stack`` owns the name; empty for one made by hand.
    """

    name: str
    digest: Digest
    stack: str
    kind: NameKind


class ImageTable:
    """The images of the store."""

    def __init__(self, database: Database, content: ContentStore) -> None:
        self._database = database
        self._content = content

    def add(self, image: ImageRecord) -> None:
        """Records an image whose blobs are all there; recording it again updates it.

        Raises ``IntegrityError`` naming a blob that is missing: the database never claims what is not on disk.
        """
        for digest in image.blobs:
            if not self._content.has(digest):
                raise IntegrityError(f"image {image.digest} lacks blob {digest}", hint="pull the image again")
        layers = [[layer.digest, layer.size, layer.media_type, layer.diff_id] for layer in image.layers]
        row = (
            image.digest,
            image.media_type,
            image.config.digest,
            image.config.size,
            image.config.media_type,
            json.dumps(layers, separators=(",", ":")),
            image.index_digest,
            str(image.platform),
            image.size,
            image.created,
            image.fetched_at,
        )
        with self._database.transaction() as connection:
            # Not INSERT OR REPLACE: names refer to the row.
            connection.execute(
                "INSERT INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (digest) DO UPDATE SET"
                " index_digest = coalesce(excluded.index_digest, index_digest), fetched_at = excluded.fetched_at",
                row,
            )

    def get(self, digest: Digest) -> ImageRecord | None:
        rows = self._database.query("SELECT * FROM images WHERE digest = ?", (digest,))
        return _image(rows[0]) if rows else None

    def list(self) -> tuple[ImageRecord, ...]:
        """All images, by digest. One query."""
        return tuple(_image(row) for row in self._database.query("SELECT * FROM images ORDER BY digest"))

    def digests(self) -> tuple[Digest, ...]:
        """The digests of all images, in order."""
        return tuple(Digest(row["digest"]) for row in self._database.query("SELECT digest FROM images ORDER BY digest"))

    def of_index(self, index: Digest) -> tuple[ImageRecord, ...]:
        """The images that were chosen from ``index``, one for each platform that was asked for; by digest."""
        rows = self._database.query("SELECT * FROM images WHERE index_digest = ? ORDER BY digest", (index,))
        return tuple(_image(row) for row in rows)

    def by_prefix(self, prefix: str) -> tuple[ImageRecord, ...]:
        """The images whose digest begins with ``prefix``: hexadecimal digits, perhaps after ``sha256:``.

        Raises ``InvalidError`` for anything else.
        """
        digits = prefix.removeprefix("sha256:")
        if re.fullmatch(r"[0-9a-f]{1,64}", digits) is None:
            raise InvalidError(f"{ascii(prefix[:100])} is not the beginning of a digest")
        # "g" sorts behind every hexadecimal digit.
        rows = self._database.query(
            "SELECT * FROM images WHERE digest >= ? AND digest < ? ORDER BY digest",
            (f"sha256:{digits}", f"sha256:{digits}g"),
        )
        return tuple(_image(row) for row in rows)

    def add_repository(self, digest: Digest, repository: str) -> None:
        """Notes that a recorded image was pulled from a repository (``Reference.name``)."""
        with self._database.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO image_repositories VALUES (?, ?)", (digest, repository))

    def repositories(self, digest: Digest) -> tuple[str, ...]:
        """The repositories that an image was pulled from, in order of their names."""
        rows = self._database.query(
            "SELECT repository FROM image_repositories WHERE image = ? ORDER BY repository", (digest,)
        )
        return tuple(row["repository"] for row in rows)

    def remove(self, digest: Digest) -> bool:
        """Forgets an image and its names; False when it was not there. Its bytes are left to garbage collection."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM names WHERE digest = ?", (digest,))
            return connection.execute("DELETE FROM images WHERE digest = ?", (digest,)).rowcount > 0


class NameTable:
    """The names of images. Each name means one image at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def set(self, name: Name) -> None:
        """Points a name at an image, moving it in one step if it pointed elsewhere.

        Raises ``NotFoundError`` when the image is not recorded.
        """
        with self._database.transaction() as connection:
            if not connection.execute("SELECT 1 FROM images WHERE digest = ?", (name.digest,)).fetchone():
                raise NotFoundError(f"no image {name.digest} to name {name.name!r}", hint="pull the image first")
            connection.execute(
                "INSERT OR REPLACE INTO names VALUES (?, ?, ?, ?)", (name.name, name.digest, name.stack, name.kind)
            )

    def lookup(self, name: str) -> Name | None:
        rows = self._database.query("SELECT * FROM names WHERE name = ?", (name,))
        return _name(rows[0]) if rows else None

    def list(self, *, stack: str | None = None, digest: Digest | None = None) -> tuple[Name, ...]:
        """All names in order, or those of one stack, of one image. One query."""
        rows = self._database.query(
            "SELECT * FROM names WHERE stack = coalesce(?, stack) AND digest = coalesce(?, digest) ORDER BY name",
            (stack, digest),
        )
        return tuple(_name(row) for row in rows)

    def remove(self, name: str) -> bool:
        """Takes a name away; False when there was none. The image stays."""
        with self._database.transaction() as connection:
            return connection.execute("DELETE FROM names WHERE name = ?", (name,)).rowcount > 0


def _image(row: sqlite3.Row) -> ImageRecord:
    layers: list[tuple[str, int, str, str]] = json.loads(row["layers"])
    return ImageRecord(
        digest=Digest(row["digest"]),
        media_type=row["media_type"],
        config=Descriptor(row["config_media_type"], Digest(row["config_digest"]), row["config_size"]),
        layers=tuple(
            LayerRecord(Digest(digest), size, media_type, Digest(diff_id))
            for digest, size, media_type, diff_id in layers
        ),
        index_digest=Digest(row["index_digest"]) if row["index_digest"] else None,
        platform=Platform.parse(row["platform"]),
        size=row["size"],
        created=row["created"],
        fetched_at=row["fetched_at"],
    )


def _name(row: Any) -> Name:
    return Name(row["name"], Digest(row["digest"]), row["stack"], row["kind"])
