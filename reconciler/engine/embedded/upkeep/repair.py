"""``store verify --repair``: what ``verify`` found, mended as far as it can be, and looked at again.

    before, repaired, after = repair_root(engine, layers=True, timeout=10)

In this order: the database, rows, blobs, layers; each may need those before it. Everything is done by steps that a
crash may cut anywhere, and doing it again does the rest.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.engine.embedded.state import open_writer
from reconciler.engine.embedded.upkeep.collect import Collection
from reconciler.engine.embedded.upkeep.rebuild import is_unfinished, rebuild_database
from reconciler.engine.embedded.upkeep.repair_blobs import BlobSource, put_aside_damaged
from reconciler.engine.embedded.upkeep.repair_layers import LayerRepair
from reconciler.engine.embedded.upkeep.repair_rows import mend_rows
from reconciler.engine.embedded.upkeep.verify import Progress, verify_root
from reconciler.errors import ReconcilerError
from reconciler.linux import durable
from reconciler.linux.lock import DirectoryLock
from reconciler.oci.digest import Digest
from reconciler.store.check.damage import Repaired, Report

if TYPE_CHECKING:
    from reconciler.engine.embedded.engine import EmbeddedEngine

__all__ = ["Repaired", "repair_root"]

_FOREVER = 10 * 365 * 86400.0
_LOST_DATABASE = ("corrupt", "lost")
_AGAIN = ("changed-files", "bad-list", "unreadable", "not-unpacked", "no-directory")
_SWEPT = ("layer", "blob", "partial")


def repair_root(
    engine: EmbeddedEngine, *, layers: bool = False, timeout: float | None = None, progress: Progress | None = None
) -> tuple[Report, list[Repaired], Report]:
    """What was damaged, what was done about it, and what still is.

    ``layers`` as for ``verify_root``. Raises ``LockedError`` when the root is in use for longer than ``timeout``
    seconds, and ``HostError`` for a root that cannot be trusted.
    """
    root = engine.root
    with DirectoryLock(root).acquire(_FOREVER if timeout is None else timeout):
        before = verify_root(root, layers=layers, progress=progress)
        repaired = [*_close_to_others(before), *_mend_records(root, before)]
    with engine.turn(timeout):  # its start clears away what ended containers left
        machinery = engine.writer()
        state = machinery.state
        repaired += _fetch(engine, before)
        now = verify_root(root, layers=layers, blobs=False, state=state)
        again = [item.id for item in now.damage if item.kind == "layer" and item.code in _AGAIN]
        repaired += LayerRepair(machinery).run(Digest(id_) for id_ in again)
        if not any(item.kind == "database" for item in before.damage):
            repaired += _sweep(Collection(machinery))
        after = verify_root(root, layers=layers, state=state, progress=progress)
    return before, repaired, after


def _close_to_others(report: Report) -> Iterator[Repaired]:
    for item in report.damage:
        if item.code == "open-to-others":
            path = Path(item.id)
            mode = stat.S_IMODE(path.lstat().st_mode) & 0o700
            with durable.guarded("close to others", path):
                path.chmod(mode)
            yield Repaired(item.kind, item.id, True, f"its mode is {mode:04o} now")


def _mend_records(root: Path, report: Report) -> Iterator[Repaired]:
    """The database and its rows. Needs the root's lock, and that nobody has the database open in this process."""
    damage = list(report.damage)
    if is_unfinished(root) or any(item.kind == "database" and item.code in _LOST_DATABASE for item in damage):
        yield from rebuild_database(root)
        damage = list(verify_root(root, blobs=False).damage)
    with closing(open_writer(root)) as state:
        yield from mend_rows(state, damage)
        # What was mended may have uncovered more: an image that is back needs its parts.
        state.close_pass()


def _fetch(engine: EmbeddedEngine, before: Report) -> Iterator[Repaired]:
    """Blobs: damaged ones are put aside, and those that an image needs are fetched again."""
    state = engine.writer().state
    source = BlobSource(state, engine.client)
    missing = verify_root(state.root, blobs=False, state=state).damage
    for digest in dict.fromkeys(Digest(item.id) for item in (*before.damage, *missing) if item.kind == "blob"):
        try:
            aside = put_aside_damaged(state, [digest])
            kept = f"; the damaged one is kept in {aside[digest]}" if aside else ""
            if _is_needed(engine, digest):
                yield Repaired("blob", digest, True, f"fetched again from {source.fetch(digest)}{kept}")
            elif aside:
                yield Repaired("blob", digest, True, f"put aside: nothing needs it{kept}")
        except ReconcilerError as error:
            hint = f" ({error.hint})" if error.hint else ""
            text = f"cannot be had again: {error}{hint}; what needs it stays incomplete until the next pull or apply"
            yield Repaired("blob", digest, False, text)


def _is_needed(engine: EmbeddedEngine, digest: Digest) -> bool:
    images = engine.writer().state.images.list()
    return any(digest in (*image.blobs, image.index_digest) for image in images)


def _sweep(collection: Collection) -> Iterator[Repaired]:
    """What no row claims goes, by gc's own rules. Not after a rebuild: what was not recognised is not garbage."""
    try:
        items = [item for item in collection.plan() if item.kind in _SWEPT and "interrupted" in item.why]
        for item in collection.collect(items):
            yield Repaired(item.kind, item.id, True, f"swept: {item.why}")
    except ReconcilerError as error:
        yield Repaired("root", "garbage", False, f"nothing was swept: {error}")
