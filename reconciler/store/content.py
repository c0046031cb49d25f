"""The content store: ROOT/blobs/sha256/<hex>, verified and immutable.

    with content.ingest(digest, size) as ingest:
        if not ingest.present:
            for chunk in download(start=ingest.offset):
                ingest.write(chunk)
            ingest.commit()

A blob appears under its name in one step, after its digest and size were checked and its bytes are on disk. Whoever
adds blobs holds a lease on their digests from before the first byte until something refers to them (``leases``).
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, BinaryIO

from reconciler.errors import IntegrityError, InvalidError, NotFoundError
from reconciler.linux import durable
from reconciler.oci.digest import Digest
from reconciler.store.ingest import NEW, Ingest, NewBlob, remove_abandoned

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FETCH_AGAIN = "pull or load the image again"


class ContentStore:
    """Blobs by digest. Safe for any number of threads and processes; making one touches nothing."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._blobs = root / "blobs" / "sha256"
        self._ingest = root / "ingest"

    def path(self, digest: Digest) -> Path:
        """Where the blob is, or would be."""
        return self._blobs / digest.hex

    def has(self, digest: Digest) -> bool:
        return self.path(digest).is_file()

    def size(self, digest: Digest) -> int:
        """Bytes of the blob. Raises ``NotFoundError``."""
        with durable.guarded("read", self.path(digest)):
            try:
                return self.path(digest).stat().st_size
            except FileNotFoundError:
                raise _missing(digest) from None

    def open(self, digest: Digest) -> BinaryIO:
        """The blob as a stream, not verified again: for readers that check what they make of it. ``NotFoundError``."""
        with durable.guarded("read", self.path(digest)):
            try:
                return self.path(digest).open("rb")
            except FileNotFoundError:
                raise _missing(digest) from None

    def read(self, digest: Digest, limit: int) -> bytes:
        """The whole blob, verified. Raises ``NotFoundError``, ``IntegrityError`` (the disk changed it), and
        ``InvalidError`` when it has more than ``limit`` bytes."""
        with self.open(digest) as stream, durable.guarded("read", self.path(digest)):
            data = stream.read(limit + 1)
        if len(data) > limit:
            raise InvalidError(f"blob {digest} has more than the {limit} bytes allowed for its kind")
        if Digest.of(data) != digest:
            raise IntegrityError(
                f"blob {digest} is damaged on disk", hint=f"remove {self.path(digest)}, {_FETCH_AGAIN}"
            )
        return data

    def put(self, data: bytes) -> Digest:
        """Stores ``data`` if it is not there yet."""
        digest = Digest.of(data)
        with self.ingest(digest, len(data)) as ingest:
            if not ingest.present:
                ingest.restart()
                ingest.write(data)
                ingest.commit()
        return digest

    def digests(self) -> Iterator[Digest]:
        """The digests of all blobs, in no order."""
        with durable.guarded("read", self._blobs):
            try:
                names = [path.name for path in self._blobs.iterdir()]
            except FileNotFoundError:
                return
        for name in names:
            try:
                yield Digest(f"sha256:{name}")
            except InvalidError:
                continue  # a file that is not ours; no digest can name it

    def usage(self) -> list[tuple[Digest, int]]:
        """All blobs with the bytes that each takes on disk, in no order."""
        found = []
        with (
            durable.guarded("read", self._blobs),
            contextlib.suppress(FileNotFoundError),
            os.scandir(self._blobs) as entries,
        ):
            for entry in entries:
                # What is not ours has no digest's name, or is a directory; what vanishes meanwhile takes nothing.
                with contextlib.suppress(InvalidError, FileNotFoundError):
                    digest = Digest(f"sha256:{entry.name}")
                    if not entry.is_dir(follow_symlinks=False):
                        found.append((digest, entry.stat(follow_symlinks=False).st_blocks * 512))
        return found

    def remove(self, digest: Digest, *, sync: bool = True) -> bool:
        """Removes a blob; False when it was not there. ``sync=False``: the caller calls ``sync_removals`` later."""
        return durable.unlink(self.path(digest), point="blob.remove", sync=sync)

    def sync_removals(self) -> None:
        """Makes removals with ``sync=False`` durable."""
        if self._blobs.is_dir():
            durable.sync_directory(self._blobs, point="blob.remove")

    def ingest(self, digest: Digest, size: int) -> Ingest:
        """A place to write the blob ``digest`` of ``size`` bytes: see ``Ingest``.

        Waits while another thread or process writes the same blob, and then finds it present or goes on where that
        one stopped.
        """
        self._prepare()
        return Ingest.begin(self._ingest / digest.hex, self.path(digest), digest, size)

    def new_blob(self) -> NewBlob:
        """A place to write a blob whose digest is not known yet: see ``NewBlob``."""
        self._prepare()
        return NewBlob.begin(self._ingest, self._blobs)

    def partials(self) -> Iterator[Path]:
        """The files of unfinished ingests, in no order: named after their digest, or ``new-*``."""
        with durable.guarded("read", self._ingest):
            try:
                yield from list(self._ingest.iterdir())
            except FileNotFoundError:
                return

    def remove_partial(self, name: str) -> bool:
        """Removes the unfinished ingest ``name`` unless somebody is writing it; False when it stays or was gone."""
        return remove_abandoned(self._ingest / name)

    def sweep(self) -> int:
        """At a writer's start: removes unfinished blobs that nobody can go on with, and says how many."""
        unusable = (path for path in self.partials() if path.name.startswith(NEW) or self._finished(path.name))
        return sum(remove_abandoned(path) for path in unusable)

    def _finished(self, name: str) -> bool:
        return (self._blobs / name).exists()

    def _prepare(self) -> None:
        if not (self._blobs.is_dir() and self._ingest.is_dir()):
            for directory in (self._blobs.parent, self._blobs, self._ingest):
                durable.make_directory(directory, point="content.directory")


def _missing(digest: Digest) -> NotFoundError:
    return NotFoundError(f"blob {digest} is not in the store", hint=_FETCH_AGAIN)
