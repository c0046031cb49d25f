"""``reconciler image tag`` and ``rm``."""

from __future__ import annotations

import argparse

from reconciler.cli.context import Context
from reconciler.cli.table import size
from reconciler.engine.embedded.images.adhoc import check_movable
from reconciler.engine.embedded.images.lookup import find_image
from reconciler.engine.embedded.images.removal import ImageRemoval
from reconciler.errors import InvalidError
from reconciler.oci.reference import Reference
from reconciler.printable import printable
from reconciler.store.images import Name


def tag(context: Context, options: argparse.Namespace) -> int:
    """Gives an image one more name on this host, moving the name if it meant another image."""
    reference = Reference.parse(options.target)
    if reference.digest is not None:
        raise InvalidError(f"{reference.familiar}: a digest cannot be given to an image", hint="write NAME:TAG")
    with context.engine() as engine, engine.turn(context.lock_timeout):
        state = engine.writer().state
        record = find_image(state, options.source).record
        check_movable(state, reference, record.digest)
        known = state.names.lookup(str(reference))
        if known is None or known.digest != record.digest:
            state.names.set(Name(str(reference), record.digest, "", "tag"))
    return 0


def remove(context: Context, options: argparse.Namespace) -> int:
    """Removes names, and at once the bytes that nothing needs any more; all that was asked for, or nothing."""
    with context.engine() as engine, engine.turn(context.lock_timeout):
        removed = ImageRemoval(engine.writer()).remove(options.names, force=options.force)
    for name in removed.names:
        context.print(f"Untagged: {printable(name)}")
    for digest in (*removed.images, *removed.layers):
        context.print(f"Deleted: {digest}")
    for digest in removed.kept:
        context.note(f"{digest} stays: a container or a generation that can be rolled back to needs it")
    if removed.freed:
        context.note(f"{size(removed.freed)} freed")
    return 0
