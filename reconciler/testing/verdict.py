"""Judges a history of many processes on one root (``history``): is there an order of things that explains it all?

A name is a register: pulls and tags set it, removals clear it, readers get it. Names are independent of each other, so
each is checked by itself for linearizability: some order that keeps to the clock gives every operation what it saw.
And what was needed at all times of an operation must have been there for it: only for want of an image that could have
been collected may it fail.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Operation = Mapping[str, Any]
_MAY_MISS = frozenset({"NotFoundError"})
# How an operation may fail, and the model go on without it.
_ALLOWED = {
    "set": _MAY_MISS,
    "create": frozenset[str](),
    "remove": frozenset({"NotFoundError", "ConflictError"}),
}


def violations(history: Iterable[Operation]) -> list[str]:
    """What no order of the operations explains, in words; empty for a history that is as it should be."""
    operations = sorted(history, key=lambda operation: operation["start"])
    found = [text for operation in operations for text in _wrong_failure(operation)]
    registers: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        if "name" in operation and _effect(operation) is not None:
            registers[operation["name"]].append(operation)
    for name, touching in sorted(registers.items()):
        if (at := _unexplained(touching)) is not None:
            found.append(f"no order explains what {name} was for: {dict(at)}")
    return found + [
        f"{operation['image']} was named all the time, and yet: {dict(operation)}"
        for operation in operations
        if _missed(operation) and _was_named(operation, registers)
    ]


def summary(history: Sequence[Operation]) -> str:
    """How many operations of which kind there were, and how many things collections freed."""
    kinds = Counter(operation["kind"] for operation in history)
    failed = sum(operation["result"] != "ok" for operation in history)
    freed = sum(operation.get("freed", 0) for operation in history)
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return f"{len(history)} operations ({listed}), {failed} refused, {freed} things freed in turns"


def _wrong_failure(operation: Operation) -> Iterable[str]:
    if operation["result"] != "ok" and operation["result"] not in _ALLOWED.get(operation["kind"], ()):
        yield f"{operation['kind']} failed: {dict(operation)}"


def _effect(operation: Operation) -> tuple[str, str | None] | None:
    """What an operation did to its name, or saw of it: ("set", image), ("get", image or None), ("clear", None)."""
    if operation["result"] != "ok" or operation.get("done") is False or operation.get("removed") is False:
        # A removal that found nothing looked at several things, one after the other: it proves nothing.
        return None
    match operation["kind"]:
        case "set":
            return "set", operation["image"]
        case "get" | "create":
            return "get", operation["image"]
        case "remove":
            return "clear", None
    return None


def _unexplained(operations: Sequence[Operation]) -> Operation | None:
    """The first operation of one register that no order explains.

    Goes through the history with all states that it may be in: the value, and which of the operations under way have
    taken effect already.
    """
    events = sorted(
        [(operation["start"], 0, at) for at, operation in enumerate(operations)]
        + [(operation["end"], 1, at) for at, operation in enumerate(operations)]
    )
    effects = [_effect(operation) for operation in operations]
    under_way: set[int] = set()
    states: set[tuple[str | None, frozenset[int]]] = {(None, frozenset())}
    for _, ends, at in events:
        if not ends:
            under_way.add(at)
            continue
        states = {(value, done - {at}) for value, done in _reachable(states, under_way, effects) if at in done}
        under_way.remove(at)
        if not states:
            return operations[at]
    return None


def _reachable(
    states: set[tuple[str | None, frozenset[int]]],
    under_way: set[int],
    effects: Sequence[tuple[str, str | None] | None],
) -> set[tuple[str | None, frozenset[int]]]:
    """The states, and those that they lead to when operations under way take effect, in every order."""
    found = set(states)
    pending = list(states)
    while pending:
        value, done = pending.pop()
        for at in under_way - done:
            effect = effects[at]
            assert effect is not None
            kind, image = effect
            if (kind == "get" and image != value) or (kind == "clear" and value is None):
                continue
            state = (value if kind == "get" else image, done | {at})
            if state not in found:
                found.add(state)
                pending.append(state)
    return found


def _missed(operation: Operation) -> bool:
    """Whether it failed for want of an image."""
    return operation["kind"] == "set" and (operation["result"] in _MAY_MISS or operation.get("done") is False)


def _was_named(operation: Operation, registers: Mapping[str, Sequence[Operation]]) -> bool:
    """Whether some name meant the image from before the operation to its end, in any order that explains the rest."""
    for touching in registers.values():
        changes = [other for other in touching if other["kind"] in ("set", "remove")]
        for before in changes:
            if before["kind"] != "set" or before["image"] != operation["image"] or before["end"] >= operation["start"]:
                continue
            others = (other for other in changes if other is not before)
            if not any(other["start"] < operation["end"] and other["end"] > before["start"] for other in others):
                return True
    return False
