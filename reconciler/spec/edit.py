"""Other texts in place of some of a spec file's, and every byte elsewhere as it was. Pure."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Mapping, Sequence

from reconciler.errors import InvalidError
from reconciler.spec.errors import Problems
from reconciler.spec.nodes import Listing, Node, Scalar
from reconciler.spec.nodes import Mapping as MappingNode
from reconciler.spec.reader import read_documents

# An anchor, and what may stand between it and its value: space, line breaks, comments.
_ANCHOR = re.compile(r"(?:&[\w-]++(?:\s++(?:#[^\r\n]*+)?)*+)?", re.ASCII)
_HEADER = re.compile(r"[|>][^\r\n]*(?:\r\n|\r|\n)")


def edited(name: str, data: bytes, texts: Mapping[Scalar, str]) -> bytes:
    """The spec file ``data`` with other texts for some of its scalars, which must have been read from just this data.

    Each is written in the manner that the old one was: plain, quoted, or as a block. An anchor's text changes for
    every alias of it. The result is read again and compared: it differs from ``data`` in those texts and in nothing
    else. Raises ``InvalidError`` when that cannot be had, such as for a text that would need quotes where none are.
    """
    mark = BOM_UTF8 if data.startswith(BOM_UTF8) else b""
    source = data.removeprefix(mark).decode()
    parts, position = [], 0
    for scalar in sorted(texts, key=lambda item: item.start):
        written = source[scalar.start : scalar.end]
        parts += [source[position : scalar.start], _rewritten(name, scalar, written, texts[scalar])]
        position = scalar.end
    result = mark + "".join([*parts, source[position:]]).encode()
    problems = Problems()
    before, after = read_documents(name, data, problems), read_documents(name, result, problems)
    if problems or not _same(before, after, {scalar.start: text for scalar, text in texts.items()}):
        places = ", ".join(f"{name}:{scalar.line}:{scalar.column}" for scalar in texts)
        raise InvalidError(
            f"{name} would not mean the same with another text at {places}", hint="edit it by hand; nothing was changed"
        )
    return result


def _rewritten(name: str, scalar: Scalar, written: str, text: str) -> str:
    anchor = _ANCHOR.match(written)
    assert anchor is not None  # it matches nothing, too
    body = written[anchor.end() :]
    if body[:1] in ("'", '"'):
        return anchor[0] + body[0] + text + body[0]
    if body[:1] not in ("|", ">"):
        return anchor[0] + text
    header = _HEADER.match(body)
    if header is None or body[header.end() :].strip() != scalar.text:
        raise InvalidError(
            f"{name}:{scalar.line}:{scalar.column}: the block of text is not one line alone",
            hint="write it on one line, without | and >",
        )
    return anchor[0] + header[0] + body[header.end() :].replace(scalar.text, text)


def _same(before: Sequence[Node], after: Sequence[Node], texts: Mapping[int, str]) -> bool:
    """Whether the documents are equal, but for the texts that began at these places before."""
    left: list[tuple[Node, Node]] = list(zip(before, after, strict=False))
    if len(before) != len(after):
        return False
    while left:
        old, new = left.pop()
        if isinstance(old, Scalar) and isinstance(new, Scalar):
            if (texts.get(old.start, old.text), old.plain) != (new.text, new.plain):
                return False
        elif isinstance(old, Listing) and isinstance(new, Listing) and len(old.items) == len(new.items):
            left += zip(old.items, new.items, strict=True)
        elif isinstance(old, MappingNode) and isinstance(new, MappingNode) and [*old.pairs] == [*new.pairs]:
            left += zip(
                (value for _, value in old.pairs.values()), (value for _, value in new.pairs.values()), strict=True
            )
        else:
            return False
    return True
