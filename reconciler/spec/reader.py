"""Reads YAML (and JSON, which is YAML) strictly, from the parser's event stream.

Everything dangerous is refused before a value exists: depth, size, alias expansion, duplicate keys, tags. Nothing
here recurses, so no input can exhaust the stack. Scalars stay text; what they mean is decided in ``scalars``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import yaml

from reconciler.model.desired import Location
from reconciler.spec.errors import Problems, shown
from reconciler.spec.nodes import Listing, Mapping, Node, Scalar
from reconciler.spec.syntax import explain

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 50
MAX_NODES = 1_000_000
MAX_ALIAS_NODES = 100_000
MAX_DOCUMENTS = 1_000

_ANCHOR = "write &NAME before the value that it repeats, or quote text that begins with *"


class _Refused(Exception):
    """Stops the reading of one file: what is wrong, and the event or the node at which it showed."""

    def __init__(self, at: yaml.Event | Node, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.at = _position(at.start_mark) if isinstance(at, yaml.Event) else (at.line, at.column)
        self.message, self.hint = message, hint


def read_documents(name: str, data: bytes, problems: Problems) -> list[Node]:
    """The documents of one file, empty ones left out.

    From where the file cannot be read on, there are none; ``problems`` says so and that names may be missing.
    """
    start = Location(name, 1, 1)
    if len(data) > MAX_BYTES:
        problems.add(start, f"the file has {len(data)} bytes, more than the {MAX_BYTES} allowed", "split it")
        problems.names_known = False
        return []
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        problems.add(Location(name, line, column), "the file is not UTF-8 text", "save it as UTF-8")
        problems.names_known = False
        return []
    reader = _Reader(name, problems)
    try:
        reader.read(text)
        return reader.documents
    except _Refused as error:
        problems.add(Location(name, *error.at), error.message, error.hint)
    except yaml.MarkedYAMLError as error:
        place, message, hint = explain(error, text)
        problems.add(Location(name, *place), message, hint)
    except yaml.reader.ReaderError as error:
        line, column = text.count("\n", 0, error.position) + 1, error.position - text.rfind("\n", 0, error.position)
        problems.add(Location(name, line, column), "the file holds a control character", "remove it")
    problems.names_known = False
    return reader.documents


def _position(mark: Any) -> tuple[int, int]:
    return mark.line + 1, mark.column + 1


def _index(mark: Any) -> int:
    return int(mark.index)


class _Reader:
    def __init__(self, name: str, problems: Problems) -> None:
        self._name = name
        self._problems = problems
        self._anchors: dict[str, Node] = {}
        self._nodes = 0
        self._alias_nodes = 0
        self._spoilt = False
        self.documents: list[Node] = []

    def read(self, text: str) -> None:
        """Puts the documents into ``documents``, as far as it comes."""
        count = 0
        events = _events(text)
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                count += 1
                if count > MAX_DOCUMENTS:
                    raise _Refused(event, f"more than {MAX_DOCUMENTS} documents in one file")
                if event.version is not None and tuple(event.version) != (1, 2):
                    raise _Refused(event, "specs are YAML 1.2", "remove the %YAML directive")
                self._anchors = {}
                self._spoilt = False
                root = self._document(events)
                if self._spoilt:
                    self._problems.names_known = False
                elif not (isinstance(root, Scalar) and root.plain and root.text in ("", "~", "null")):
                    self.documents.append(root)

    def _document(self, events: Iterator[yaml.Event]) -> Node:
        """Builds one document without recursion: ``open_`` holds the collections that have not ended yet."""
        open_: list[_Open] = []
        for event in events:
            if isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
                node = self._close(open_.pop())
            else:
                begun = self._begin(event, len(open_))
                if isinstance(begun, _Open):
                    open_.append(begun)
                    continue
                node = begun
            if not open_:
                return node
            self._put(open_[-1], node, top=len(open_) == 1)
        raise AssertionError("the parser ended inside a document")  # libyaml raises before this

    def _begin(self, event: yaml.Event, depth: int) -> Node | _Open:
        """A finished node (scalar, alias), or the collection that starts here."""
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, depth)
        assert isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent))
        if event.tag is not None:
            raise _Refused(event, f"tags such as {shown(event.tag)} are not allowed", "remove the tag")
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _Refused(event, f"more than {MAX_NODES} values in one file", "split it")
        line, column = _position(event.start_mark)
        if isinstance(event, yaml.ScalarEvent):
            span = _index(event.start_mark), _index(event.end_mark)
            node = Scalar(event.value, event.implicit[0], line, column, *span)
            if event.anchor is not None:
                self._anchors[event.anchor] = node
            return node
        if depth >= MAX_DEPTH:
            raise _Refused(event, f"nested deeper than {MAX_DEPTH} levels")
        if event.anchor is not None:
            self._anchors.pop(event.anchor, None)  # an alias inside its own anchor has nothing to stand for
        is_map = isinstance(event, yaml.MappingStartEvent)
        return _Open(Mapping(line, column) if is_map else Listing(line, column), event.anchor)

    def _alias(self, event: yaml.AliasEvent, depth: int) -> Node:
        target = self._anchors.get(event.anchor or "")
        if target is None:
            raise _Refused(event, f"alias {shown(event.anchor or '')} has no finished anchor before it", _ANCHOR)
        self._alias_nodes += target.size
        if self._alias_nodes > MAX_ALIAS_NODES:
            raise _Refused(event, f"aliases expand to more than {MAX_ALIAS_NODES} values")
        if depth + target.height > MAX_DEPTH:
            raise _Refused(event, f"aliases nest deeper than {MAX_DEPTH} levels")
        return target

    def _put(self, parent: _Open, node: Node, *, top: bool) -> None:
        """Adds a finished node to the collection around it; a section given twice keeps the names of both."""
        collection = parent.node
        collection.size += node.size
        collection.height = max(collection.height, node.height + 1)
        if isinstance(collection, Listing):
            collection.items.append(node)
        elif parent.key is not None:
            key, parent.key = parent.key, None
            if key.plain and key.text == "<<":
                before = _sources(parent.merge[1]) if parent.merge else []
                parent.merge = (key, Listing(node.line, node.column, [*before, *_sources(node)]))
            else:
                _, first = collection.pairs.get(key.text, (key, node))
                if top and isinstance(first, Mapping) and isinstance(node, Mapping):
                    node = replace(node, pairs={**first.pairs, **node.pairs})
                collection.pairs[key.text] = (key, node)
        elif isinstance(node, Scalar):
            self._check_duplicate(parent, node)
            parent.key = node
        else:
            raise _Refused(node, "a key must be text", "quote text that begins with { or [")

    def _check_duplicate(self, parent: _Open, key: Scalar) -> None:
        assert isinstance(parent.node, Mapping)
        first = parent.merge[0] if key.plain and key.text == "<<" and parent.merge else None
        if key.text in parent.node.pairs:
            first = parent.node.pairs[key.text][0]
        if first is not None:
            self._problems.add(
                Location(self._name, key.line, key.column),
                f"duplicate key {shown(key.text)}, first given on line {first.line}",
                "keep one of them",
            )

    def _close(self, opened: _Open) -> Node:
        node = opened.node
        if opened.merge is not None:
            assert isinstance(node, Mapping)
            self._merge(node, *opened.merge)
        if opened.anchor is not None:
            self._anchors[opened.anchor] = node
        return node

    def _merge(self, node: Mapping, key: Scalar, value: Listing) -> None:
        """Applies ``<<``: keys that the mapping has itself win, then those of the first source that has them."""
        for source in value.items:
            if not isinstance(source, Mapping):
                self._spoilt = True  # what it should have brought is unknown
                self._problems.add(
                    Location(self._name, key.line, key.column),
                    "a merge key takes a mapping or a list of mappings",
                    "write <<: *anchor, where the anchor is on a mapping",
                )
                continue
            for name, pair in source.pairs.items():
                node.pairs.setdefault(name, pair)


class _Open:
    """A collection whose end has not been read."""

    __slots__ = ("anchor", "key", "merge", "node")

    def __init__(self, node: Mapping | Listing, anchor: str | None) -> None:
        self.node = node
        self.anchor = anchor
        self.key: Scalar | None = None
        self.merge: tuple[Scalar, Listing] | None = None


def _sources(value: Node) -> list[Node]:
    return value.items if isinstance(value, Listing) else [value]


def _events(text: str) -> Iterator[yaml.Event]:
    loader = yaml.CLoader(text)
    try:
        while loader.check_event():
            event = loader.get_event()
            assert event is not None  # check_event said so
            yield event
    finally:
        loader.dispose()
