"""The package's own ``dataclass`` beside the library's: what a class defined with either does."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from dataclasses import field
from typing import Any

import pytest

from reconciler import value

Define = Callable[..., Any]


@value.dataclass(frozen=True, slots=True)
class Kept:
    """At the top of the module, where pickle finds it."""

    name: str
    parts: tuple[int, ...] = ()


@pytest.fixture(params=[value.dataclass, dataclasses.dataclass], ids=["ours", "library"])
def define(request: pytest.FixtureRequest) -> Define:
    """Every law here is one of the library's too."""
    made: Define = request.param
    return made


def test_values_are_equal_by_the_fields_that_count(define: Define) -> None:
    @define(frozen=True, slots=True)
    class Point:
        """A value."""

        x: int
        y: int = 0
        note: str = field(default="", compare=False)

    @define(frozen=True, slots=True)
    class Other:
        """Another type with the same fields."""

        x: int
        y: int = 0

    assert Point(1, 2, "a") == Point(1, 2, "b")
    assert hash(Point(1, 2, "a")) == hash(Point(1, 2, "b"))
    assert Point(1, 2) != Point(1, 3)
    assert Point(1, 2) != Other(1, 2)
    assert Point(1, 2) != (1, 2)
    assert {Point(1, 2), Point(1, 2), Point(2, 1)} == {Point(2, 1), Point(1, 2)}


def test_a_value_shows_its_fields_but_for_those_that_are_secret(define: Define) -> None:
    @define(frozen=True, slots=True)
    class Login:
        """A value."""

        name: str
        password: str = field(repr=False)

    assert repr(Login("ci", "hunter2")).endswith("Login(name='ci')")


def test_order_is_that_of_the_fields(define: Define) -> None:
    @define(frozen=True, slots=True, order=True)
    class Place:
        """A value."""

        file: str
        line: int

    places = [Place("b", 1), Place("a", 10), Place("a", 9)]
    assert sorted(places) == [Place("a", 9), Place("a", 10), Place("b", 1)]
    assert Place("a", 1) <= Place("a", 1) < Place("a", 2)
    with pytest.raises(TypeError):
        sorted([Place("a", 1), ("a", 2)])


def test_what_can_change_has_no_hash_and_what_has_no_equality_is_itself(define: Define) -> None:
    @define(slots=True)
    class Count:
        """Changes."""

        value: int = 0

    @define(slots=True, eq=False)
    class Node:
        """Is equal to nothing but itself."""

        children: list[Any] = field(default_factory=list)

    count = Count()
    count.value += 1
    assert count == Count(1)
    with pytest.raises(TypeError):
        hash(count)
    with pytest.raises(AttributeError):
        count.other = 1
    node = Node()
    assert node == node
    assert node != Node()
    assert len({node, Node()}) == 2


def test_a_class_without_fields_and_methods_of_its_own(define: Define) -> None:
    @define(frozen=True, slots=True)
    class Nothing:
        """No fields."""

    @define(frozen=True, slots=True)
    class Named:
        """Says itself how it is shown."""

        name: str

        def __repr__(self) -> str:
            return self.name

    assert Nothing() == Nothing()
    assert hash(Nothing()) == hash(Nothing())
    assert repr(Named("x")) == "x"


def test_the_library_and_the_language_know_it(define: Define) -> None:
    @define(frozen=True, slots=True)
    class Pair:
        """A value."""

        left: int
        right: tuple[int, ...] = ()

    changed = dataclasses.replace(Pair(1, (2,)), left=3)
    assert changed == Pair(3, (2,))
    assert dataclasses.is_dataclass(changed)
    assert dataclasses.asdict(changed) == {"left": 3, "right": (2,)}
    assert [item.name for item in dataclasses.fields(Pair)] == ["left", "right"]
    assert copy.deepcopy(changed) == changed
    match changed:
        case Pair(left, (right,)):
            assert (left, right) == (3, 2)
        case _:
            pytest.fail("a value is taken apart by its fields")
    with pytest.raises(TypeError):
        Pair()


def test_a_value_survives_pickle() -> None:
    kept = Kept("a", (1, 2))
    assert pickle.loads(pickle.dumps(kept)) == kept
