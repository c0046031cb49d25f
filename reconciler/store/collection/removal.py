"""Taking files and directories of the store away in two steps: names at once, bytes later, in nobody's way.

    with Removal(layers, content) as removal:
        with database.transaction():      # nobody takes a lease meanwhile
            removal.take("layer", name)
        left = removal.run()              # as long as it takes

A directory gets another name first, ``<chain hex>.removed-*``. Whoever removes holds ROOT/layers by a shared flock, so
that what a killed remover left can be told from what is going right now.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from typing import TYPE_CHECKING, Self

from reconciler.errors import HostError
from reconciler.linux import durable
from reconciler.linux.lock import try_lock
from reconciler.linux.tree import mount_points_below, remove_tree
from reconciler.oci.digest import Digest
from reconciler.store import ingest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from reconciler.store.content import ContentStore

FILES = ".files"
"""ROOT/layers/<chain hex>.files lists what was unpacked; it goes with its layer."""
_REMOVED = ".removed-"
_POINT = "layer.remove"
# The chain ID comes first in all names: the directory, its list of files, one that is being made or removed.
_NAME = re.compile(r"[0-9a-f]{64}(\..*)?", re.ASCII | re.DOTALL)
# Freeing the blocks of a file takes the kernel some 50 ms a gigabyte. A small one is gone sooner than held open.
_BIG = 1 << 20


class Removal:
    """One removal. ``failure`` is the first error of ``run``, if there was one."""

    def __init__(self, layers: Path, content: ContentStore) -> None:
        self._layers = layers
        self._content = content
        self._aside: dict[Path, str] = {}
        self._open: list[int] = []
        self._blobs = False
        self.failure: HostError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._open:
            os.close(self._open.pop())

    def take(self, kind: str, name: str) -> bool:
        """Takes a blob, a partial or a layer out of sight. False when it was gone, or is in use by now.

        The name of a layer is that of its directory, or of what an interrupted unpack or removal left.
        """
        if kind == "blob":
            self._blobs = True
            return self._take_blob(Digest(name))
        if kind == "partial":
            return self._content.remove_partial(name)
        if _REMOVED in name:  # another that wants it too finds it renamed
            return self._put_aside(name)
        if is_in_use(self._layers, [name]):
            return False
        taken = self._put_aside(name)
        if not name[64:]:
            durable.unlink(self._layers / f"{name}{FILES}", point=_POINT, sync=False)
        return taken

    def run(self) -> set[str]:
        """Frees the bytes of all that was taken; the names of layers of which something is left.

        Raises ``HostError`` when it cannot be made durable: a power loss may then bring back what was taken.
        """
        if self._blobs:
            self._content.sync_removals()
        if self._aside:
            durable.sync_directory(self._layers, point=_POINT)
        left = set()
        # Asked once for all of them: each would read the whole table of mounts.
        unmounted = bool(self._aside) and not mount_points_below(self._layers)
        for path, name in self._aside.items():
            try:
                # A removal that a power loss undoes is listed by the next plan: no fsync for each.
                remove_tree(path, point=_POINT, sync=False, unmounted=unmounted)
            except HostError as error:
                self.failure = self.failure or error
                left.add(name)
        return left

    def _take_blob(self, digest: Digest) -> bool:
        path = self._content.path(digest)
        with durable.guarded("remove", path), contextlib.suppress(FileNotFoundError):
            if path.stat(follow_symlinks=False).st_size >= _BIG:
                # The bytes of a file that is open stay until it is closed.
                self._open.append(os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC))
        return self._content.remove(digest, sync=False)

    def _put_aside(self, name: str) -> bool:
        """Takes a directory away from whoever unpacks that layer next."""
        path = self._layers / name
        if not os.path.lexists(path):
            return False
        if not self._aside:
            self._announce()
        aside = self._layers / f"{name[:64]}{_REMOVED}{os.urandom(4).hex()}"
        durable.rename(path, aside, point=_POINT, sync=False)
        self._aside[aside] = name
        return True

    def _announce(self) -> None:
        with durable.guarded("lock", self._layers):
            descriptor = os.open(self._layers, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._open.append(descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_SH)


def layer_names(layers: Path) -> list[str]:
    """The names in ROOT/layers that are ours."""
    with durable.guarded("read", layers):
        try:
            return [name for name in os.listdir(layers) if _NAME.fullmatch(name)]  # noqa: PTH208  20,000 of them
        except FileNotFoundError:
            return []


def is_in_use(layers: Path, names: Sequence[str]) -> bool:
    """Whether somebody is making or removing a layer now, of which these names are there."""
    for name in names:
        if _REMOVED not in name:
            # Whoever unpacks holds the directory by flock until the layer is ready.
            if os.path.lexists(layers / name) and not ingest.is_abandoned(layers / name):
                return True
        elif _is_removing(layers):
            return True
    return False


def _is_removing(layers: Path) -> bool:
    with durable.guarded("lock", layers):
        descriptor = os.open(layers, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return not try_lock(descriptor)
        finally:
            os.close(descriptor)
