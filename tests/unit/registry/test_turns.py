"""One holder at a time for each key."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from reconciler.registry.turns import Turns


def test_one_at_a_time_for_a_key_and_others_go_on():
    turns, entered, go_on = Turns(), threading.Event(), threading.Event()
    order: list[str] = []

    def first() -> None:
        with turns.of("a"):
            entered.set()
            assert go_on.wait(10)
            order.append("first")

    def second() -> None:
        with turns.of("a"):
            order.append("second")

    with ThreadPoolExecutor(2) as pool:
        held = pool.submit(first)
        assert entered.wait(10)
        waiting = pool.submit(second)
        with turns.of("b"):
            order.append("other")
        go_on.set()
        held.result()
        waiting.result()
    assert order == ["other", "first", "second"]


def test_a_failure_frees_its_key():
    turns = Turns()
    with pytest.raises(ValueError, match="no"), turns.of("a"):
        raise ValueError("no")
    with turns.of("a"):
        pass
