"""A source that may be slow, read so that nobody has to wait for it for long."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from reconciler.errors import HostError
from reconciler.source.port import Revision, Source


class BackgroundSource:
    """Reads ``source`` in a thread. A repository that does not answer must not keep a dead container down.

    ``read`` waits ``patience`` seconds; after that it is an error, and ``arrived`` is called (from the thread) once the
    answer is there for the next ``read``. At most one read runs at a time.
    """

    def __init__(self, source: Source, arrived: Callable[[], None], *, patience: float = 5.0) -> None:
        self._source = source
        self._arrived = arrived
        self._patience = patience
        self._reading: _Reading | None = None

    @property
    def identity(self) -> str:
        return self._source.identity

    @property
    def watched(self) -> Sequence[Path]:
        return self._source.watched

    def read(self) -> Revision:
        patience = 0.0
        if self._reading is None:
            self._reading, patience = _Reading(self._source, self._arrived), self._patience
        if not self._reading.finished(patience):
            raise HostError(f"{self.identity} has not answered yet", hint="check the network if this goes on")
        reading, self._reading = self._reading, None
        return reading.outcome()

    def last_good(self) -> Revision | None:
        return self._source.last_good()

    def accept(self, revision: Revision) -> None:
        self._source.accept(revision)


class _Reading:
    """One read, from its start to its outcome."""

    def __init__(self, source: Source, arrived: Callable[[], None]) -> None:
        self._source = source
        self._arrived = arrived
        self._revision: Revision | None = None
        self._error: BaseException | None = None
        self._condition = threading.Condition()
        self._done = False
        self._late = False
        threading.Thread(target=self._run, name="source", daemon=True).start()

    def finished(self, patience: float) -> bool:
        """Whether the outcome is there, within ``patience`` seconds; if not, ``arrived`` is going to be called."""
        with self._condition:
            self._condition.wait_for(lambda: self._done, patience)
            self._late = not self._done
            return self._done

    def outcome(self) -> Revision:
        if self._error is not None:
            raise self._error
        assert self._revision is not None
        return self._revision

    def _run(self) -> None:
        try:
            self._revision = self._source.read()
        except BaseException as error:  # noqa: BLE001 - raised again by whoever asks for the outcome
            self._error = error
        with self._condition:
            self._done = True
            self._condition.notify()
            late = self._late
        if late:
            self._arrived()
