"""Text, JSON, Markdown and saved plans."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from reconciler.engine.memory import MemoryEngine
from reconciler.errors import InvalidError
from reconciler.model.address import Address
from reconciler.model.desired import Desired, Location
from reconciler.model.observed import Observed
from reconciler.model.policy import PlanOptions
from reconciler.model.reason import Reason
from reconciler.model.resources import Sensitive
from reconciler.plan import markdown, saved, text, words
from reconciler.plan.json import document
from reconciler.plan.plan import Blocked, Change, Cost, FieldChange, Plan
from reconciler.reconcile import look, prepare
from reconciler.testing.builders import Stack

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["format_version", "changes", "steps", "summary", "errored"],
    "properties": {
        "format_version": {"const": "1.0"},
        "errored": {"type": "boolean"},
        "summary": {
            "type": "object",
            "required": ["create", "change", "replace", "delete"],
            "additionalProperties": {"type": "integer"},
        },
        "steps": {"type": "array", "items": {"type": "object", "required": ["id", "action", "address", "needs"]}},
        "changes": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["address", "actions", "reason", "message", "fields", "source", "cost"],
                "properties": {
                    "address": {"type": "string"},
                    "actions": {
                        "enum": [
                            ["create"],
                            ["update"],
                            ["delete", "create"],
                            ["create", "delete"],
                            ["delete"],
                            ["start"],
                            ["stop"],
                        ]
                    },
                    "reason": {"type": "string", "pattern": "^[a-z]+(-[a-z]+)*$"},
                    "message": {"type": "string"},
                    "source": {"type": ["object", "null"], "required": ["file", "line", "column"]},
                    "fields": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "maxProperties": 6,
                            "required": ["path", "before", "after", "replaces", "unknown", "sensitive"],
                        },
                    },
                    "cost": {
                        "type": "object",
                        "maxProperties": 5,
                        "required": ["pull_bytes", "push_bytes", "disk_bytes", "discarded_bytes", "downtime"],
                    },
                },
            },
        },
    },
}


def _planned(engine: MemoryEngine | None = None, **fields: Any) -> tuple[Desired, Observed, Plan]:
    engine = engine or MemoryEngine()
    engine.registry.publish("app:1", ("base", 30_000_000))
    stack = Stack()
    stack.pull("app", "app:1")
    stack.tag("r.example.com/app:1", "app", "owned")
    stack.container("web", "app", environment={"TOKEN": Sensitive("hunter2")}, **fields)
    desired = prepare(stack.desired(), engine)
    return desired, *look(desired, engine, PlanOptions())


def _change(name: str = "web", message: str = "why", **fields: Any) -> Change:
    return Change(Address("container", f"shop/{name}"), "update", Reason("changed", message), **fields)


def _plan(*changes: Change, **fields: Any) -> Plan:
    count = {"create": 0, "change": len(changes), "replace": 0, "delete": 0}
    return Plan(changes, summary=count, **fields)


def test_json_keeps_its_contract() -> None:
    result = json.loads(json.dumps(document(_planned()[2])))
    jsonschema.validate(result, SCHEMA)
    assert result["summary"] == {"create": 3, "change": 0, "replace": 0, "delete": 0}
    ids = [step["id"] for step in result["steps"]]
    assert all(ids.index(need) < ids.index(step["id"]) for step in result["steps"] for need in step["needs"])


def test_no_rendering_holds_a_secret() -> None:
    desired, observed, plan = _planned()
    seal = MemoryEngine().seal(b"hunter2")
    stored = json.dumps(saved.save(plan, desired, observed, sources={}, options=PlanOptions()))
    for rendering in (text.render(plan), json.dumps(document(plan)), markdown.render(plan), stored):
        assert "(sensitive)" in rendering
        assert "hunter2" not in rendering
        assert seal not in rendering


def test_an_empty_plan_says_so_on_its_last_line() -> None:
    assert text.render(_plan()) == "No changes.\n"
    assert text.render(_plan(_change())).splitlines()[-1] == (
        "Plan: 0 to create, 1 to change, 0 to replace, 0 to delete."
    )


def test_g37_nothing_from_outside_reaches_the_terminal_as_it_is() -> None:
    evil = "a\x1b[31m\r\nPlan: forged\u202e\x00\x9b\u2028"
    change = _change("w", evil, fields=(FieldChange(evil, evil, [evil]),), location=Location(evil, 1, 1))
    blocked = Blocked(Address("image", f"shop/{evil}"), Reason("x", evil), evil, Location(evil, 1, 1))
    plan = _plan(change, blocked=(blocked,), notes=(evil,))
    for rendering in (text.render(plan), markdown.render(plan)):
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]", rendering)
        assert not any(line.startswith("Plan: forged") for line in rendering.splitlines())


def test_colour_only_when_asked_for() -> None:
    plan = _planned()[2]
    coloured = text.render(plan, colour=True)
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == text.render(plan)


def test_fields_are_aligned() -> None:
    change = _change(fields=(FieldChange("a", 1, 2), FieldChange("much.longer", 1, 2)))
    lines = text.render(_plan(change)).splitlines()
    assert lines[1].index("1 ->") == lines[2].index("1 ->")


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (34_000_000, "34.0 MB"),
        (5 * 10**12, "5.0 TB"),
    ],
)
def test_sizes_are_for_people(count: int, shown: str) -> None:
    assert words.size(count) == shown


def test_costs_that_nobody_knows_are_said_to_be_unknown() -> None:
    assert words.cost(Cost(pull_bytes=None, push_bytes=None)) == "pull unknown, push unknown"
    changes = [_change(cost=Cost(pull_bytes=1000)), _change(cost=Cost(pull_bytes=None, downtime=True))]
    assert words.total_cost(changes) == "pull 1.0 kB or more, interrupts 1 container"


def test_markdown_tables_survive_pipes_backticks_and_html() -> None:
    message = "a | b `c` <img src=x> @someone #1 [x](y)"
    rendering = markdown.render(_plan(_change("w|`", message)))
    row = next(line for line in rendering.splitlines() if "a \\|" in line)
    assert len(re.findall(r"(?<!\\)\|", row)) == 6
    assert "\\<img" in row
    assert "\\@someone" in row


def test_markdown_fences_are_longer_than_any_inside() -> None:
    rendering = markdown.render(_plan(_change(message="````")))
    assert "\n`````text\n" in rendering
    assert rendering.count("`````") == 2


@pytest.mark.parametrize("count", [0, 1, 50, 5000])
def test_markdown_fits_a_comment(count: int) -> None:
    changes = [_change(f"web-{n}", "w" * 100, fields=(FieldChange("x", "a" * 90, "b" * 90),)) for n in range(count)]
    blocked = tuple(Blocked(change.address, Reason("x", "y" * 100)) for change in changes)
    rendering = markdown.render(_plan(*changes, blocked=blocked))
    assert len(rendering) <= markdown.LIMIT
    assert ("more changes" in rendering) is (count == 5000)


def test_a_saved_plan_reads_back_and_does_the_same_work() -> None:
    desired, observed, plan = _planned()
    options = PlanOptions(asked=True, max_deletes=3)
    kept = saved.save(plan, desired, observed, sources={"paths": ["/specs"]}, options=options)
    assert kept["kind"] == "reconciler/plan"
    read = saved.load(json.loads(json.dumps(kept)))
    assert (read.root_id, read.options, read.sources) == ("memory", options, {"paths": ["/specs"]})
    assert read.pins == desired.pins
    assert read.fingerprint == saved.fingerprint(observed)
    assert saved.same_work(read, plan) == []


def test_g35_a_saved_plan_tells_what_has_changed() -> None:
    desired, observed, plan = _planned()
    read = saved.load(saved.save(plan, desired, observed, sources={}, options=PlanOptions()))
    assert saved.same_work(read, _planned(user="www")[2]) == ["planned differently: create container/shop/web"]
    fewer = replace(plan, steps=plan.steps[1:])
    assert saved.same_work(read, fewer) == ["no longer planned: pull image/shop/app"]
    more = saved.load(saved.save(fewer, desired, observed, sources={}, options=PlanOptions()))
    assert saved.same_work(more, plan) == ["now planned too: pull image/shop/app"]


def test_a_changed_secret_is_changed_work() -> None:
    desired, observed, plan = _planned()
    read = saved.load(saved.save(plan, desired, observed, sources={}, options=PlanOptions()))
    other = _planned(MemoryEngine(root_id="another key"))[2]
    assert saved.same_work(read, other) == ["planned differently: create container/shop/web"]


def test_fingerprints_ignore_the_clock_and_nothing_else() -> None:
    observed = _planned()[1]
    assert saved.fingerprint(replace(observed, now=observed.now + 5)) == saved.fingerprint(observed)
    assert saved.fingerprint(replace(observed, forwarding="leave")) != saved.fingerprint(observed)


@pytest.mark.parametrize(
    "damage",
    [
        {"kind": "x"},
        {"format_version": "2.0"},
        {"pins": 3},
        {"pins": {"image/x/y": {}}},
        {"work": None},
        {"options": {"x": 1}},
    ],
)
def test_a_damaged_saved_plan_is_refused(damage: dict[str, Any]) -> None:
    desired, observed, plan = _planned()
    kept = saved.save(plan, desired, observed, sources={}, options=PlanOptions())
    with pytest.raises(InvalidError):
        saved.load({**kept, **damage})
    with pytest.raises(InvalidError):
        saved.load([])
