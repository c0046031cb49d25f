"""Unpacking what a container is about to need.

An image is complete when its blobs are. Its layers are made of them: those of a pull as they arrive, that of a commit
when a container first needs it, for most commits are pushed and never run here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.errors import NotFoundError

if TYPE_CHECKING:
    from reconciler.engine.embedded.state import State
    from reconciler.oci.digest import Digest
    from reconciler.store.images import ImageRecord


def is_unpacked(state: State, record: ImageRecord) -> bool:
    """Whether every layer of an image is ready to be mounted."""
    return all(state.layers.has(chain_id) for chain_id in record.chain_ids)


def unpack_image(state: State, digest: Digest) -> None:
    """Makes every layer of an image ready to be mounted; a no-op when they are. Needs the turn.

    Raises ``NotFoundError`` when the image or a blob of it is gone, and what ``Unpacking.unpack`` raises.
    """
    record = state.images.get(digest)
    if record is None:
        raise NotFoundError(f"image {digest.short} is not on this host", hint="pull it first")
    if is_unpacked(state, record):
        return
    diff_ids = [layer.diff_id for layer in record.layers]
    with (
        state.leases.take(f"unpack {digest.short}", [digest, *record.chain_ids]),
        state.layers.unpacking(diff_ids) as unpacking,
    ):
        for at in unpacking.missing:
            with state.content.open(record.layers[at].digest) as blob:
                unpacking.unpack(at, blob, record.layers[at].digest)
        unpacking.publish()
