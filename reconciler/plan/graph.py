"""Order: every node after those it needs; and rings, which have none."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TypeVar

from reconciler.errors import InvalidError

Node = TypeVar("Node")


def ordered(needs: Mapping[Node, Collection[Node]]) -> list[Node]:
    """The keys, each after those it needs and otherwise in the order given; needs that are no keys are passed over.

    Raises ``InvalidError`` with the cycle when there is one.
    """
    order: list[Node] = []
    finished: set[Node] = set()
    for root in needs:
        path: dict[Node, Iterator[Node]] = {}
        entering: Node | None = root
        while True:
            if entering is not None and entering not in finished and entering in needs:
                if entering in path:
                    raise _cycle([*path], entering)
                path[entering] = iter(needs[entering])
            if not path:
                break
            last = next(reversed(path))
            entering = next(path[last], None)
            if entering is None:
                del path[last]
                finished.add(last)
                order.append(last)
    return order


def rings(needs: Mapping[Node, Collection[Node]]) -> dict[Node, int]:
    """The ring that each key is in, as a number: two keys share one where each needs the other, however indirectly.

    Needs that are no keys are passed over. (Path-based strong components, after Gabow.)
    """
    entered: dict[Node, int] = {}
    ring: dict[Node, int] = {}
    undecided: list[Node] = []
    firsts: list[Node] = []
    for root in needs:
        path = [] if root in entered else [(root, iter(needs[root]))]
        while path:
            node, rest = path[-1]
            if node not in entered:
                entered[node] = len(entered)
                undecided.append(node)
                firsts.append(node)
            need = next((need for need in rest if need in needs and need not in ring), None)
            if need is None:
                path.pop()
                if firsts[-1] == node:
                    firsts.pop()
                    while node not in ring:
                        ring[undecided.pop()] = entered[node]
            elif need in entered:
                while entered[firsts[-1]] > entered[need]:
                    firsts.pop()
            else:
                path.append((need, iter(needs[need])))
    return ring


def _cycle(path: list[Node], again: Node) -> InvalidError:
    names = [str(node) for node in [*path[path.index(again) :], again]]
    return InvalidError(f"dependency cycle: {' -> '.join(names)}", hint="remove one of these dependencies")
