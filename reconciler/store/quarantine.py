"""ROOT/quarantine: what was found damaged, put aside instead of deleted.

Nothing reads it but people. What was taken from the store can be fetched or unpacked again and goes with ``gc``; a
database or the files of a container are nobody's copy of anything, and stay until somebody deletes them.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from reconciler.linux import durable
from reconciler.linux.discards import Discards
from reconciler.linux.tree import disk_usage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DIRECTORY = "quarantine"
_POINT = "quarantine"
_DISPOSABLE = ("blob-", "layer-")


class Quarantine:
    """The quarantine of one root. Making one touches nothing; what changes it needs the root's lock."""

    def __init__(self, root: Path) -> None:
        self.directory = root / DIRECTORY

    def take(self, path: Path, kind: str) -> Path | None:
        """Moves whatever is at ``path``, of any type, durably in here; where it is now, or None if nothing was there.

        Raises ``HostError`` when it cannot be moved, for instance for being immutable.
        """
        if not os.path.lexists(path):
            return None
        durable.make_directory(self.directory, point=_POINT)
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        aside = self.directory / f"{kind}-{path.name.lstrip('.')}-{moment}-{os.urandom(3).hex()}"
        durable.rename(path, aside, point=_POINT)
        durable.sync_directory(path.parent, point=_POINT)
        return aside

    def disposable(self) -> Iterator[tuple[str, int]]:
        """What ``gc`` may free: names, and bytes on disk."""
        if self.directory.is_dir():
            for path in sorted(self.directory.iterdir()):
                if path.name.startswith(_DISPOSABLE):
                    yield path.name, disk_usage(path)

    def remove(self, name: str) -> bool:
        """Takes one thing away for good; False when it was gone. Its bytes go when ``Discards.empty`` is called."""
        return Discards(self.directory.parent).put(self.directory / name)
