"""Who keeps a thing in the store: from a blob, a layer, an image or a name up to every reason for which it stays."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from reconciler.engine.embedded.images.lookup import find_image
from reconciler.engine.embedded.machinery import Machinery
from reconciler.engine.embedded.upkeep.collect import Collection, Item
from reconciler.engine.embedded.upkeep.roots import Keeper, Roots
from reconciler.errors import ConflictError, NotFoundError
from reconciler.oci.digest import Digest
from reconciler.store.images import ImageRecord
from reconciler.value import dataclass

ThingKind = Literal["image", "index", "layer", "blob"]
_DIGITS = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})", re.ASCII)
_CANDIDATES = 10


@dataclass(frozen=True, slots=True)
class Thing:
    """Something in the store. ``part`` says what it is to the one before it in a chain: ``layer 2 of 5``."""

    kind: ThingKind
    digest: Digest
    part: str = ""


@dataclass(frozen=True, slots=True)
class Chain:
    """One way from a thing to a reason: the things on it, the one asked for first."""

    things: tuple[Thing, ...]
    keeper: Keeper


@dataclass(frozen=True, slots=True)
class Why:
    """``chains`` are empty when nothing keeps ``thing``; ``garbage`` is then what gc would say of it, if it has bytes
    or a row of its own. ``size`` is in bytes on disk."""

    thing: Thing
    size: int
    chains: tuple[Chain, ...]
    garbage: Item | None


class Inquiry:
    """Reads only."""

    def __init__(self, machinery: Machinery) -> None:
        self._machinery = machinery
        self._state = machinery.state

    def why(self, wanted: str) -> Why:
        """``wanted`` is a digest or the beginning of one, of an image, index, blob or layer (its chain ID or diff ID),
        or the name of an image. Raises ``NotFoundError``, and ``ConflictError`` that lists what it could mean.
        """
        return self._state.database.consistent(lambda: self._why(wanted))

    def _why(self, wanted: str) -> Why:
        images = {image.digest: image for image in self._state.images.list()}
        thing = self._find(wanted, images)
        chains = tuple(self._chains(thing, images))
        name = thing.digest.hex if thing.kind == "layer" else str(thing.digest)
        garbage = None
        if not chains:
            listed = Collection(self._machinery).plan()
            garbage = next((item for item in listed if item.id == name and item.kind in (thing.kind, "blob")), None)
        return Why(thing, self._size(thing), chains, garbage)

    # What is meant

    def _find(self, wanted: str, images: dict[Digest, ImageRecord]) -> Thing:
        match = _DIGITS.fullmatch(wanted)
        try:
            # Names win over ids. A digest in full can be no name.
            found = find_image(self._state, wanted)
            if found.name is not None or match is None:
                return Thing("image", found.record.digest)
        except (NotFoundError, ConflictError):
            if match is None:
                raise NotFoundError(
                    f"nothing called {wanted[:200]!a} on this host", hint="list images with: reconciler image ls"
                ) from None
        assert match is not None
        things = list(dict.fromkeys(self._beginning_with(match[1], images)))
        if not things:
            raise NotFoundError(
                f"nothing in this store has a digest that begins with {match[1]}",
                hint="see what is there: reconciler image ls, reconciler image inspect NAME",
            )
        if len(things) > 1:
            shown = "".join(f"\n  {thing.kind} {thing.digest}" for thing in things[:_CANDIDATES])
            more = f"\n  and {len(things) - _CANDIDATES} more" if len(things) > _CANDIDATES else ""
            raise ConflictError(f"{wanted!a} could mean:{shown}{more}", hint="write more of the digest")
        return things[0]

    def _beginning_with(self, digits: str, images: dict[Digest, ImageRecord]) -> Iterator[Thing]:
        prefix = f"sha256:{digits}"
        indices = {image.index_digest for image in images.values()}
        for digest in images:
            if digest.startswith(prefix):
                yield Thing("image", digest)
        for row in self._state.database.query(
            "SELECT chain_id FROM layers WHERE chain_id >= ? AND chain_id < ?"
            " OR diff_id >= ? AND diff_id < ? ORDER BY chain_id",
            (prefix, f"{prefix}g") * 2,  # "g" sorts behind every hexadecimal digit
        ):
            yield Thing("layer", Digest(row["chain_id"]))
        for digest in sorted(self._state.content.digests()):
            if digest.startswith(prefix) and digest not in images:
                yield Thing("index" if digest in indices else "blob", digest)

    # Who keeps it

    def _chains(self, thing: Thing, images: dict[Digest, ImageRecord]) -> Iterator[Chain]:
        keepers: dict[Digest, list[Keeper]] = {}
        roots = Roots(self._state)
        for keeper in (*roots.names(), *roots.keepers(), *roots.leases()):
            keepers.setdefault(keeper.target, []).append(keeper)
        for keeper in keepers.get(thing.digest, ()):
            yield Chain((thing,), keeper)
        if thing.kind == "image":
            return
        above = self._layers_above(thing.digest) if thing.kind == "layer" else []
        for chain_id in above:
            for keeper in keepers.get(chain_id, ()):
                yield Chain((thing, Thing("layer", chain_id, "the layer above it")), keeper)
        for image in images.values():
            part = _part_of(thing, image)
            if part:
                for keeper in keepers.get(image.digest, ()):
                    yield Chain((thing, Thing("image", image.digest, part)), keeper)

    def _layers_above(self, chain_id: Digest) -> list[Digest]:
        rows = self._state.database.query(
            "WITH RECURSIVE above (id) AS (SELECT chain_id FROM layers WHERE parent = ?"
            " UNION SELECT chain_id FROM layers JOIN above ON parent = id) SELECT id FROM above",
            (chain_id,),
        )
        return [Digest(row["id"]) for row in rows]

    def _size(self, thing: Thing) -> int:
        if thing.kind == "layer":
            rows = self._state.database.query("SELECT size FROM layers WHERE chain_id = ?", (thing.digest,))
            return rows[0]["size"] if rows else 0
        path = self._state.content.path(thing.digest)
        return path.stat().st_blocks * 512 if path.exists() else 0


def _part_of(thing: Thing, image: ImageRecord) -> str:
    """What the thing is to an image; empty when it is no part of it."""
    count = len(image.layers)
    if thing.kind == "layer":
        return f"layer {image.chain_ids.index(thing.digest) + 1} of {count}" if thing.digest in image.chain_ids else ""
    if thing.digest == image.index_digest:
        return "the index it was chosen from"
    if thing.digest == image.config.digest:
        return "its config"
    for at, layer in enumerate(image.layers, 1):
        if layer.digest == thing.digest:
            return f"layer {at} of {count}, as distributed"
    return ""
