"""A blob on its way in, and the unpack that follows it.

The unpack reads the file that the download appends to, through a descriptor of its own. A pipe tells it what it cannot
see there: that more has come, and that all has come and is verified. If the pipe closes without the latter, what was
read must be thrown away.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from reconciler.errors import IntegrityError, ReconcilerError
from reconciler.linux import durable

if TYPE_CHECKING:
    from types import TracebackType

_MORE, _END = b"m", b"e"
_BLOB = Path("the blob of a layer")  # for messages
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class Attempt(NamedTuple):
    """One try at unpacking a blob: descriptors of its file and of the pipe, which its owner closes.

    ``number`` grows with each restart of the download.
    """

    number: int
    blob: int
    signal: int

    def close(self) -> None:
        os.close(self.blob)
        os.close(self.signal)


class Arrival:
    """One blob between whoever brings it and whoever unpacks it, in two threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._blob = -1
        self._signal = -1
        self._number = 0
        self._complete = False
        self._failed = False

    # For whoever brings it

    def begin(self, path: Path) -> None:
        """The file ``path`` grows from now on; all that is in it already counts. Raises ``OSError``."""
        self._set(os.open(path, _READ))

    def grow(self) -> None:
        """There is more in the file. Raises ``ReconcilerError`` when nobody wants it any more."""
        with self._changed:
            self._check()
            if self._signal >= 0:
                _tell(self._signal, _MORE)

    def restart(self) -> None:
        """The file is about to be emptied: what was read of it does not count."""
        with self._changed:
            self._number += 1
            self._hang_up()

    def complete(self, descriptor: int) -> None:
        """All is there and verified: the file behind ``descriptor``, which stays its owner's. Once is enough."""
        with self._changed:
            if self._complete:
                return
            if self._blob < 0:
                with durable.guarded("read", _BLOB):
                    self._blob = os.dup(descriptor)
            self._complete = True
            if self._signal >= 0:
                os.set_blocking(self._signal, True)
                _tell(self._signal, _END)
            self._hang_up()

    def fail(self) -> None:
        """It will not come. No-op once it is complete."""
        with self._changed:
            self._failed = not self._complete
            self._hang_up()

    # For whoever unpacks it

    def attempt(self) -> Attempt:
        """Waits until there is something to read. Raises ``ReconcilerError`` when it will not come, or cannot be."""
        with self._changed:
            self._changed.wait_for(lambda: self._failed or self._blob >= 0)
            self._check()
            self._hang_up()
            with durable.guarded("read", _BLOB):
                blob = os.dup(self._blob)
                try:
                    signal, self._signal = os.pipe()
                except OSError:
                    os.close(blob)
                    raise
            os.set_blocking(self._signal, False)
            if self._complete:
                _tell(self._signal, _END)
                self._hang_up()
            return Attempt(self._number, blob, signal)

    def settled(self, attempt: Attempt) -> bool:
        """Waits until the download has ended or begun anew: whether what ``attempt`` read are the right bytes.

        Raises ``ReconcilerError`` when it will not come.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._failed or self._complete or self._number != attempt.number)
            self._check()
            return self._number == attempt.number

    def close(self) -> None:
        with self._changed:
            self._hang_up()
            if self._blob >= 0:
                os.close(self._blob)
                self._blob = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _set(self, descriptor: int) -> None:
        with self._changed:
            if self._blob >= 0:
                os.close(self._blob)
            self._blob = descriptor
            self._changed.notify_all()

    def _hang_up(self) -> None:
        if self._signal >= 0:
            os.close(self._signal)
            self._signal = -1
        self._changed.notify_all()

    def _check(self) -> None:
        if self._failed:
            raise ReconcilerError("another layer of the image failed")


class Following:
    """The bytes of a blob that arrives, as a stream: ``read`` waits for what is not there yet."""

    def __init__(self, blob: int, signal: int) -> None:
        self._blob = blob
        self._signal = signal
        self._at = 0
        self._ended = False

    def read(self, count: int) -> bytes:
        """Up to ``count`` bytes; none at the end. Raises ``IntegrityError`` when what was read does not count."""
        while True:
            ended = self._ended
            data = os.pread(self._blob, count, self._at)
            if data or ended:
                self._at += len(data)
                return data
            told = os.read(self._signal, 4096)
            if not told:
                raise IntegrityError("the blob did not arrive whole")
            self._ended = told.endswith(_END)


def _tell(signal: int, what: bytes) -> None:
    try:
        os.write(signal, what)
    except (BlockingIOError, BrokenPipeError):
        return  # it has much to read already; or it has ended
