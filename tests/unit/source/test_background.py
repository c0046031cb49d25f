"""A source that hangs holds nobody up (G26)."""

from __future__ import annotations

import queue
import threading
from pathlib import Path

import pytest

from reconciler.errors import HostError, NotFoundError
from reconciler.source.background import BackgroundSource
from reconciler.source.directory import DirectorySource
from reconciler.source.port import Revision


class _Slow(DirectorySource):
    """Answers each read with the next of ``answers``, and not before there is one."""

    def __init__(self, path: Path) -> None:
        super().__init__([path])
        self.answers: queue.Queue[Exception | None] = queue.Queue()
        self.reads = 0

    def read(self) -> Revision:
        self.reads += 1
        answer = self.answers.get(timeout=30)
        if answer:
            raise answer
        return super().read()


@pytest.fixture
def slow(tmp_path: Path) -> _Slow:
    return _Slow(tmp_path)


def test_an_answer_in_time_is_the_answer(slow: _Slow) -> None:
    arrived = threading.Event()
    source = BackgroundSource(slow, arrived.set, patience=30)
    slow.answers.put(None)
    assert source.read().paths == (str(slow.watched[0]),)
    slow.answers.put(NotFoundError("gone"))
    with pytest.raises(NotFoundError, match="gone"):
        source.read()
    assert slow.reads == 2
    assert not arrived.is_set()
    assert source.identity == slow.identity


@pytest.mark.parametrize("answer", [None, NotFoundError("gone")])
def test_g26_a_late_answer_is_announced_and_given_next_time(slow: _Slow, answer: Exception | None) -> None:
    arrived = threading.Event()
    source = BackgroundSource(slow, arrived.set, patience=0.01)
    for _ in range(3):
        with pytest.raises(HostError, match="not answered yet"):
            source.read()
    assert slow.reads == 1
    slow.answers.put(answer)
    assert arrived.wait(30)
    if answer is None:
        source.read()
    else:
        with pytest.raises(NotFoundError, match="gone"):
            source.read()
    assert slow.reads == 1
