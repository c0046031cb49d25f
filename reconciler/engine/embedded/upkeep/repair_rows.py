"""Mending rows that make no sense: written again from what is on disk, or deleted. Nothing on disk is deleted."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator

from reconciler.engine.embedded.state import WriterState
from reconciler.engine.embedded.upkeep.rebuild import image_of
from reconciler.linux import durable
from reconciler.oci.digest import Digest
from reconciler.store.check.claims import MALFORMED
from reconciler.store.check.damage import Damage, Repaired
from reconciler.store.quarantine import Quarantine


def mend_rows(state: WriterState, damage: Iterable[Damage]) -> Iterator[Repaired]:
    """What was done about each damage that rows can do something about. Needs the root's lock."""
    steps: dict[tuple[str, str], Callable[[WriterState, Damage], str]] = {
        ("image", "malformed"): _image,
        ("image", "wrong-row"): _image,
        ("image", "wrong-size"): _image,
        ("name", "malformed"): _name,
        ("name", "dangling"): _name,
        ("layer", "malformed"): _layer,
        ("layer", "wrong-row"): _layer,
        ("layer", "no-parent"): _layer,
        ("layer", "no-directory"): _layer,
        ("lease", "malformed"): _lease,
        ("container", "malformed"): _container,
        ("container", "no-directory"): _container,
        ("container", "no-work"): _work,
        ("container", "no-image"): _container_image,
    }
    order = list(steps)
    known = [item for item in damage if (item.kind, item.code) in steps]
    for item in sorted(known, key=lambda item: order.index((item.kind, item.code))):
        try:
            yield Repaired(item.kind, item.id, True, steps[item.kind, item.code](state, item))
        except (*MALFORMED, sqlite3.Error) as error:
            yield Repaired(item.kind, item.id, False, str(error))
    for item in damage:
        if item.code == "dangling-row":
            count = _drop_dangling(state, item.id)
            yield Repaired("database", item.id, True, f"deleted {count} rows that referred to nothing")


def _image(state: WriterState, item: Damage) -> str:
    """Writes the row again from the manifest; without one it goes, and its names with it."""
    record = image_of(state.content, Digest(item.id)) if _is_digest(item.id) else None
    with state.database.transaction() as connection:
        names = connection.execute("SELECT * FROM names WHERE digest = ?", (item.id,)).fetchall()
        connection.execute("DELETE FROM names WHERE digest = ?", (item.id,))
        connection.execute("DELETE FROM images WHERE digest = ?", (item.id,))
        if record is not None:
            state.images.add(record)
            connection.executemany("INSERT INTO names VALUES (?, ?, ?, ?)", [tuple(name) for name in names])
            return "its row was written again from its manifest"
    lost = ", ".join(str(name["name"]) for name in names) or "none"
    return f"its row was deleted; names lost: {lost}"


def _name(state: WriterState, item: Damage) -> str:
    """Records the image again if its manifest is there; else the name goes."""
    text = item.id.removeprefix("tag ")
    rows = state.database.query("SELECT digest FROM names WHERE name = ?", (text,))
    digest = rows[0]["digest"] if rows else ""
    record = image_of(state.content, Digest(digest)) if item.code == "dangling" and _is_digest(digest) else None
    if record is not None:
        state.images.add(record)
        return "the image that it means was recorded again from its manifest"
    with state.database.transaction() as connection:
        connection.execute("DELETE FROM names WHERE name = ?", (text,))
    return "the name was deleted: pull or tag the image again"


def _layer(state: WriterState, item: Damage) -> str:
    with state.database.transaction() as connection:
        connection.execute("DELETE FROM layers WHERE chain_id = ?", (item.id,))
    return "its row was deleted; it is unpacked again when it is needed"


def _lease(state: WriterState, item: Damage) -> str:
    with state.database.transaction() as connection:
        connection.execute("DELETE FROM leases WHERE id IN (SELECT lease FROM lease_items WHERE item = ?)", (item.id,))
        if item.id == "leases":  # one of them, and nobody can say which
            connection.execute("DELETE FROM leases")
    return "the lease was ended"


def _container(state: WriterState, item: Damage) -> str:
    """Takes the row away. The files, with the writable layer, are kept aside: they are somebody's data."""
    aside = Quarantine(state.root).take(state.root / "containers" / item.id, "container") if _is_id(item.id) else None
    with state.database.transaction() as connection:
        connection.execute("DELETE FROM containers WHERE id = ?", (item.id,))
    kept = f"; its files are kept in {aside}" if aside else ""
    return f"the container was forgotten{kept}; if a spec declares it, the next apply makes it again"


def _work(state: WriterState, item: Damage) -> str:
    work = state.container_dir(item.id) / "work"
    Quarantine(state.root).take(work, "container")
    durable.make_directory(work, point="repair.work")
    return "the empty directory that overlayfs works in was made again"


def _container_image(state: WriterState, item: Damage) -> str:
    digest = state.containers.get(item.id).image
    record = image_of(state.content, digest)
    if record is None:
        raise ValueError(f"image {digest} is not in the store: pull it again, or remove the container")
    state.images.add(record)
    return "its image was recorded again from its manifest"


def _drop_dangling(state: WriterState, table: str) -> int:
    """Deletes the rows of one table that refer to rows which are not there."""
    dropped = 0
    with state.database.transaction() as connection:
        for key in connection.execute(f"PRAGMA foreign_key_list({table})").fetchall():
            column, parent, target = key["from"], key["table"], key["to"]
            cursor = connection.execute(
                f"DELETE FROM {table} WHERE {column} IS NOT NULL AND {column} NOT IN (SELECT {target} FROM {parent})"
            )
            dropped += cursor.rowcount
    return dropped


def _is_digest(text: str) -> bool:
    try:
        Digest(text)
    except MALFORMED:
        return False
    return True


def _is_id(text: str) -> bool:
    return bool(text) and text.isalnum()
