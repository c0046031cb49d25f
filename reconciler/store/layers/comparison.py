"""What differs between two stacks of unpacked layers, as containers would see them; nothing is mounted."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from reconciler.linux import durable
from reconciler.store.layers.attributes import attributes
from reconciler.store.layers.changes import Kind
from reconciler.store.layers.merged import Merged, Seen, Shortcuts, look, names
from reconciler.value import dataclass

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Difference:
    """A path that only the second has (A), only the first (D), or both with other content or attributes (C).

    ``before`` and ``after`` are the bytes of a regular file; None for anything else, and where there is nothing.
    """

    kind: Kind
    path: bytes
    before: int | None = None
    after: int | None = None


def differences(first: Sequence[Path], second: Sequence[Path]) -> list[Difference]:
    """What ``second`` shows otherwise than ``first`` (layers, top first), by path.

    Times do not count: two builds of the same files are the same. Of a directory that one of them lacks, everything
    in it is listed. Directories of which both have the same layers are not read. Raises ``HostError``.
    """
    found: list[Difference] = []
    pending = [(b"", _merged(first), _merged(second))]
    shortcuts = Shortcuts()
    try:
        with durable.guarded("compare", next(iter((*second, *first)), Path())):
            while pending:
                path, before, after = pending.pop()
                for name in names(before) | names(after):
                    place, old, new = path + b"/" + name, look(before, name), look(after, name)
                    if difference := _difference(place, old, new):
                        found.append(difference)
                    inner = _inside(old, shortcuts), _inside(new, shortcuts)
                    if inner[0] != inner[1]:
                        pending.append((place, *inner))
    finally:
        shortcuts.close()
    return sorted(found, key=lambda difference: difference.path)


def _merged(layers: Sequence[Path]) -> Merged:
    return tuple(os.fsencode(layer) for layer in layers)


def _inside(seen: Seen | None, shortcuts: Shortcuts) -> Merged:
    return tuple(shortcuts.shortened(directory) for directory in seen.merged) if seen else ()


def _difference(path: bytes, old: Seen | None, new: Seen | None) -> Difference | None:
    before, after = _size(old), _size(new)
    if old is None or new is None:
        return Difference("A" if old is None else "D", path, before, after)
    return None if _equal(old, new) else Difference("C", path, before, after)


def _size(seen: Seen | None) -> int | None:
    return seen.status.st_size if seen is not None and stat.S_ISREG(seen.status.st_mode) else None


def _equal(old: Seen, new: Seen) -> bool:
    if os.path.samestat(old.status, new.status):
        return True
    mode = old.status.st_mode
    if mode != new.status.st_mode or attributes(old.path, old.status) != attributes(new.path, new.status):
        return False
    if stat.S_ISREG(mode):
        return old.status.st_size == new.status.st_size and _same_content(old.path, new.path)
    if stat.S_ISLNK(mode):
        return os.readlink(old.path) == os.readlink(new.path)  # noqa: PTH115 - paths here are bytes
    return old.status.st_rdev == new.status.st_rdev


def _same_content(first: bytes, second: bytes) -> bool:
    with open(first, "rb", 0) as old, open(second, "rb", 0) as new:  # noqa: PTH123 - paths here are bytes
        return all(ours == theirs for ours, theirs in zip(_chunks(old.fileno()), _chunks(new.fileno()), strict=True))


def _chunks(handle: int) -> Iterator[bytes]:
    while chunk := os.read(handle, _CHUNK):
        yield chunk
