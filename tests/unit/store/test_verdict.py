"""The judge of histories must find what it is there to find."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.testing.verdict import violations

A, B = "image a", "image b"


def op(kind: str, start: float, end: float, **details: Any) -> dict[str, Any]:
    return {"kind": kind, "start": start, "end": end, "result": "ok", "name": "n", **details}


def test_a_history_with_an_order_is_fine() -> None:
    history = [
        op("get", 0, 1, image=None),
        op("set", 2, 9, image=A),
        op("set", 3, 8, image=B),
        op("get", 4, 5, image=B),  # B first ...
        op("get", 6, 7, image=A),  # ... then A
        op("remove", 10, 11, removed=True),
        op("get", 12, 13, image=None),
    ]
    assert violations(history) == []


@pytest.mark.parametrize(
    "history",
    [
        [op("set", 0, 1, image=A), op("get", 2, 3, image=None)],
        [op("set", 0, 1, image=A), op("get", 2, 3, image=B)],
        [op("set", 0, 1, image=A), op("set", 2, 3, image=B), op("get", 4, 5, image=A)],
        [op("set", 0, 9, image=A), op("get", 1, 2, image=A), op("get", 3, 4, image=None)],
        [op("remove", 0, 1, removed=True)],
    ],
    ids=["lost", "another", "an old one", "there and gone", "removed what was not there"],
)
def test_a_history_without_an_order_is_found_out(history: list[dict[str, Any]]) -> None:
    assert [text for text in violations(history) if "no order explains" in text]


def test_only_want_of_an_image_that_could_have_been_collected_is_excused() -> None:
    refused = op("set", 5, 6, image=A, name="m", result="NotFoundError")
    assert violations([refused]) == []
    assert violations([op("set", 0, 1, image=A), op("remove", 5.5, 7, removed=True), refused]) == []
    assert violations([op("set", 0, 9, image=A), refused]) == []
    (found,) = violations([op("set", 0, 1, image=A), refused])
    assert "was named all the time" in found


@pytest.mark.parametrize("kind", ["gc", "read", "use", "drop", "create", "look", "get"])
def test_what_may_not_fail_is_a_violation_when_it_does(kind: str) -> None:
    (found,) = violations([{**op(kind, 0, 1, image=A), "result": "HostError"}])
    assert found.startswith(f"{kind} failed")
    assert violations([{**op("set", 0, 1, image=A), "result": "untyped KeyError"}])
