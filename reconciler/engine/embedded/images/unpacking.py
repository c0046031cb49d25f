"""Unpacking what a container is about to need.

An image is complete when its blobs are. Its layers are made of them: those of a pull as they arrive, that of a commit
when a container first needs it, for most commits are pushed and never run here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.errors import IntegrityError, InvalidError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconciler.engine.embedded.state import State
    from reconciler.oci.digest import Digest
    from reconciler.store.images import ImageRecord


def is_unpacked(state: State, record: ImageRecord) -> bool:
    """Whether every layer of an image is ready to be mounted."""
    return all(state.layers.has(chain_id) for chain_id in record.chain_ids)


def unpack_image(state: State, digest: Digest, fetch: Callable[[Digest], object] | None = None) -> None:
    """Makes every layer of an image ready to be mounted; a no-op when they are. Needs the turn.

    A blob that proves damaged is put in the quarantine, and got again with ``fetch`` if there is one. Raises
    ``NotFoundError`` when the image or a blob of it is gone, ``IntegrityError`` when one is damaged (the next pull or
    apply gets it), and what ``fetch`` and ``Unpacking.unpack`` raise.
    """
    record = state.images.get(digest)
    if record is None:
        raise NotFoundError(f"image {digest.short} is not on this host", hint="pull it first")
    if is_unpacked(state, record):
        return
    try:
        _unpack(state, record)
    except (IntegrityError, InvalidError) as error:
        from reconciler.engine.embedded.upkeep.repair_blobs import put_aside_damaged

        damaged = put_aside_damaged(state, (layer.digest for layer in record.layers))
        if not damaged:
            raise
        if fetch is None:
            raise IntegrityError(
                f"image {digest.short} cannot be unpacked: {', '.join(sorted(damaged))} was damaged on disk",
                hint="pull the image or apply again, to fetch it anew",
            ) from error
        for blob in damaged:
            fetch(blob)
        _unpack(state, record)


def _unpack(state: State, record: ImageRecord) -> None:
    digest = record.digest
    diff_ids = [layer.diff_id for layer in record.layers]
    with (
        state.leases.take(f"unpack {digest.short}", [digest, *record.chain_ids]),
        state.layers.unpacking(diff_ids) as unpacking,
    ):
        for at in unpacking.missing:
            with state.content.open(record.layers[at].digest) as blob:
                unpacking.unpack(at, blob, record.layers[at].digest)
        unpacking.publish()
