"""Writing blobs: bytes are hashed as they come and stay out of sight until all of them are right.

A partial file carries a flock while somebody writes it. So a killed writer blocks nobody, and an unlocked partial is
known to be nobody's.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from typing import TYPE_CHECKING, Self

from reconciler.errors import HostError, IntegrityError
from reconciler.linux import durable, watch
from reconciler.linux.lock import try_lock
from reconciler.oci.digest import Digest

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from reconciler.store.arrival import Arrival

_CHUNK = 1 << 20
NEW = "new-"


class _Partial:
    """An open, locked partial file and the hash of what is in it."""

    def __init__(self, path: Path, descriptor: int | None) -> None:
        self._path = path
        self._descriptor = descriptor
        self._hash = hashlib.sha256()
        self._offset = 0

    @property
    def offset(self) -> int:
        """How many bytes are written so far."""
        return self._offset

    def write(self, chunk: bytes | memoryview) -> None:
        """Appends to the blob. Raises ``HostError`` when the disk is full or fails: the partial is discarded then."""
        try:
            durable.write(self._file(), chunk, self._path, point="blob", offset=self._offset)
        except HostError:
            self.discard()
            raise
        self._hash.update(chunk)
        self._offset += len(chunk)

    def discard(self) -> None:
        """Removes the partial file: nothing is kept to go on from."""
        self._file()
        durable.unlink(self._path, point="blob.discard", sync=False)
        self._close()

    def _publish(self, target: Path) -> None:
        try:
            durable.publish(self._path, target, point="blob")
        except BaseException:
            # After a failed fsync the bytes may be gone though reads still show them: never go on from this file,
            # whichever name it has by now.
            if not os.path.lexists(self._path):
                durable.unlink(target, point="blob.discard", sync=False)
            self.discard()
            raise
        self._close()

    def _file(self) -> int:
        if self._descriptor is None:
            raise RuntimeError(f"{self._path} is closed")
        return self._descriptor

    def _close(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            # A forked child may still have a copy of the descriptor: give the lock back by name.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self


class Ingest(_Partial):
    """One blob on its way in, for one writer at a time. Leaving the ``with`` block without ``commit`` keeps the
    partial file, so that the next ingest of this digest goes on from ``offset``.

    The prefix found at the start is what was written before, as far as this host tells; only ``commit`` proves it.
    After a power loss it may be wrong: then ``commit`` raises ``IntegrityError`` and the next attempt starts anew.
    """

    def __init__(self, path: Path, descriptor: int | None, target: Path, digest: Digest, size: int) -> None:
        super().__init__(path, descriptor)
        self._target = target
        self._digest = digest
        self._size = size
        self._arrival: Arrival | None = None
        self.present = descriptor is None
        """The blob is in the store already: there is nothing to write, nor to commit."""

    @classmethod
    def begin(cls, path: Path, target: Path, digest: Digest, size: int) -> Ingest:
        """Opens and locks the partial file of ``digest``, waiting for whoever has it."""
        if target.exists():
            return cls(path, None, target, digest, size)
        with durable.guarded("write", path):
            descriptor = open_locked(path)
        ingest = cls(path, descriptor, target, digest, size)
        try:
            if target.exists():
                ingest.discard()
                ingest.present = True
            else:
                ingest._resume()
        except BaseException:
            ingest._close()
            raise
        return ingest

    def write(self, chunk: bytes | memoryview) -> None:
        """Appends to the blob. Raises ``HostError``, and ``IntegrityError`` at the first byte above its size."""
        if self._offset + len(chunk) > self._size:
            self.discard()
            raise IntegrityError(f"blob {self._digest} is longer than the {self._size} bytes promised")
        super().write(chunk)
        if self._arrival is not None:
            self._arrival.grow()

    def follow(self, arrival: Arrival) -> None:
        """Lets ``arrival`` know from now on what is in the file, of which nothing is verified until it is complete."""
        with durable.guarded("read", self._path):
            arrival.begin(self._path)
        self._arrival = arrival

    def digest(self) -> Digest:
        """The digest of the bytes written so far."""
        return Digest("sha256:" + self._hash.hexdigest())

    def restart(self) -> None:
        """Forgets what is there and starts at offset 0, as when a server does not serve ranges."""
        if self._arrival is not None:
            self._arrival.restart()
        try:
            durable.truncate(self._file(), self._path, point="blob")
        except HostError:
            self.discard()
            raise
        self._hash = hashlib.sha256()
        self._offset = 0

    def commit(self) -> None:
        """Makes the blob visible: it is complete, verified and on disk when this returns.

        Raises ``IntegrityError`` for missing bytes (the partial is kept) and for wrong ones (it is discarded), and
        ``HostError`` when it cannot be made durable.
        """
        if self._offset < self._size:
            raise IntegrityError(
                f"blob {self._digest} ended after {self._offset} of {self._size} bytes",
                hint="try again: it goes on there",
            )
        found = self._hash.hexdigest()
        if found != self._digest.hex:
            self.discard()
            raise IntegrityError(f"blob {self._digest} has other bytes, with digest sha256:{found}")
        if self._arrival is not None:
            self._arrival.complete(self._file())
        self._publish(self._target)
        self.present = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _resume(self) -> None:
        with durable.guarded("read", self._path):
            while chunk := os.read(self._file(), _CHUNK):
                self._hash.update(chunk)
                self._offset += len(chunk)
        if self._offset > self._size:
            self.restart()


class NewBlob(_Partial):
    """A blob whose digest is known only at its end. Leaving the ``with`` block without ``commit`` discards it."""

    def __init__(self, path: Path, descriptor: int, blobs: Path) -> None:
        super().__init__(path, descriptor)
        self._blobs = blobs

    def digest(self) -> Digest:
        """The digest of what is written so far. It is leased when all is, before ``commit``."""
        return Digest("sha256:" + self._hash.hexdigest())

    @classmethod
    def begin(cls, directory: Path, blobs: Path) -> NewBlob:
        """Makes and locks a partial file with a name of its own."""
        path = directory / f"{NEW}{os.urandom(8).hex()}"
        with durable.guarded("write", path):
            return cls(path, open_locked(path), blobs)

    def commit(self) -> Digest:
        """Makes the blob visible and on disk, and gives its digest; its size is ``offset``. Raises ``HostError``."""
        target = self._blobs / self.digest().hex
        if target.exists():
            self.discard()
        else:
            self._publish(target)
        return self.digest()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            self.discard()


def is_abandoned(path: Path) -> bool:
    """Whether nobody is writing the partial file ``path`` now. False when it is gone."""
    with durable.guarded("read", path):
        descriptor = _open_to_lock(path)
        if descriptor is None:
            return path.is_symlink()  # which nobody writes to
        try:
            return try_lock(descriptor)
        finally:
            os.close(descriptor)


def _open_to_lock(path: Path) -> int | None:
    """Whatever is there, opened without waiting for anybody; None for nothing and for a symbolic link."""
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return None
        raise


def remove_abandoned(path: Path) -> bool:
    """Removes the partial file ``path`` unless somebody writes it or it is gone; says whether it did."""
    with durable.guarded("remove", path):
        descriptor = _open_to_lock(path)
        if descriptor is None:
            return durable.unlink(path, point="ingest.sweep")
        try:
            return try_lock(descriptor) and _is_still(path, descriptor) and durable.unlink(path, point="ingest.sweep")
        finally:
            os.close(descriptor)


def open_locked(path: Path, *, point: str = "blob") -> int:
    """Opens or makes a file and locks it, waiting for whoever has it: that one may meanwhile have removed it."""
    while True:
        with watch.operation(point, "create", path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_still(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False
