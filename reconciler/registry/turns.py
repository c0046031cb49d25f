"""Work that several threads may want done at once, done by one after the other: the second finds it done."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager


class Turns:
    """For each key, one holder at a time."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[Hashable, threading.Lock] = {}
        self._wanted: dict[Hashable, int] = {}

    @contextmanager
    def of(self, key: Hashable) -> Iterator[None]:
        """Waits until nobody else holds ``key``, and holds it. Not to be taken again by the thread that has it."""
        with self._guard:
            lock = self._locks.setdefault(key, threading.Lock())
            self._wanted[key] = self._wanted.get(key, 0) + 1
        try:
            with lock:
                yield
        finally:
            with self._guard:
                self._wanted[key] -= 1
                if not self._wanted[key]:
                    del self._wanted[key], self._locks[key]
