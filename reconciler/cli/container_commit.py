"""``reconciler container commit``."""

from __future__ import annotations

import argparse
import time

from reconciler.cli.context import Context
from reconciler.cli.instructions import config_changes
from reconciler.engine.embedded.containers.config import container_config
from reconciler.engine.embedded.containers.rows import find_container
from reconciler.engine.embedded.containers.spec import StartSpec
from reconciler.engine.embedded.images.commit import commit_container
from reconciler.errors import InvalidError, NotFoundError
from reconciler.model.address import Address
from reconciler.model.resources import Commit
from reconciler.oci.reference import Reference
from reconciler.store.images import Name


def run(context: Context, options: argparse.Namespace) -> int:
    """Makes an image of the container's writable layer on top of its image, and prints its digest.

    It runs as the container does: that one's environment, command, user and labels become the image's, but for values
    that are sensitive; ``--change`` has the last word. A running container is paused while its layer is read.
    Committing an ended container again gives the same image.
    """
    changes = config_changes(options.change)
    reference = Reference.parse(options.reference) if options.reference else None
    if reference is not None and reference.digest is not None:
        raise InvalidError(f"{reference.familiar}: a digest cannot be given to an image", hint="write NAME:TAG")
    with context.engine() as engine, engine.turn(context.lock_timeout):
        machinery = engine.writer()
        state = machinery.state
        row = find_container(state.containers.all(), options.name)
        image = state.images.get(row.image)
        if image is None:
            raise NotFoundError(f"the image of container {row.shown} is gone", hint="pull it again")
        spec = StartSpec.from_json((state.container_dir(row.id) / "spec.json").read_text())
        record = commit_container(
            state,
            row,
            Commit(Address("container", row.shown), options.author, options.message),
            config=changes,
            created=row.finished_at if row.finished_at is not None else time.time(),
            command=" ".join(row.settings.args),
            base_config=container_config(row, spec, state.config(image)),
            still=machinery.containers.paused(row) if options.pause == "true" else None,
        )
        if reference is not None:
            from reconciler.engine.embedded.images.adhoc import check_movable

            check_movable(state, reference, record.digest)
            state.names.set(Name(str(reference), record.digest, "", "tag"))
    context.print(record.digest)
    return 0
