"""The order in which servers are asked, how long each is waited for, and what to make of their failures."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Generic, TypeVar

from reconciler.errors import NotFoundError, ReconcilerError
from reconciler.registry.failure import ENDPOINT_FAILURES, SlowError, TemporaryError, UnreachableError, combine
from reconciler.registry.health import Health
from reconciler.registry.hosts import Endpoint
from reconciler.registry.retry import RetryPolicy
from reconciler.value import dataclass

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What a server answered, and a note for each that was passed over."""

    endpoint: Endpoint
    value: T
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """What asking a server is worth: ``attempts`` requests, and with ``stand_in`` no patience for a slow answer."""

    attempts: int
    stand_in: bool = False


class Patience:
    """Whom to ask next, and when to give up."""

    def __init__(self, health: Health, policy: RetryPolicy, note: Callable[[str], None]) -> None:
        self._health = health
        self._policy = policy
        self._note = note
        self._guard = threading.Lock()
        self._waits: Counter[str] = Counter()

    def first_answer(
        self,
        what: str,
        endpoints: Sequence[Endpoint],
        question: Callable[[Endpoint, Turn], T],
        *,
        quiet: bool = False,
    ) -> Answer[T]:
        """The first answer to ``question``, which gets a server and what asking it is worth.

        Mirrors change how fast an answer comes, never which: one that failed a moment ago comes last, the origin is
        asked twice before anybody answers in its place, and when all have failed it is asked as often as it would be
        without them. The notes say what did not go as it should; unless ``quiet``, they are told at once, too. Raises
        the combined failures of all, ``what`` being what was wanted.
        """
        failures: dict[Endpoint, ReconcilerError] = {}
        notes = [
            f"{late.name} failed a moment ago, and is asked last"
            for late in endpoints
            if self._health.is_resting(late) and len(endpoints) > 1
        ]
        passed: Endpoint | None = None
        for endpoint, turn in self._turns(endpoints, failures):
            if passed is not None:
                why = str(failures[passed]).removeprefix(f"{passed.name}: ")
                notes.append(f"passing over {passed.name}: {why}; asking {endpoint.name}")
                if not quiet:
                    self._note(notes[-1])
            passed = endpoint
            try:
                value = question(endpoint, turn)
            except ENDPOINT_FAILURES as error:
                failures[endpoint] = error
                self._health.failed(endpoint, error)
                # Only the origin knows what does not exist: a mirror may merely not have it.
                if endpoint.upstream is None and isinstance(error, NotFoundError):
                    break
            else:
                self._health.served(endpoint)
                return Answer(endpoint, value, tuple(notes))
        raise combine(what, tuple(failures.items()))

    def _turns(
        self, endpoints: Sequence[Endpoint], failures: dict[Endpoint, ReconcilerError]
    ) -> Iterator[tuple[Endpoint, Turn]]:
        resting = [endpoint for endpoint in endpoints if self._health.is_resting(endpoint)]
        awake = [endpoint for endpoint in endpoints if endpoint not in resting]
        full = self._policy.attempts
        spent: dict[Endpoint, int] = {}
        for endpoint in awake:
            last = endpoint is awake[-1]
            spent[endpoint] = full if last else min(full, 2 if endpoint.upstream is None else 1)
            yield endpoint, Turn(spent[endpoint], stand_in=not last)
        for endpoint in resting:
            yield endpoint, Turn(1)
        for endpoint, attempts in spent.items():
            error = failures[endpoint]
            left = full - attempts if endpoint.upstream is None else 0
            if isinstance(error, SlowError) or (left and isinstance(error, TemporaryError)):
                self.pause(1, error)
                yield endpoint, Turn(max(left, 1))

    def attempts(self, endpoint: Endpoint) -> int:
        """How often a server without a stand-in is asked."""
        return 1 if self._health.is_resting(endpoint) else self._policy.attempts

    def retry(self, attempts: int, question: Callable[[], T], *, stand_in: bool = False) -> T:
        """The answer to ``question``, asked again after a ``TemporaryError`` until ``attempts`` are used up.

        A server that has a ``stand_in`` and cannot be reached is not asked again.
        """
        failed = 0
        while True:
            try:
                return question()
            except TemporaryError as error:
                failed += 1
                if failed >= attempts or (stand_in and isinstance(error, UnreachableError)):
                    raise
                self.pause(failed, error)

    def retried(self, question: Callable[[Endpoint], T]) -> Callable[[Endpoint, Turn], T]:
        """``question`` in the form that ``first_answer`` takes, with ``retry`` around it."""
        return lambda endpoint, turn: self.retry(turn.attempts, partial(question, endpoint), stand_in=turn.stand_in)

    def pause(self, failed: int, error: TemporaryError) -> None:
        """Waits after the ``failed``-th failure in a row. Threads that wait for the same tell it once."""
        told: list[str] = []

        def tell(text: str) -> None:
            with self._guard:
                self._waits[text] += 1
                is_first = self._waits[text] == 1
            told.append(text)
            if is_first:
                self._note(text)

        try:
            self._policy.pause(failed, error, tell)
        finally:
            with self._guard:
                self._waits.subtract(told)
