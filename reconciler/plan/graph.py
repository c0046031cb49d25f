"""Order: every node after those it needs."""

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


def _cycle(path: list[Node], again: Node) -> InvalidError:
    names = [str(node) for node in [*path[path.index(again) :], again]]
    return InvalidError(f"dependency cycle: {' -> '.join(names)}", hint="remove one of these dependencies")
