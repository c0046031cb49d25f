"""Unpacking the layers of one image: who does it, in which order, and when they become ready.

    with layers.unpacking(diff_ids) as unpacking:
        for index in unpacking.missing:
            unpacking.unpack(index, blob)
        unpacking.publish()

Each missing layer has an ``Arrival``, by which the unpack follows its blob while that is fetched. Layers are begun from
the lowest, one in each worker process, so that whichever waits for a lower one waits for one that is under way.
While a test watches this process (``linux.watch``), layers are unpacked one after the other in a thread of it, so that
every change on disk is announced.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from typing import TYPE_CHECKING, BinaryIO, Self

from reconciler.errors import HostError, IntegrityError, ReconcilerError
from reconciler.linux import durable, watch
from reconciler.linux.tree import remove_tree
from reconciler.oci.digest import Digest
from reconciler.oci.layers import chain_ids
from reconciler.store import ingest
from reconciler.store.arrival import Arrival, Attempt
from reconciler.store.emptying import empty_directory
from reconciler.store.layers.table import Layer
from reconciler.store.layers.worker_messages import Descriptors, Unpacked
from reconciler.store.layers.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from reconciler.store.database import Database
    from reconciler.store.layers.table import Layers

_POINT = "layers"  # the name of this call site in linux.durable


class Unpacking:
    """The unpacking of one image's layers. ``missing`` are the indices of the layers to be unpacked."""

    def __init__(
        self, layers: Layers, database: Database, diff_ids: Sequence[Digest], workers: Workers | None = None
    ) -> None:
        self._layers = layers
        self._database = database
        self._diff_ids = tuple(diff_ids)
        self.chain_ids = chain_ids(diff_ids)
        self.missing: tuple[int, ...] = ()
        self._workers = workers
        self._own_workers: Workers | None = None
        self._threads: list[threading.Thread] = []
        self._held: dict[int, _Claim] = {}
        self._arrivals: dict[int, Arrival] = {}
        self._blobs: dict[int, Digest | None] = {}
        self._waiting: list[int] = []
        self._done: dict[int, Layer] = {}
        self._failure: BaseException | None = None
        self._published = False
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        durable.make_directory(self._layers.directory, point=_POINT)
        try:
            # Always from the lowest: two images that wait for each other's layers would have to share the lower one.
            for index, chain_id in enumerate(self.chain_ids):
                self._claim(index, chain_id)
            self.missing = tuple(self._held)
            self._waiting = list(self._held)
            self._arrivals = {index: Arrival() for index in self._held}
            if self.missing:
                self._start()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def arrival(self, index: int, blob: Digest) -> Arrival:
        """What the unpack of a missing layer follows. Whoever brings the blob must see to its end; it is recorded."""
        self._blobs[index] = blob
        return self._arrivals[index]

    def unpack(self, index: int, source: BinaryIO, blob: Digest | None = None) -> None:
        """Unpacks one missing layer from its blob, a file, compressed or not. ``blob`` is only recorded.

        May be called for several layers at once; else start from the lowest. Raises as ``wait`` does.
        """
        self._blobs[index] = blob
        self._arrivals[index].complete(source.fileno())
        self.wait(index)

    def wait(self, index: int) -> None:
        """Waits until a missing layer is unpacked and verified.

        Raises ``IntegrityError`` when the bytes do not have the diff ID, what ``extract`` raises, and what another
        layer of the image failed with: any failure is final for all of it.
        """
        with self._changed:
            self._changed.wait_for(lambda: index in self._done or self._failure is not None)
            if self._failure is not None:
                raise self._failure

    @property
    def failure(self) -> BaseException | None:
        """What ended the unpacking of all layers, if something did: others fail with it and know no reason."""
        return self._failure

    def abandon(self, failure: BaseException) -> None:
        """Ends the unpacking of all layers: the bytes of one cannot be had. The first such failure is what counts."""
        with self._changed:
            self._failure = self._failure or failure
            self._changed.notify_all()
        for arrival in self._arrivals.values():
            arrival.fail()

    def publish(self) -> tuple[Digest, ...]:
        """Makes all layers ready, durably and together; the image's chain IDs, lowest first."""
        if set(self._done) != set(self.missing):
            raise ReconcilerError("an image was published before all its layers were unpacked")
        if self._done:
            since = self._held[min(self._held)].files
            durable.sync_filesystem(self._layers.directory, point=_POINT, since=since)
            for index, layer in sorted(self._done.items()):
                durable.rename(self._temporary(index), self._layers.path(layer.chain_id), point=_POINT, sync=False)
            durable.sync_directory(self._layers.directory, point=_POINT)
            with self._database.transaction() as connection:
                connection.executemany(
                    "INSERT OR REPLACE INTO layers (chain_id, parent, diff_id, blob, size, entries)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    [
                        (layer.chain_id, layer.parent, layer.diff_id, layer.blob or "", layer.size, layer.entries)
                        for layer in self._done.values()
                    ],
                )
        self._published = True
        return self.chain_ids

    # Threads, one for each worker

    def _start(self) -> None:
        if not watch.active():
            if self._workers is None:
                self._workers = self._own_workers = Workers()
            count = min(self._workers.start().count, len(self.missing))
        else:
            self._workers, count = None, 1
        for number in range(count):
            thread = threading.Thread(target=self._serve, args=(number,), name=f"unpack-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, number: int) -> None:
        while (index := self._next()) is not None:
            try:
                layer = self._unpack(number, index)
            except BaseException as error:  # noqa: BLE001  raised again by wait()
                self.abandon(error)
                return
            # An image may have 500 layers, and a process 1,024 open files.
            self._held[index].end()
            self._arrivals[index].close()
            with self._changed:
                self._done[index] = layer
                self._changed.notify_all()

    def _next(self) -> int | None:
        with self._changed:
            return self._waiting.pop(0) if self._waiting and self._failure is None else None

    def _unpack(self, number: int, index: int) -> Layer:
        arrival, claim = self._arrivals[index], self._held[index]
        while True:
            attempt = arrival.attempt()
            try:
                claim.begin()
                unpacked = self._attempt(number, index, attempt)
                if arrival.settled(attempt):
                    return self._verified(index, unpacked)
            except HostError:
                raise
            except ReconcilerError:
                # Of bytes that turned out to be wrong, nothing is believed, not even that they are a bad archive.
                if arrival.settled(attempt):
                    raise
            finally:
                attempt.close()

    def _attempt(self, number: int, index: int, attempt: Attempt) -> Unpacked:
        claim, target = self._held[index], self._temporary(index)
        job = Descriptors(claim.directory, claim.files, attempt.blob, attempt.signal)
        below, limits = _Below(self, index), self._layers.limits
        if self._workers is not None:
            return self._workers.run(number, job, target, below, limits)
        from reconciler.store.layers.job import unpack
        from reconciler.store.layers.lower import LowerLayers

        return unpack(job, target, lambda: LowerLayers(below), limits, is_confined=False)

    def _verified(self, index: int, unpacked: Unpacked) -> Layer:
        actual = Digest("sha256:" + unpacked.diff_id)
        if actual != self._diff_ids[index]:
            raise IntegrityError(
                f"layer {index + 1} of the image has diff ID {actual}, but its config says {self._diff_ids[index]}",
                hint="the image is broken where it was built: ask its publisher, or use another tag",
            )
        return Layer(
            chain_id=self.chain_ids[index],
            parent=self.chain_ids[index - 1] if index else None,
            diff_id=self._diff_ids[index],
            blob=self._blobs.get(index),
            size=unpacked.size,
            entries=unpacked.entries,
        )

    def lower(self, index: int) -> Path:
        """The directory of a layer, once it is unpacked. Raises ``ReconcilerError`` when it will not be."""
        if index not in self._held:
            return self._layers.path(self.chain_ids[index])
        with self._changed:
            self._changed.wait_for(lambda: self._failure is not None or index in self._done)
            if index not in self._done:
                raise ReconcilerError("a lower layer of the image could not be unpacked")
        return self._temporary(index)

    # Claims

    def _claim(self, index: int, chain_id: Digest) -> None:
        if self._layers.has(chain_id):
            return
        path = self._layers.files(chain_id)
        claim = _Claim(self._temporary(index), path, ingest.open_locked(path, point=_POINT))
        try:
            if self._layers.has(chain_id):
                claim.release()
                return  # it became ready while we waited
            # What has the final name has no row: a crash left it.
            remove_tree(self._layers.path(chain_id), point=_POINT)
        except BaseException:
            claim.release()
            raise
        self._held[index] = claim

    def _temporary(self, index: int) -> Path:
        return self._layers.path(self.chain_ids[index]).with_suffix(".unpacking")

    def _release(self) -> None:
        """Removes what was not published and lets go of all."""
        if not self._published:
            self.abandon(ReconcilerError("the image was not unpacked to its end"))
            # Whoever writes into the directories has to be gone first.
            if self._workers is not None:
                self._workers.close()
        for thread in self._threads:
            thread.join()
        if self._own_workers is not None:
            self._own_workers.close()
        for arrival in self._arrivals.values():
            arrival.close()
        for index, claim in self._held.items():
            if not self._published:
                with contextlib.suppress(ReconcilerError):  # gc finds it
                    remove_tree(self._temporary(index), point=_POINT)
                    durable.unlink(self._layers.files(self.chain_ids[index]), point=_POINT, sync=False)
            claim.release()
        self._held = {}


class _Below:
    """The layers below one, top first; each is waited for when it is come to."""

    def __init__(self, unpacking: Unpacking, index: int) -> None:
        self._unpacking = unpacking
        self._index = index

    def __iter__(self) -> Iterator[Path]:
        for index in range(self._index - 1, -1, -1):
            yield self._unpacking.lower(index)


class _Claim:
    """The locks on a layer that is being filled: its list of files for as long as this lasts, and its directory while
    it is written to.
    """

    def __init__(self, path: Path, list_path: Path, files: int) -> None:
        self._path = path
        self._list_path = list_path
        self.files = files
        self.directory = -1

    def begin(self) -> None:
        """Makes sure that there is a directory, locked, and that nothing is in either. Raises ``HostError``."""
        while self.directory < 0:
            durable.make_directory(self._path, point=_POINT, sync=False)
            if not self._lock():
                self.end()
        durable.truncate(self.files, self._list_path, point=_POINT)
        with durable.guarded("empty", self._path):
            empty_directory(self.directory)
            for key in os.listxattr(self.directory):
                os.removexattr(self.directory, key)

    def end(self) -> None:
        """Lets go of the directory."""
        if self.directory >= 0:
            os.close(self.directory)
            self.directory = -1

    def release(self) -> None:
        """Lets go of all."""
        self.end()
        os.close(self.files)

    def _lock(self) -> bool:
        with durable.guarded("lock", self._path):
            try:
                self.directory = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                fcntl.flock(self.directory, fcntl.LOCK_EX)
                return os.path.samestat(self._path.lstat(), os.fstat(self.directory))
            except FileNotFoundError:
                return False  # somebody took it away before that
