"""Making ROOT/state.db again when it is damaged or gone (case S35).

What can still be read of it is taken over; then what the disk tells: images from their manifests, containers and
volumes from their directories. The new database is finished beside the old one and then takes its place; the old one
is kept in the quarantine. Nothing that was found is left without a name, for then gc would take it.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from reconciler.clock import SystemClock, rfc3339
from reconciler.engine.embedded.state import SCHEMAS, WriterState
from reconciler.engine.embedded.upkeep.adopt import adopt_containers, adopt_volumes
from reconciler.errors import ReconcilerError
from reconciler.linux import durable, watch
from reconciler.linux.tree import disk_usage, remove_tree
from reconciler.oci.config import MAX_CONFIG_BYTES, ImageConfig
from reconciler.oci.digest import Digest
from reconciler.oci.manifest import MAX_MANIFEST_BYTES, Index, Manifest, parse_manifest
from reconciler.store.backup import BACKUP
from reconciler.store.check.damage import Repaired
from reconciler.store.content import ContentStore
from reconciler.store.database import FILE, WritableDatabase, connect
from reconciler.store.identity import claim_identity
from reconciler.store.images import ImageRecord, LayerRecord, Name
from reconciler.store.layers.file_list import read_file_list
from reconciler.store.quarantine import Quarantine

RECOVERED = "localhost/recovered"
"""The repository under which images are named that lost their names."""
_POINT = "rebuild"
_MAKING, _READY = ".rebuild", ".rebuild-ready"
# Owners of leases have ended, and what is derived from the schema is made with it.
_NOT_TAKEN = frozenset({"leases", "lease_items", "schema_versions", "sqlite_sequence"})


def rebuild_database(root: Path) -> Iterator[Repaired]:
    """Replaces the database, and says what was found and what is lost. Needs the root's lock, and nobody's handle.

    Raises ``HostError`` when something cannot be written; the old database is then still in its place.
    """
    if not is_unfinished(root):
        yield from _make(root)
    yield _take_place(root)


def is_unfinished(root: Path) -> bool:
    """Whether a rebuild was cut off when its database was ready and not yet in its place."""
    return (root / _READY / FILE).exists()


def image_of(content: ContentStore, digest: Digest) -> ImageRecord | None:
    """The record of the image with this manifest, as its manifest and config tell it; None if it is not an image here.

    Raises ``IntegrityError`` when a part is damaged.
    """
    if not content.has(digest):
        return None
    data = content.read(digest, MAX_MANIFEST_BYTES)
    manifest = parse_manifest(data)
    if not isinstance(manifest, Manifest) or not manifest.is_image or not content.has(manifest.config.digest):
        return None
    config = ImageConfig.parse(content.read(manifest.config.digest, MAX_CONFIG_BYTES))
    if len(config.diff_ids) != len(manifest.layers):
        return None
    layers = tuple(
        LayerRecord(layer.digest, layer.size, layer.media_type, diff_id)
        for layer, diff_id in zip(manifest.layers, config.diff_ids, strict=True)
    )
    size = len(data) + sum(blob.size for blob in manifest.blobs)
    now = rfc3339(SystemClock().now())
    return ImageRecord(
        digest, manifest.media_type, manifest.config, layers, None, config.platform, size, config.created, now
    )


def _make(root: Path) -> Iterator[Repaired]:
    making = root / _MAKING
    for left in (making, root / _READY):
        remove_tree(left, point=_POINT)
    durable.make_directory(making, point=_POINT)
    WritableDatabase(making, SCHEMAS).close()
    yield from _salvage(root, making)
    with contextlib.closing(WriterState(claim_identity(root), WritableDatabase(making, SCHEMAS))) as state:
        yield from _find_images(state)
        yield from _find_layers(state)
        yield from adopt_containers(state)
        yield from adopt_volumes(state)
    durable.sync_file(making / FILE, point=_POINT)
    durable.rename(making, root / _READY, point=_POINT)


def _take_place(root: Path) -> Repaired:
    """Every step may be repeated: a crash in between leaves the damaged database, or none, which is refused too."""
    quarantine = Quarantine(root)
    # The old log goes first: beside the new database it would be taken for its own.
    for suffix in ("-wal", "-shm", ""):
        quarantine.take(root / f"{FILE}{suffix}", "database")
    durable.rename(root / _READY / FILE, root / FILE, point=_POINT)
    remove_tree(root / _READY, point=_POINT)
    return Repaired("database", FILE, True, f"a new one took its place; the old one is kept in {quarantine.directory}")


def _salvage(root: Path, making: Path) -> Iterator[Repaired]:
    """Copies the rows that can still be read, whatever they are worth: what makes no sense is mended as rows are.

    Those of the backup fill the gaps, unless what they stand for is gone from the disk.
    """
    old, backup = _copied(root, making, FILE), _copied(root, making, BACKUP)
    with (
        contextlib.closing(connect(old.as_uri())) as damaged,
        contextlib.closing(connect(backup.as_uri())) as kept,
        contextlib.closing(connect((making / FILE).as_uri())) as new,
    ):
        new.execute("BEGIN")
        tables = [row[0] for row in new.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()]
        taken = sorted(set(tables) - _NOT_TAKEN)
        lost = [table for table in taken if not _copy_table(damaged, new, table)]
        fresh = {key: {row[0] for row in new.execute(f"SELECT {column} FROM {key}")} for key, column in _ON_DISK}
        not_kept = [table for table in lost if not _copy_table(kept, new, table)]
        _drop_stale(new, root, fresh)
        for table in tables:
            _drop_dangling(new, table)
        counts = {table: new.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in taken}
        with watch.operation(_POINT, "commit", making / FILE):
            new.execute("COMMIT")
    for copy in (old, backup):
        remove_tree(copy.parent, point=_POINT)
    found = ", ".join(f"{count} {table}" for table, count in counts.items() if count)
    yield Repaired("database", FILE, True, f"rows taken over from what is left: {found or 'none'}")
    if not_kept:
        yield Repaired("database", FILE, False, f"rows are lost, all or some, of: {', '.join(not_kept)}")
    elif lost:
        when = "as they were at the last recorded apply, where they could not be read"
        yield Repaired("database", FILE, True, f"{when}: {', '.join(lost)}")


def _copied(root: Path, making: Path, name: str) -> Path:
    """A copy that SQLite may write to, with its log; empty when there is none."""
    directory = making / f"copy-{name}"
    durable.make_directory(directory, point=_POINT)
    for suffix in ("", "-wal"):
        source, target = root / f"{name}{suffix}", directory / f"{name}{suffix}"
        with (
            durable.guarded("copy", source),
            watch.operation(_POINT, "entry", target),
            contextlib.suppress(FileNotFoundError),
        ):
            shutil.copyfile(source, target)
    return directory / name


# What the rows of these tables stand for is on disk, under this column's value.
_ON_DISK = (("images", "digest"), ("layers", "chain_id"), ("containers", "id"))


def _drop_stale(new: sqlite3.Connection, root: Path, fresh: dict[str, set[str]]) -> None:
    """Deletes the rows of the backup whose image, layer or container was removed after it was made."""
    places = {"images": root / "blobs" / "sha256", "layers": root / "layers", "containers": root / "containers"}
    for table, column in _ON_DISK:
        for (value,) in new.execute(f"SELECT {column} FROM {table}").fetchall():
            if value not in fresh[table] and not (places[table] / str(value).removeprefix("sha256:")).exists():
                new.execute(f"DELETE FROM {table} WHERE {column} = ?", (value,))


def _copy_table(old: sqlite3.Connection, new: sqlite3.Connection, table: str) -> bool:
    """From both ends, as far as the damage lets it be read; True when nothing was in the way."""
    columns = [row["name"] for row in new.execute(f"PRAGMA table_info({table})").fetchall()]
    whole = True
    for direction in ("ASC", "DESC"):
        try:
            there = {row["name"] for row in old.execute(f"PRAGMA table_info({table})").fetchall()}
            names = ", ".join(column for column in columns if column in there)
            if not names:
                return table not in _EXPECTED
            marks = ", ".join("?" for column in columns if column in there)
            for row in old.execute(f"SELECT {names} FROM {table} ORDER BY 1 {direction}"):
                new.execute(f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({marks})", tuple(row))
        except sqlite3.DatabaseError:
            whole = False
        else:
            break
    return whole


# Without these in the old file it was no database of ours, and they are lost.
_EXPECTED = frozenset({"images", "names", "containers", "generations", "networks", "volumes", "entries", "tags"})


def _drop_dangling(connection: sqlite3.Connection, table: str) -> None:
    for key in connection.execute(f"PRAGMA foreign_key_list({table})").fetchall():
        connection.execute(
            f"DELETE FROM {table} WHERE {key['from']} IS NOT NULL"
            f" AND {key['from']} NOT IN (SELECT {key['to']} FROM {key['table']})"
        )


def _find_images(state: WriterState) -> Iterator[Repaired]:
    """Records every image whose manifest is there, and names those that have lost their names."""
    known = {str(row["digest"]) for row in state.database.query("SELECT digest FROM images")}
    indices: dict[Digest, Digest] = {}
    found: list[ImageRecord] = []
    for digest in sorted(state.content.digests()):
        try:
            if digest in known or state.content.size(digest) > MAX_MANIFEST_BYTES:
                continue
            parsed = parse_manifest(state.content.read(digest, MAX_MANIFEST_BYTES))
            if isinstance(parsed, Index):
                indices.update({entry.digest: digest for entry in parsed.manifests})
            elif (record := image_of(state.content, digest)) is not None:
                state.images.add(record)
                found.append(record)
        except ReconcilerError:
            continue  # a config, a layer, or damaged: it is told of when the blobs are checked
    named = {str(row["digest"]) for row in state.database.query("SELECT digest FROM names")}
    with state.database.transaction() as connection:
        for record in found:
            if record.digest in indices:
                query = "UPDATE images SET index_digest = ? WHERE digest = ?"
                connection.execute(query, (indices[record.digest], record.digest))
            if record.digest not in named:
                name = f"{RECOVERED}:{record.digest.short}"
                state.names.set(Name(name, record.digest, "", "tag"))
                yield Repaired("image", record.digest, True, f"found on disk; it has lost its names and is now {name}")


def _find_layers(state: WriterState) -> Iterator[Repaired]:
    """Records every unpacked layer of these images: a directory gets its name once it is complete and on disk."""
    count = 0
    for image in state.images.list():
        parent = None
        for chain_id, layer in zip(image.chain_ids, image.layers, strict=True):
            path = state.layers.path(chain_id)
            if state.layers.has(chain_id):
                parent = chain_id
                continue
            if not path.is_dir() or path.is_symlink():
                break  # what lies above it can only be used with it
            entries = _entries(state.layers.files(chain_id))
            with state.database.transaction() as connection:
                connection.execute(
                    "INSERT INTO layers (chain_id, parent, diff_id, blob, size, entries) VALUES (?, ?, ?, ?, ?, ?)",
                    (chain_id, parent, layer.diff_id, layer.digest, disk_usage(path), entries),
                )
            parent = chain_id
            count += 1
    if count:
        yield Repaired("layer", "all", True, f"{count} unpacked layers were found on disk, and recorded again")


def _entries(files: Path) -> int:
    try:
        return sum(1 for _ in read_file_list(files))
    except ReconcilerError:
        return 0
