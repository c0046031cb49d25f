"""The order in which servers are asked, and what to make of their failures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from reconciler.errors import ReconcilerError
from reconciler.registry.failure import TemporaryError
from reconciler.registry.hosts import Endpoint
from reconciler.registry.retry import RetryPolicy
from reconciler.registry.session import Session

T = TypeVar("T")
Note = Callable[[str], None]


class Patience:
    """How long to stay with one server: one that has a stand-in is asked once, the last one is worth waiting for."""

    def __init__(self, session: Session, policy: RetryPolicy, note: Note) -> None:
        self._session = session
        self._policy = policy
        self._note = note

    def turns(self, endpoints: Sequence[Endpoint]) -> Iterator[tuple[Endpoint, int]]:
        """Each server with the attempts it gets. Those known to be down come last, for they cost a timeout each."""
        ordered = sorted(endpoints, key=self._session.is_down)
        for endpoint in ordered:
            last = endpoint is ordered[-1]
            yield endpoint, self._policy.attempts if last and not self._session.is_down(endpoint) else 1

    def call(self, attempts: int, question: Callable[[], T]) -> T:
        """The answer to ``question``, asked again after a ``TemporaryError`` until ``attempts`` are used up."""
        failed = 0
        while True:
            try:
                return question()
            except TemporaryError as error:
                failed += 1
                if failed >= attempts:
                    raise
                self._policy.pause(failed, error, self._note)

    def pause(self, failed: int, error: TemporaryError) -> None:
        """Waits after the ``failed``-th failure in a row."""
        self._policy.pause(failed, error, self._note)

    def passing(self, endpoint: Endpoint, error: ReconcilerError) -> str:
        """Notes that ``endpoint`` failed and the next one is asked; returns the note."""
        text = f"passing over {endpoint.name}: {error}"
        self._note(text)
        return text
