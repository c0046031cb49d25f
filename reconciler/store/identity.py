"""Who a root is: its random identity, its secret key, and whether the directory can be trusted.

ROOT/id names the root's runtime directory, its bridges and its network names, so two roots never collide. ROOT/key
seals what must be compared but never shown: secrets.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import stat
from contextlib import suppress
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.errors import HostError
from reconciler.linux import durable
from reconciler.linux.configured_mounts import unmounted_above
from reconciler.linux.tree import mount_points_below
from reconciler.store import probe
from reconciler.value import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

RUN = Path("/run/reconciler")
_ID = re.compile(r"[0-9a-f]{12}", re.ASCII)
_KEY_BYTES = 32
PLACE = "place.json"
# What a root in use always has. Without an id beside it, something was lost: a disk not mounted, a file deleted.
_STATE = ("state.db", "blobs", "layers", "containers")


@dataclass(frozen=True, slots=True)
class Identity:
    """One root: ``id`` is twelve hexadecimal digits, ``run`` its own runtime directory (which may not be there yet).

    ``exists`` is False for a root that no writer has made yet: id and key then last only as long as this value.
    """

    root: Path
    id: str
    run: Path
    key: bytes = field(repr=False)
    exists: bool = True

    def seal(self, value: bytes) -> str:
        """HMAC-SHA256 of a secret under the root's key, as 64 hexadecimal digits: equal exactly for equal values."""
        return hmac.new(self.key, value, hashlib.sha256).hexdigest()


def read_identity(root: Path, run: Path = RUN) -> Identity:
    """The identity of ``root``, for a reader: nothing is written.

    Raises ``HostError`` for a directory that is not to be trusted or has lost its identity.
    """
    if os.path.lexists(root):
        _check_directory(root)
        text = _read(root / "id")
        if text is not None:
            return _load(root, text, run)
    _check_unused(root, run)
    fresh = os.urandom(6).hex()
    return Identity(root, fresh, run / fresh, os.urandom(_KEY_BYTES), exists=False)


def claim_identity(root: Path, run: Path = RUN) -> Identity:
    """The identity of ``root``, for a writer that holds its lock: made if the root is new.

    Closes the directory to others (0700: it holds setuid files of images) and notes in the runtime directory where
    the root is. Raises ``HostError`` as ``read_identity`` does, and when the root was copied or moved while
    something of it is still mounted, and when its filesystem cannot hold a store (``probe``): nothing is put
    into it then.
    """
    _check_directory(root)
    probe.check_mount(root)
    with durable.guarded("close to others", root):
        root.chmod(0o700)
    durable.sweep_temporaries(root, point="identity.sweep")
    text = _read(root / "id")
    if text is None:
        _check_unused(root, run)
        probe.check_filesystem(root)
        if _read(root / "key") is None:
            durable.write_file(root / "key", os.urandom(_KEY_BYTES), point="identity.key")
        # It may have been made by a process that was killed before it was on disk.
        durable.sync_directory(root.parent, point="identity.root")
        # The id comes last: where it is, the key is.
        text = os.urandom(6).hex().encode() + b"\n"
        durable.write_file(root / "id", text, point="identity.id")
    identity = _load(root, text, run)
    note_place(identity)
    return identity


def prepare_root(root: Path, run: Path = RUN) -> None:
    """Makes the directory ``root`` (not its parents) if it is not there, so that it can be locked.

    Raises ``HostError`` as ``read_identity`` does.
    """
    if not os.path.lexists(root):
        _check_unused(root, run)
        durable.make_directory(root, point="identity.root")
    _check_directory(root)


def _check_directory(root: Path) -> None:
    with durable.guarded("use", root):
        status = root.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise HostError(f"{root} is a symbolic link", hint="give the directory it should point at as --root")
    if not stat.S_ISDIR(status.st_mode):
        raise HostError(f"{root} is not a directory", hint="give a directory as --root")
    if status.st_uid != os.geteuid():
        raise HostError(
            f"{root} belongs to user {status.st_uid}, not to user {os.geteuid()} who runs this",
            hint="run as its owner, or give another directory as --root",
        )
    if status.st_mode & 0o022:
        raise HostError(
            f"{root} can be written by others (mode {stat.S_IMODE(status.st_mode):04o}): it cannot be trusted",
            hint=f"look at what is in it, then chmod 0700 {root}",
        )


