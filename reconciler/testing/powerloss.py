"""What a disk may hold after the power was cut, built from a recording (``iolog``) with un-synced parts left to chance.

A filesystem promises no more than POSIX does: the bytes of a file are there after its fsync, and a name after the
fsync of its directory. Until then each change of a directory may or may not have reached the disk, in any order; of a
rename the old name, the new one or both are there. Bytes that were not synced are absent, zeros, or there in part.
SQLite syncs its own files: a commit that was reported is there, one that was not may be there in part.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from random import Random

from reconciler.testing.iolog import Record

_PAGE = 4096
_DATABASE = "state.db"
State = dict[str, bytes | Path | None]
"""Of each path its bytes, None for a directory, or the copy of all that it holds."""


@dataclass(slots=True, eq=False)
class _Inode:
    """A file or a directory: what is on disk for sure, and what may have reached it since."""

    is_directory: bool
    data: bytes = b""
    written: bytes | None = None
    entries: dict[str, _Inode] = field(default_factory=dict)
    pending: list[_Change] = field(default_factory=list)
    seen: dict[str, _Inode] = field(default_factory=dict)
    copy: Path | None = None
    half_removed: bool = False


@dataclass(slots=True, eq=False)
class _Change:
    """A name that was added to a directory (``inode``), or removed; a rename removes only where it also added."""

    name: str
    inode: _Inode | None
    only_with: _Change | None = None
    done: bool = False


class Disk:
    """The disk below one root, as far as the recording has come."""

    def __init__(self, initial: Path | None = None) -> None:
        """``initial`` is a copy of the root as it was before; all of that is on disk."""
        self.top = _Inode(is_directory=True)
        self._database: list[tuple[bytes, bytes]] = []
        if initial is not None:
            _import(self.top, initial)
            self._database = [((initial / _DATABASE).read_bytes(), b"")]

    def play(self, record: Record) -> None:
        """Does what was recorded."""
        play = getattr(self, f"_{record.kind.replace('-', '_')}", None)
        if play is not None:
            play(record)

    def lose_power(self, chance: Random, upcoming: Record | None) -> State:
        """One state that may be found.

        ``upcoming`` is the record after the last that was played: the operation in which the power was cut.
        """
        found: State = {}
        self._settle(self.top, "", chance, found)
        if _DATABASE in found:
            database, log = self._database_state(chance, upcoming)
            found[_DATABASE], found[f"{_DATABASE}-wal"] = database or found[_DATABASE], log
        return found

    # What an operation does

    def _create(self, record: Record) -> None:
        parent, name = self._parent(record.path)
        if name not in parent.seen:
            self._add(parent, name, _Inode(is_directory=False))

    def _mkdir(self, record: Record) -> None:
        if record.path == ".":
            return
        parent, name = self._parent(record.path)
        if name not in parent.seen:
            self._add(parent, name, _Inode(is_directory=True))

    def _write(self, record: Record) -> None:
        inode = self._inode(record.path)
        if inode is not None:
            before = inode.data if inode.written is None else inode.written
            inode.written = before[: record.offset].ljust(record.offset, b"\0") + record.data

    def _truncate(self, record: Record) -> None:
        inode = self._inode(record.path)
        if inode is not None:
            inode.written = b""

    def _rename(self, record: Record) -> None:
        source, name = self._parent(record.path)
        inode = source.seen.get(name)
        if inode is None:
            return
        target, new = self._parent(record.target)
        added = self._add(target, new, inode)
        source.pending.append(_Change(name, None, added))
        source.seen.pop(name, None)

    def _unlink(self, record: Record) -> None:
        parent, name = self._parent(record.path)
        if parent.seen.pop(name, None) is not None:
            parent.pending.append(_Change(name, None))

    _rmdir = _unlink

    def _remove_tree(self, record: Record) -> None:
        inode = self._inode(record.path)
        if inode is not None:
            inode.half_removed = True
        self._unlink(record)

    def _fsync(self, record: Record) -> None:
        inode = self._inode(record.path)
        if inode is not None:
            inode.data, inode.written = record.data, None

    def _fsync_directory(self, record: Record) -> None:
        inode = self._inode(record.path)
        if inode is not None:
            _sync_names(inode)

    def _syncfs(self, record: Record) -> None:
        assert record.copy is not None
        self._sync_all(self.top, record.copy)

    def _commit(self, record: Record) -> None:
        assert record.database is not None
        if record.phase == "after":
            self._database = [record.database]

    def _checkpoint(self, record: Record) -> None:
        assert record.database is not None
        # That the log was emptied may not have reached the disk; reading it again does no harm.
        old = self._database[-1:] if record.phase == "after" else []
        self._database = [record.database, *((record.database[0], log) for _, log in old)]

    # Parts

    def _parent(self, path: str) -> tuple[_Inode, str]:
        pure = PurePosixPath(path)
        parent = self._inode(str(pure.parent))
        # A directory that was never announced is a mistake of the workload, which shows as names that are missing.
        return parent or _Inode(is_directory=True), pure.name

    def _inode(self, path: str) -> _Inode | None:
        inode: _Inode | None = self.top
        for part in PurePosixPath(path).parts:
            inode = inode.seen.get(part) if inode is not None else None
        return inode

    @staticmethod
    def _add(parent: _Inode, name: str, inode: _Inode) -> _Change:
        change = _Change(name, inode)
        parent.pending.append(change)
        parent.seen[name] = inode
        return change

    def _sync_all(self, inode: _Inode, copy: Path) -> None:
        if not inode.is_directory:
            if copy.is_file():
                inode.data, inode.written = copy.read_bytes(), None
            return
        _sync_names(inode)
        for path in copy.iterdir() if copy.is_dir() else ():
            if path.name not in inode.entries and not path.name.startswith(_DATABASE):
                # Made without an announcement of its own, or with one that is still to come: a file may yet be written.
                made = _Inode(is_directory=False, copy=path)
                if path.is_file() and not path.is_symlink():
                    made = _Inode(is_directory=False, data=path.read_bytes())
                inode.entries[path.name] = inode.seen[path.name] = made
        for name, child in inode.entries.items():
            if copy.name == "layers":
                child.copy = copy / name  # with all that was unpacked into it
            elif child.copy is None:
                self._sync_all(child, copy / name)

    def _settle(self, inode: _Inode, path: str, chance: Random, found: State) -> None:
        if inode.copy is not None:
            found[path] = inode.copy
        elif not inode.is_directory:
            found[path] = _torn(inode, chance)
        else:
            if path:
                found[path] = None
            for name, child in _names_on_disk(inode, chance).items():
                if not inode.half_removed or chance.random() < 0.5:
                    self._settle(child, f"{path}/{name}" if path else name, chance, found)

    def _database_state(self, chance: Random, upcoming: Record | None) -> tuple[bytes, bytes]:
        database, log = chance.choice(self._database) if self._database else (b"", b"")
        if upcoming is None or upcoming.phase != "after" or upcoming.database is None:
            return database, log
        later, longer = upcoming.database
        if upcoming.kind == "commit" and later == database and longer[: len(log)] == log:
            return database, longer[: chance.randint(len(log), len(longer))]
        if upcoming.kind == "checkpoint":
            pages = range(0, max(len(database), len(later)), _PAGE)
            mixed = b"".join(
                (chance.choice((database, later)) or later)[at : at + _PAGE] or bytes(_PAGE) for at in pages
            )
            return mixed, log
        return database, log


def _torn(inode: _Inode, chance: Random) -> bytes:
    """What of the un-synced bytes of a file is there."""
    if inode.written is None:
        return inode.data
    wanted = inode.written
    return chance.choice((inode.data, b"", wanted, wanted[: chance.randint(0, len(wanted))], bytes(len(wanted))))


def _names_on_disk(directory: _Inode, chance: Random) -> dict[str, _Inode]:
    names = dict(directory.entries)
    kept: set[int] = set()
    likely = chance.choice((0.1, 0.5, 0.9))
    for change in directory.pending:
        added_first = change.only_with is None or change.only_with.done or id(change.only_with) in kept
        if chance.random() < likely and added_first:
            kept.add(id(change))
            _apply(change, names)
    return names


def _sync_names(directory: _Inode) -> None:
    for change in directory.pending:
        _apply(change, directory.entries)
        change.done = True
    directory.pending.clear()


def _apply(change: _Change, names: dict[str, _Inode]) -> None:
    if change.inode is None:
        names.pop(change.name, None)
    else:
        names[change.name] = change.inode


def state_at(records: Sequence[Record], moment: int, chance: Random, initial: Path | None) -> State:
    """One state after a power loss when ``moment`` of the records were done."""
    disk = Disk(initial)
    for record in records[:moment]:
        disk.play(record)
    return disk.lose_power(chance, records[moment] if moment < len(records) else None)


def _import(inode: _Inode, copy: Path) -> None:
    for path in copy.iterdir():
        if path.name.startswith(f"{_DATABASE}-"):
            continue
        is_layer = path.parent.name == "layers"
        if path.is_dir() and not path.is_symlink() and not is_layer:
            child = _Inode(is_directory=True)
            _import(child, path)
        else:
            child = _Inode(is_directory=False, copy=path)
        inode.entries[path.name] = inode.seen[path.name] = child


def build(state: State, root: Path) -> None:
    """Makes the state ``root``, a directory that is not there yet."""
    root.mkdir(0o700)
    for name, content in state.items():
        path = root / name
        if content is None:
            path.mkdir(0o700)
        elif isinstance(content, bytes):
            path.write_bytes(content)
            path.chmod(0o600)
        else:
            subprocess.run(["cp", "-a", content, path], check=True)
