"""The small pure parts of planning: diff, order, ports, activity."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.errors import InvalidError
from reconciler.model.address import Address
from reconciler.model.observed import ObservedContainer
from reconciler.model.policy import restart_delay
from reconciler.model.resources import Container, Restart
from reconciler.plan.activity import judge
from reconciler.plan.diff import diff
from reconciler.plan.graph import ordered, rings
from reconciler.plan.plan import FieldChange
from reconciler.plan.ports import HostPort, PortTable
from reconciler.testing.builders import digest

WEB = Address("container", "shop/web")


def test_equal_forms_do_not_differ() -> None:
    assert diff({"a": [1], "b": {"c": 1}}, {"b": {"c": 1}, "a": [1]}) == ()


def test_maps_differ_by_key_and_lists_as_wholes() -> None:
    changes = diff(
        {"environment": {"A": "1", "B": "2"}, "command": ["x"]}, {"environment": {"A": "9"}, "command": ["y"]}
    )
    assert [(c.path, c.before, c.after) for c in changes] == [
        ("command", ["x"], ["y"]),
        ("environment.A", "1", "9"),
        ("environment.B", "2", None),
    ]


def test_named_entries_differ_by_name() -> None:
    old = {"mounts": [{"target": "/a", "source": "x"}, {"target": "/b", "source": "y"}]}
    new = {"mounts": [{"target": "/a", "source": "z"}, {"target": "/c", "source": "y"}]}
    assert [c.path for c in diff(old, new)] == ["mounts[/a].source", "mounts[/b]", "mounts[/c]"]


def test_only_fields_outside_in_place_replace() -> None:
    changes = diff({"labels": {"a": "1"}, "user": "x"}, {"labels": {"a": "2"}, "user": "y"}, in_place={"labels"})
    assert {c.path: c.replaces for c in changes} == {"labels.a": False, "user": True}


def test_seals_are_compared_and_never_shown() -> None:
    one, two = {"sensitive": "seal-one"}, {"sensitive": "seal-two"}
    assert diff({"environment": {"A": one}}, {"environment": {"A": one}}) == ()
    (change,) = diff({"environment": {"A": one}}, {"environment": {"A": two}})
    assert change == FieldChange("environment.A", "(sensitive)", "(sensitive)", sensitive=True)
    (whole,) = diff({}, {"secrets": [{"name": "db", "content": two}]})
    assert whole.sensitive
    assert "seal" not in str(whole)


def test_order_is_stable_and_needs_come_first() -> None:
    assert ordered({"c": ["a"], "b": [], "a": ["z"]}) == ["a", "c", "b"]


def test_order_of_a_long_chain_needs_no_recursion() -> None:
    chain = {number: [number + 1] for number in range(5000)} | {5000: []}
    assert ordered(chain) == list(range(5000, -1, -1))


def test_y22_a_cycle_is_an_error_that_shows_it() -> None:
    with pytest.raises(InvalidError, match="a -> b -> c -> a"):
        ordered({"x": ["a"], "a": ["b"], "b": ["c"], "c": ["a"]})


@given(st.dictionaries(st.integers(0, 7), st.lists(st.integers(0, 9), max_size=3)))
def test_a_ring_is_all_that_need_each_other(needs: dict[int, list[int]]) -> None:
    reached = {node: _reached(node, needs) for node in needs}
    ring = rings(needs)
    assert ring.keys() == needs.keys()
    for one, other in itertools.product(needs, repeat=2):
        assert (ring[one] == ring[other]) == (one in reached[other] and other in reached[one])


def _reached(start: int, needs: dict[int, list[int]]) -> set[int]:
    reached: set[int] = set()
    unvisited = [start]
    while unvisited:
        node = unvisited.pop()
        if node not in reached:
            reached.add(node)
            unvisited += needs.get(node, [])
    return reached


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        (HostPort("tcp", 80), HostPort("tcp", 80), True),
        (HostPort("tcp", 80), HostPort("udp", 80), False),
        (HostPort("tcp", 80), HostPort("tcp", 81), False),
        (HostPort("tcp", 80, "0.0.0.0"), HostPort("tcp", 80, "127.0.0.1"), True),
        (HostPort("tcp", 80, "127.0.0.1"), HostPort("tcp", 80, "127.0.0.2"), False),
        (HostPort("tcp", 80, "::"), HostPort("tcp", 80, "127.0.0.1"), False),
        (HostPort("tcp", 80, "::"), HostPort("tcp", 80), True),
    ],
)
def test_y23_ports_overlap(one: HostPort, other: HostPort, clash: bool) -> None:
    assert one.overlaps(other) is clash
    assert other.overlaps(one) is clash


def test_a_port_that_the_engine_chooses_clashes_with_nothing() -> None:
    table = PortTable([("other", {"ports": [{"container_port": 80}, {"container_port": 80, "host_port": 8080}]})])
    assert list(table.clashes({"ports": [{"container_port": 80}]})) == []
    assert [holder for _, holder in table.clashes({"ports": [{"container_port": 1, "host_port": 8080}]})] == ["other"]


def _exited(code: int | None, *, streak: int = 0, at: float = 1000.0) -> ObservedContainer:
    return ObservedContainer("id", WEB, {}, "exited", digest("i"), code, run=1, streak=streak, finished_at=at)


def _container(policy: str = "unless-stopped", attempts: int | None = None) -> Container:
    return Container(Address("image", "shop/app"), restart=Restart(policy, attempts))  # type: ignore[arg-type]


@pytest.mark.parametrize("streak", [0, 1, 5, 30, 1000])
def test_a_service_is_not_started_before_its_next_try(streak: int) -> None:
    delay = restart_delay(streak)
    found = _exited(1, streak=streak)
    early = judge(_container(), found, 1000.0 + delay * 0.9, asked=False)
    assert (early.kind, early.until) == ("wait", 1000.0 + delay)
    assert judge(_container(), found, 1000.0 + delay * 1.01, asked=False).kind == "start"
    assert judge(_container(), found, 1000.0, asked=True).kind == "start"


def test_g25_a_clock_that_jumped_back_does_not_block() -> None:
    assert judge(_container(), _exited(1), 10.0, asked=False).kind == "start"


@pytest.mark.parametrize(
    ("policy", "attempts", "code", "streak", "kind"),
    [
        ("no", None, 0, 0, "settled"),
        ("no", None, 1, 0, "failed"),
        ("no", None, None, 0, "failed"),
        ("on-failure", None, 0, 0, "settled"),
        ("on-failure", None, 1, 500, "start"),
        ("on-failure", 3, 1, 2, "start"),
        ("on-failure", 3, 1, 3, "failed"),
        ("always", None, 0, 0, "start"),
    ],
)
def test_what_an_exit_asks_for(policy: str, attempts: int | None, code: int | None, streak: int, kind: str) -> None:
    verdict = judge(_container(policy, attempts), _exited(code, streak=streak), 1e6, asked=False)
    assert verdict.kind == kind