def _check_unused(root: Path, run: Path) -> None:
    """Refuses to take a directory without an identity for a new root where it once was, or should be, another's.

    An empty mount point looks like a new root: its disk may not be mounted yet, as early at boot (case S47).
    """
    for name in _STATE:
        if os.path.lexists(root / name):
            raise HostError(
                f"{root / 'id'} is missing, though {root / name} is there",
                hint="restore the file id from a backup, or mount the right disk; a new root must be empty",
            )
    if (missing := unmounted_above(root)) is not None:
        target, source = missing
        raise HostError(
            f"{root} is empty, and nothing is mounted at {target}, where {source} says that something should be",
            hint=f"mount it: mount {target}",
        )
    for directory in _in_use(root, run):
        raise HostError(
            f"{root} is empty, but a root of that name is in use: see {directory}",
            hint=f"mount its disk again; if the root was deleted for good, end what runs there and remove {directory}",
        )


def _in_use(root: Path, run: Path) -> Iterator[Path]:
    """Runtime directories that hold more than the note that they belong to a root at ``root``."""
    for note in sorted(run.glob(f"*/{PLACE}")):
        if _noted_path(_read(note)) == root.resolve() and len(os.listdir(note.parent)) > 1:  # noqa: PTH208
            yield note.parent


def _load(root: Path, text: bytes, run: Path) -> Identity:
    id_ = text.decode("ascii", "replace").strip()
    if _ID.fullmatch(id_) is None:
        raise HostError(f"{root / 'id'} is damaged", hint="restore it from a backup")
    key = _read(root / "key")
    if key is None or len(key) != _KEY_BYTES:
        raise HostError(f"{root / 'key'} is {'missing' if key is None else 'damaged'}", hint="restore it from a backup")
    return Identity(root, id_, run / id_, key)


def _read(path: Path) -> bytes | None:
    with durable.guarded("read", path):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            return file.read(4096)


def note_place(identity: Identity) -> None:
    """Notes in the runtime directory where the root is, and that its filesystem was probed there. The caller holds the
    root's lock.

    Raises ``HostError`` when the note names another directory and something of that one is in use, and for a filesystem
    that cannot hold a store.
    """
    note = identity.run / PLACE
    status = identity.root.lstat()
    place = {"device": status.st_dev, "inode": status.st_ino, "path": str(identity.root.resolve())}
    text = json.dumps(place).encode() + b"\n"
    noted = _read(note)
    if noted == text:
        return
    if noted is not None and (mounted := _mounted(identity, noted)):
        raise HostError(
            f"{identity.root} was copied or moved while in use: its identity {identity.id} belongs to "
            f"{noted.decode('utf-8', 'replace').strip()}, and {mounted[0]} is mounted",
            hint="move it back, or stop its containers where it was; a copy to keep needs another id and key",
        )
    probe.check_filesystem(identity.root)
    durable.make_directories(identity.run, point="identity.run")
    durable.sweep_temporaries(identity.run, point="identity.sweep", of=PLACE)
    durable.write_file(note, text, point="identity.place", sync=False)


def forget_place(identity: Identity) -> None:
    """Takes the note and the runtime directory away unless something else is in there. The caller holds the lock."""
    with suppress(OSError, HostError):
        if [path.name for path in identity.run.iterdir()] == [PLACE]:
            durable.unlink(identity.run / PLACE, point="identity.forget", sync=False)
            durable.remove_directory(identity.run, point="identity.forget")


def _mounted(identity: Identity, noted: bytes) -> tuple[Path, ...]:
    before = _noted_path(noted) or identity.root
    return tuple(point for top in (identity.run, identity.root, before) for point in mount_points_below(top))


def _noted_path(noted: bytes | None) -> Path | None:
    try:
        return Path(json.loads(noted or b"")["path"])
    except (ValueError, KeyError, TypeError):
        return None
