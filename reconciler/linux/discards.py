"""Files and trees that go: out of sight at once, whatever their size, and deleted later in nobody's way.

    discards.put(path)      # while the lock is held
    ...
    discards.empty()        # when it is not

What a killed process left is deleted by whoever empties next.
"""

from __future__ import annotations

import os
from pathlib import Path

from reconciler.errors import HostError
from reconciler.linux import durable
from reconciler.linux.lock import try_lock
from reconciler.linux.tree import check_no_mounts, remove_tree

DIRECTORY = "discarded"
_POINT = "discard"


class Discards:
    """ROOT/discarded. Making one touches nothing; ``put`` and ``empty`` may be called by any number of processes."""

    def __init__(self, root: Path) -> None:
        self.directory = root / DIRECTORY

    def put(self, path: Path) -> bool:
        """Takes away whatever is at ``path``, durably; False when nothing was there.

        Raises ``HostError`` and leaves it where it was when something is mounted at it or below it.
        """
        with durable.guarded("remove", path):
            if not os.path.lexists(path):
                return False
        check_no_mounts(path)
        if not self.directory.is_dir():
            durable.make_directory(self.directory, point=_POINT)
        durable.rename(path, self.directory / os.urandom(8).hex(), point=_POINT, sync=False)
        durable.sync_directory(path.parent, point=_POINT)
        return True

    def empty(self) -> None:
        """Deletes what is here, but for what another process is deleting now.

        Tries everything before it raises the first ``HostError``: what is left is tried again the next time. A power
        loss may bring some of it back.
        """
        failure: HostError | None = None
        for path in self._listed():
            try:
                self._delete(path)
            except HostError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def _listed(self) -> list[Path]:
        with durable.guarded("read", self.directory):
            try:
                return sorted(self.directory.iterdir())
            except FileNotFoundError:
                return []

    def _delete(self, path: Path) -> None:
        if path.is_symlink() or not path.is_dir():
            durable.unlink(path, point=_POINT, sync=False)
            return
        with durable.guarded("remove", path):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                return
        try:
            if try_lock(descriptor):
                remove_tree(path, point=_POINT, sync=False)
        finally:
            os.close(descriptor)
