"""Taking names away from images by hand, and the images that have none left."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING

from reconciler.engine.embedded.images.lookup import FoundImage, find_image, shown_name
from reconciler.engine.embedded.upkeep.collect import Collection, Item
from reconciler.errors import ConflictError
from reconciler.oci.digest import Digest
from reconciler.value import dataclass

if TYPE_CHECKING:
    from reconciler.engine.embedded.containers.rows import ContainerRow
    from reconciler.engine.embedded.machinery import Machinery
    from reconciler.store.images import ImageRecord, Name


@dataclass(frozen=True, slots=True)
class Removed:
    """``names`` are as shown; ``layers`` are the chain IDs of those that went, top first, image by image.

    ``kept`` are images that lost their last name and stay, since something needs them.
    """

    names: tuple[str, ...]
    images: tuple[Digest, ...]
    layers: tuple[Digest, ...]
    kept: tuple[Digest, ...]
    freed: int


@dataclass(frozen=True, slots=True)
class _Doomed:
    """What a removal would take away."""

    record: ImageRecord
    names: tuple[Name, ...]


class ImageRemoval:
    """Needs the turn."""

    def __init__(self, machinery: Machinery) -> None:
        self._machinery = machinery
        self._state = machinery.state

    def remove(self, wanted: Sequence[str], *, force: bool) -> Removed:
        """Removes names, and frees at once what only an image without a name needed. All or nothing is removed.

        A name goes while its image has others. The last one, and an image named by its id, go only when no container
        uses the image; ``force`` allows it for a name, and for an id while no such container runs: the container then
        keeps the image's bytes. An id of several names needs ``force`` too. What a stack holds is refused in any case.
        Raises ``ConflictError`` naming who is in the way, and ``NotFoundError``.
        """
        doomed = self._doomed([find_image(self._state, text) for text in wanted], force=force)
        with self._state.database.transaction():
            for item in doomed:
                for name in item.names:
                    self._state.names.remove(name.name)
        nameless = [item.record for item in doomed if not self._state.names.list(digest=item.record.digest)]
        freed = self._free(nameless)
        ids = {item.id for item in freed}
        gone = tuple(record.digest for record in nameless if self._state.images.get(record.digest) is None)
        return Removed(
            names=tuple(shown_name(name) for item in doomed for name in item.names),
            images=gone,
            layers=tuple(dict.fromkeys(chain for record in nameless for chain in _freed_layers(record, ids))),
            kept=tuple(record.digest for record in nameless if record.digest not in gone),
            freed=sum(item.size for item in freed),
        )

    def _doomed(self, found: Sequence[FoundImage], *, force: bool) -> list[_Doomed]:
        names: dict[Digest, dict[str, Name]] = {}
        records = {}
        by_id = set()
        for item in found:
            records[item.record.digest] = item.record
            chosen = names.setdefault(item.record.digest, {})
            if item.name is not None:
                chosen[item.name.name] = item.name
            else:
                by_id.add(item.record.digest)
                chosen.update({name.name: name for name in self._state.names.list(digest=item.record.digest)})
        containers = self._state.containers.all()
        for digest, chosen in names.items():
            for name in chosen.values():
                _check_owner(name)
            users = [row for row in containers if row.image == digest]
            if digest in by_id:
                self._check_id(records[digest], chosen, users, force=force)
            elif len(chosen) == len(self._state.names.list(digest=digest)):
                _check_users(next(iter(chosen.values())), users, force=force)
        return [_Doomed(records[digest], tuple(chosen.values())) for digest, chosen in names.items()]

    def _check_id(self, record: ImageRecord, names: dict[str, Name], users: list[ContainerRow], *, force: bool) -> None:
        running = [row for row in users if self._machinery.containers.state_of(row).running]
        if running:
            raise ConflictError(
                f"image {record.digest.short} is used by the running {_listed(running)}",
                hint="stop and remove it first",
            )
        if len(names) > 1 and not force:
            shown = ", ".join(shown_name(name) for name in names.values())
            raise ConflictError(
                f"image {record.digest.short} has several names: {shown}",
                hint="remove them by name, or all with --force",
            )
        if users and not force:
            raise ConflictError(
                f"image {record.digest.short} is used by the stopped {_listed(users)}",
                hint="remove the container first, or use --force",
            )

    def _free(self, records: Sequence[ImageRecord]) -> list[Item]:
        return Collection(self._machinery).collect_images(record.digest for record in records) if records else []


def _freed_layers(record: ImageRecord, freed: Container[str]) -> list[Digest]:
    """The layers of an image that went with it, top first: unpacked, or packed where they never were unpacked."""
    layers = zip(record.chain_ids, record.layers, strict=True)
    return [chain for chain, layer in layers if chain.hex in freed or layer.digest in freed][::-1]


def _check_owner(name: Name) -> None:
    if name.stack:
        raise ConflictError(
            f"{shown_name(name)} belongs to stack {name.stack}", hint="delete it from the specs and apply them"
        )


def _check_users(name: Name, users: list[ContainerRow], *, force: bool) -> None:
    if users and not force:
        raise ConflictError(
            f"{shown_name(name)} is the last name of an image that is used by {_listed(users)}",
            hint="remove the container first, or take only the name away with --force",
        )


def _listed(users: list[ContainerRow]) -> str:
    names = ", ".join(row.shown for row in users[:10]) + (", ..." if len(users) > 10 else "")
    return f"container{'s' if len(users) > 1 else ''} {names}"
