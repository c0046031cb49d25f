"""The tags of repositories, listed once for all who ask in one look."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future


class TagLists:
    """One list for each repository, however many ask for it at once; what went wrong with it is told to each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lists: dict[str, Future[Collection[str]]] = {}

    def get(self, repository: str, ask: Callable[[], Collection[str]]) -> Collection[str]:
        """The list, which the first one to come asks for. Raises what ``ask`` raised."""
        with self._lock:
            first = repository not in self._lists
            found = self._lists.setdefault(repository, Future())
        if first:
            try:
                found.set_result(ask())
            except BaseException as error:  # noqa: BLE001  (those who wait must hear of it)
                found.set_exception(error)
        return found.result()
