"""The order in which servers are asked, how long each is waited for, and what to make of their failures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from reconciler.errors import NotFoundError, ReconcilerError
from reconciler.registry.failure import ENDPOINT_FAILURES, TemporaryError, combine
from reconciler.registry.hosts import Endpoint
from reconciler.registry.retry import RetryPolicy
from reconciler.registry.session import Session

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What a server answered, and a note for each that was passed over."""

    endpoint: Endpoint
    value: T
    notes: tuple[str, ...]


class Patience:
    """Whom to ask next, and when to give up."""

    def __init__(self, session: Session, policy: RetryPolicy, note: Callable[[str], None]) -> None:
        self._session = session
        self._policy = policy
        self._note = note

    def first_answer(
        self, what: str, endpoints: Sequence[Endpoint], question: Callable[[Endpoint, int], T]
    ) -> Answer[T]:
        """The first answer to ``question``, which gets a server and the attempts that it is worth.

        A server that has a stand-in is asked once; the last is worth waiting for. One known to be down comes last and
        is asked once, for it costs a timeout; the notes say so. Raises the combined failures of all, ``what`` being
        what was wanted.
        """
        ordered = sorted(endpoints, key=self._session.is_down)
        failures: list[tuple[Endpoint, ReconcilerError]] = []
        notes = [f"{late.name} could not be reached a moment ago" for late in endpoints if self._session.is_down(late)]
        for endpoint in ordered:
            if failures:
                failed, error = failures[-1]
                notes.append(f"passing over {failed.name}: {error}")
                self._note(notes[-1])
            attempts = self.attempts(endpoint) if endpoint is ordered[-1] else 1
            try:
                return Answer(endpoint, question(endpoint, attempts), tuple(notes))
            except ENDPOINT_FAILURES as error:
                failures.append((endpoint, error))
                # Only the origin knows what does not exist: a mirror may merely not have it.
                if endpoint.upstream is None and isinstance(error, NotFoundError):
                    break
        raise combine(what, failures)

    def attempts(self, endpoint: Endpoint) -> int:
        """How often a server without a stand-in is asked."""
        return 1 if self._session.is_down(endpoint) else self._policy.attempts

    def retry(self, attempts: int, question: Callable[[], T]) -> T:
        """The answer to ``question``, asked again after a ``TemporaryError`` until ``attempts`` are used up."""
        failed = 0
        while True:
            try:
                return question()
            except TemporaryError as error:
                failed += 1
                if failed >= attempts:
                    raise
                self.pause(failed, error)

    def retried(self, question: Callable[[Endpoint], T]) -> Callable[[Endpoint, int], T]:
        """``question`` in the form that ``first_answer`` takes, with ``retry`` around it."""
        return lambda endpoint, attempts: self.retry(attempts, partial(question, endpoint))

    def pause(self, failed: int, error: TemporaryError) -> None:
        """Waits after the ``failed``-th failure in a row."""
        self._policy.pause(failed, error, self._note)
