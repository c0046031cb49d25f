"""A YAML document as nodes that remember where they stand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import field

from reconciler.value import dataclass


@dataclass(slots=True, eq=False)
class Scalar:
    """Text; ``plain`` when it was written without quotes. Lines and columns count from 1.

    It is written from character ``start`` of its file up to ``end``, with its anchor, quotes and escapes; a byte order
    mark does not count.
    """

    text: str
    plain: bool
    line: int
    column: int
    start: int
    end: int
    size: int = 1
    height: int = 0


@dataclass(slots=True, eq=False)
class Listing:
    """A sequence. ``size`` counts the nodes below it with aliases expanded; ``height`` the deepest nesting."""

    line: int
    column: int
    items: list[Node] = field(default_factory=list)
    size: int = 1
    height: int = 0


@dataclass(slots=True, eq=False)
class Mapping:
    """A mapping from text to nodes; each key keeps its own place."""

    line: int
    column: int
    pairs: dict[str, tuple[Scalar, Node]] = field(default_factory=dict)
    size: int = 1
    height: int = 0


Node = Scalar | Listing | Mapping
Path = Sequence[str | int]


def place(root: Node, path: Path, *, key: bool = False) -> tuple[int, int]:
    """The line and column of what ``path`` leads to, or of the deepest part of it that is there.

    A scalar stands where it is written, a collection where its key is; ``key`` asks for the key in any case. A name
    leads into a list to its ``NAME=value`` entry.
    """
    node, at = root, (root.line, root.column)
    for step in path:
        if isinstance(node, Mapping) and isinstance(step, str) and step in node.pairs:
            label, node = node.pairs[step]
            at = (label.line, label.column)
        elif isinstance(node, Listing) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
            at = (node.line, node.column)
        elif isinstance(node, Listing) and (entry := _assignment(node, str(step))):
            node, at = entry, (entry.line, entry.column)
        else:
            break
    return (node.line, node.column) if isinstance(node, Scalar) and not key else at


def find(root: Node, path: Path) -> Node | None:
    """What ``path`` leads to; None when that is not there."""
    node: Node | None = root
    for step in path:
        if isinstance(node, Mapping) and step in node.pairs:
            node = node.pairs[str(step)][1]
        elif isinstance(node, Listing) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
        else:
            return None
    return node


def scalars(root: Node) -> Iterator[tuple[tuple[str | int, ...], Scalar]]:
    """Every text with the path to it; what aliases and merge keys repeat comes once for each path."""
    left: list[tuple[tuple[str | int, ...], Node]] = [((), root)]
    while left:
        path, node = left.pop()
        if isinstance(node, Scalar):
            yield path, node
        elif isinstance(node, Listing):
            left += [((*path, index), item) for index, item in enumerate(node.items)]
        else:
            left += [((*path, name), value) for name, (_, value) in node.pairs.items()]


def _assignment(listing: Listing, name: str) -> Scalar | None:
    items = (item for item in listing.items if isinstance(item, Scalar))
    return next((item for item in items if item.text.partition("=")[0] == name), None)


def describe(node: Node) -> str:
    """What people call such a node."""
    return {Scalar: "text", Listing: "a list", Mapping: "a mapping"}[type(node)]
