"""Garbage collection: mark from what must stay, list the rest, free exactly what was listed.

The caller says what must stay (``Root``: desired state, containers, generations, pins); the store adds its names and
leases. Planning reads only. Collecting goes in slices, so that it holds nobody up. Of each slice, within the caller's
turn and for milliseconds: the rows are deleted, then names of files and directories, each in a transaction that knows
what must stay at that moment. A lease is taken in a transaction too, so either it comes first and protects, or its
owner finds the bytes gone and fetches them. After the turn, in nobody's way: the bytes.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Literal

from reconciler.errors import HostError
from reconciler.linux.tree import disk_usage
from reconciler.oci.digest import Digest
from reconciler.store import ingest
from reconciler.store.collection.marks import Marker, Marks
from reconciler.store.collection.removal import FILES, Removal, is_in_use, layer_names
from reconciler.value import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from reconciler.store.collection.leases import LeaseTable
    from reconciler.store.collection.marks import Root
    from reconciler.store.content import ContentStore
    from reconciler.store.database import Database

# How many things go in one slice: an image is a row, others are names of files and directories.
_IMAGES = 1000
_OTHERS = 256
_NO_IMAGE = "no name, container, generation or lease refers to it"
_NO_LAYER = "no image or container uses it"
_NO_BLOB = "no image refers to it"
_LEFT = "left behind by an interrupted unpack or removal"
_Turn = contextlib.AbstractContextManager[object]


@dataclass(frozen=True, slots=True)
class Garbage:
    """One thing that nothing needs. ``id`` is a digest, or the name of a file or directory; ``size`` is on disk."""

    kind: Literal["image", "layer", "blob", "partial"]
    id: str
    why: str
    size: int

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.id


@dataclass(frozen=True, slots=True)
class GcPlan:
    """What a collection would free, images first. ``among``: the only images that were looked at, or None for all."""

    garbage: tuple[Garbage, ...]
    among: frozenset[Digest] | None = None

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(item.size for item in self.garbage)


class GarbageCollector:
    """Frees what nothing refers to in one store."""

    def __init__(self, root: Path, database: Database, content: ContentStore, leases: LeaseTable) -> None:
        self._layers = root / "layers"
        self._database = database
        self._content = content
        self._leases = leases
        self._marker = Marker(database, content, leases)
        self._marked: tuple[object, Marks] | None = None

    def plan(self, roots: Iterable[Root], among: Iterable[Digest] | None = None) -> GcPlan:
        """What would be freed now; nothing is written. With ``among``: those images, and what only they have.

        Raises ``IntegrityError`` when a manifest that must stay cannot be read, since what it needs is then unknown.
        """
        fixed = tuple(roots)
        images = None if among is None else frozenset(among)

        def list_garbage() -> GcPlan:
            self._marked = None
            self._marker.forget()
            marks = self._marks(fixed, images)
            found = self._garbage(marks) if images is None else self._garbage_among(marks, images)
            return GcPlan(tuple(found), images)

        return self._database.consistent(list_garbage)

    def collect(
        self, plan: GcPlan, roots: Callable[[], Iterable[Root]], turn: Callable[[], _Turn] = contextlib.nullcontext
    ) -> Iterator[Garbage]:
        """Frees what ``plan`` lists, a slice at a time, and gives each thing once it is gone: fewer, if some of it is
        needed by now.

        ``roots`` tells what must stay. What it says within ``turn`` has to hold until that ends, as under the root's
        lock. Raises ``IntegrityError`` as ``plan`` does, then nothing more is deleted; and at the end ``HostError``,
        if something could not be removed: the next plan lists it.
        """
        images = [item for item in plan.garbage if item.kind == "image"]
        others = [item for item in plan.garbage if item.kind != "image"]
        failure: HostError | None = None
        # Images first: what is recorded has all its parts, wherever this ends.
        for items in (*_slices(images, _IMAGES), *_slices(others, _OTHERS)):
            # Marking before the turn spares it there, unless somebody writes in between.
            self._database.consistent(lambda: self._marks(tuple(roots()), plan.among))
            with Removal(self._layers, self._content) as removal:
                with turn():
                    freed = self._take(items, tuple(roots()), plan.among, removal)
                left = removal.run()
            failure = failure or removal.failure
            yield from (item for item in freed if item.id not in left)
        if failure is not None:
            raise failure

    def _take(
        self, items: list[Garbage], roots: tuple[Root, ...], among: frozenset[Digest] | None, removal: Removal
    ) -> list[Garbage]:
        """Takes away rows, then names, of what may still go."""
        with self._database.transaction() as connection:
            marks = self._marks(roots, among)
            rows = [item for item in items if _may_go(item, marks)]
            images = [(item.id,) for item in rows if item.kind == "image"]
            layers = {item.key: f"sha256:{item.id}" for item in rows if item.kind == "layer"}
            with_row = {key for key, chain_id in layers.items() if chain_id in marks.ready}
            connection.executemany("DELETE FROM images WHERE digest = ?", images)
            connection.executemany("DELETE FROM layers WHERE chain_id = ?", [(layers[key],) for key in with_row])
            self._leases.sweep()
            version = self._version(roots, among)
        # The same must stay without these rows: no need to mark again.
        marks.forget(images=(digest for (digest,) in images), layers=(layers[key] for key in with_row))
        self._marked = version, marks
        if items[0].kind == "image":
            return rows
        with self._database.transaction():
            marks = self._marks(roots, among)
            possible = [item for item in items if _may_go(item, marks)]
            # A row whose directory was lost is freed as well.
            return [item for item in possible if removal.take(item.kind, item.id) or item.key in with_row]

    def _marks(self, roots: tuple[Root, ...], among: frozenset[Digest] | None) -> Marks:
        """What must stay now, marked again only if somebody wrote since. The caller is in a transaction."""
        version = self._version(roots, among)
        if self._marked is None or self._marked[0] != version:
            self._marked = version, self._marker.mark(roots, among)
        return self._marked[1]

    def _version(self, *arguments: object) -> object:
        """Equal as long as no row changes: the first number counts other connections' commits, the second our rows."""
        (others,) = self._database.query("PRAGMA data_version")
        (ours,) = self._database.query("SELECT total_changes()")
        return (others[0], ours[0], *arguments)

    def _garbage(self, marks: Marks) -> Iterator[Garbage]:
        for digest in sorted(marks.recorded.keys() - marks.images):
            yield Garbage("image", digest, _NO_IMAGE, 0)
        yield from self._garbage_layers(marks)
        for digest, size in sorted(self._content.usage()):
            if digest not in marks.blobs:
                yield Garbage("blob", digest, _NO_BLOB, size)
        for path in sorted(self._content.partials()):
            # A directory there is not ours.
            if f"sha256:{path.name}" not in marks.leased and not path.is_dir() and ingest.is_abandoned(path):
                yield Garbage("partial", path.name, "an unfinished download that nobody continues", _usage(path))

    def _garbage_layers(self, marks: Marks) -> Iterator[Garbage]:
        families: dict[str, list[str]] = {}
        for name in layer_names(self._layers):
            families.setdefault(name[:64], []).append(name)
        for chain_id in sorted(marks.ready):
            names = families.pop(Digest(chain_id).hex, [])
            if chain_id not in marks.layers:
                yield self._layer(chain_id)
            leftover = [name for name in names if name[64:] not in ("", FILES)]
            yield from self._leftovers(leftover, marks)
        for _, names in sorted(families.items()):
            yield from self._leftovers(names, marks)

    def _layer(self, chain_id: str) -> Garbage:
        # Measured, though removing it costs ten times as much: the record knows of neither directories nor holes.
        name = Digest(chain_id).hex
        size = _usage(self._layers / name) + _usage(self._layers / f"{name}{FILES}")
        return Garbage("layer", name, _NO_LAYER, size)

    def _leftovers(self, names: list[str], marks: Marks) -> Iterator[Garbage]:
        """Of one layer, what has no row."""
        if not names or f"sha256:{names[0][:64]}" in marks.leased or is_in_use(self._layers, names):
            return
        for name in sorted(names):
            yield Garbage("layer", name, _LEFT, _usage(self._layers / name))

    def _garbage_among(self, marks: Marks, among: frozenset[Digest]) -> Iterator[Garbage]:
        gone = sorted(marks.recorded.keys() & among - marks.images)
        for digest in gone:
            yield Garbage("image", digest, _NO_IMAGE, 0)
        parts = [marks.recorded[digest] for digest in gone]
        for chain_id in dict.fromkeys(chain for part in parts for chain in part.chains):
            if chain_id in marks.ready and chain_id not in marks.layers:
                yield self._layer(chain_id)
        for digest in dict.fromkeys(blob for part in parts for blob in part.blobs):
            if digest not in marks.blobs and self._content.has(Digest(digest)):
                yield Garbage("blob", digest, _NO_BLOB, _usage(self._content.path(Digest(digest))))


def _may_go(item: Garbage, marks: Marks) -> bool:
    """Whether nothing needs it at this moment, nor any image that still has a row."""
    if item.kind == "image":
        return item.id in marks.recorded and item.id not in marks.images
    if item.kind == "blob":
        return item.id not in marks.blobs and item.id not in marks.claimed.blobs
    chain_id = f"sha256:{item.id[:64]}"
    if item.kind == "partial" or item.id[64:]:
        return chain_id not in marks.leased
    return chain_id not in marks.layers and chain_id not in marks.claimed.chains


def _usage(path: Path) -> int:
    """Bytes on disk; none of what somebody else has removed meanwhile."""
    try:
        return disk_usage(path)
    except HostError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return 0
        raise


def _slices(items: list[Garbage], length: int) -> Iterator[list[Garbage]]:
    for start in range(0, len(items), length):
        yield items[start : start + length]
