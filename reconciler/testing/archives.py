"""Tar archives put together block by block, right or wrong: what no library would write, and every form of the rest.

All functions give the bytes of whole blocks; an archive is their concatenation and ``END``. Where a number is expected,
bytes are put into the header as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

BLOCK = 512
END = bytes(2 * BLOCK)

USTAR = b"ustar\x0000"
GNU = b"ustar  \0"
V7 = bytes(8)

Number = int | bytes
Piece = tuple[int, bytes]
"""A piece of a sparse file: its offset and its content."""


def header(
    name: bytes = b"f",
    flag: bytes = b"0",
    *,
    mode: Number = 0o644,
    uid: Number = 0,
    gid: Number = 0,
    size: Number = 0,
    mtime: Number = 0,
    link: bytes = b"",
    magic: bytes = USTAR,
    major: Number = 0,
    minor: Number = 0,
    prefix: bytes = b"",
    raw: Mapping[int, bytes] | None = None,
    checksum: Number | None = None,
) -> bytes:
    """One header block. ``raw`` is written over it by offset, last; the checksum is right unless one is given."""
    block = bytearray(BLOCK)
    fields = {
        0: name[:100],
        100: number(mode, 8),
        108: number(uid, 8),
        116: number(gid, 8),
        124: number(size, 12),
        136: number(mtime, 12),
        156: flag,
        157: link[:100],
        257: magic,
        329: number(major, 8),
        337: number(minor, 8),
        345: prefix[:155],
        **(raw or {}),
    }
    for at, value in fields.items():
        block[at : at + len(value)] = value
    assert len(block) == BLOCK
    return checked(bytes(block), checksum)


def checked(block: bytes, checksum: Number | None = None) -> bytes:
    """The block with its checksum put right, or with the one given."""
    if checksum is None:
        checksum = b"%06o\0 " % (sum(block[:148]) + sum(block[156:BLOCK]) + 8 * 32)
    return block[:148] + number(checksum, 8) + block[156:]


def number(value: Number, width: int) -> bytes:
    """A numeric field: octal and a NUL where that is enough, else GNU's base-256; bytes as they are, cut to fit."""
    if isinstance(value, bytes):
        return value[:width].ljust(width, b"\0")
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    return base256(value, width)


def base256(value: int, width: int) -> bytes:
    """GNU's binary form of a number: the top bit set, then two's complement."""
    field = (value & ((1 << (8 * width - 1)) - 1)).to_bytes(width, "big")
    return bytes([field[0] | 0x80]) + field[1:]


def body(content: bytes) -> bytes:
    """Content, filled up to whole blocks."""
    return content + bytes(-len(content) % BLOCK)


def record(key: bytes, value: bytes) -> bytes:
    """One pax record. Its length counts its own digits."""
    length = len(key) + len(value) + 3
    while len(b"%d" % length) + len(key) + len(value) + 3 != length:
        length += 1
    return b"%d %s=%s\n" % (length, key, value)


def pax(*records: tuple[bytes, bytes], flag: bytes = b"x") -> bytes:
    """A pax header (``x``), or a global one (``g``), to stand before an entry. A key may come twice."""
    return extended(b"".join(record(key, value) for key, value in records), flag)


def extended(content: bytes, flag: bytes) -> bytes:
    """A header whose content speaks of the next entry: ``x``, ``g``, ``L`` (long name) or ``K`` (long link)."""
    return header(b"././@LongLink", flag, size=len(content), magic=GNU if flag in b"LK" else USTAR) + body(content)


def file(name: bytes, content: bytes = b"", **fields: Number) -> bytes:
    """A regular file; ``fields`` are those of ``header``."""
    return header(name, size=len(content), **fields) + body(content)  # type: ignore[arg-type]


def directory(name: bytes, mode: Number = 0o755, **fields: Number) -> bytes:
    return header(name, b"5", mode=mode, **fields)  # type: ignore[arg-type]


def symlink(name: bytes, target: bytes, **fields: Number) -> bytes:
    return header(name, b"2", mode=0o777, link=target, **fields)  # type: ignore[arg-type]


def hardlink(name: bytes, target: bytes, **fields: Number) -> bytes:
    return header(name, b"1", link=target, **fields)  # type: ignore[arg-type]


def whiteout(name: bytes) -> bytes:
    """Says that ``name`` is gone."""
    above, slash, last = name.rpartition(b"/")
    return file(above + slash + b".wh." + last)


def opaque(name: bytes) -> bytes:
    """Says that a directory shows nothing of the layers below."""
    return file(name + b"/.wh..wh..opq")


def old_sparse(name: bytes, size: Number, pieces: Sequence[Piece], **fields: Number) -> bytes:
    """A sparse file in GNU's old form (type ``S``)."""
    pairs = [number(at, 12) + number(len(content), 12) for at, content in pieces]
    raw = {386: b"".join(pairs[:4]), 482: bytes([len(pairs) > 4]), 483: number(size, 12)}
    stored = b"".join(content for _, content in pieces)
    more = [
        b"".join(pairs[start : start + 21]).ljust(504, b"\0") + bytes([len(pairs) > start + 21]) + bytes(7)
        for start in range(4, len(pairs), 21)
    ]
    block = header(name, b"S", size=len(stored), magic=GNU, raw=raw, **fields)  # type: ignore[arg-type]
    return block + b"".join(more) + body(stored)


def pax_sparse(name: bytes, size: int, pieces: Sequence[Piece], version: str, **fields: Number) -> bytes:
    """A sparse file in one of the pax forms, ``version`` being 0.0, 0.1 or 1.0."""
    numbers = [value for at, content in pieces for value in (at, len(content))]
    stored = b"".join(content for _, content in pieces)
    made_up = b"GNUSparseFile.0/" + name[-60:]
    if version == "1.0":
        records = [(b"major", b"1"), (b"minor", b"0"), (b"name", name), (b"realsize", b"%d" % size)]
        stored = body(b"".join(b"%d\n" % value for value in (len(pieces), *numbers))) + stored
    else:
        records = [(b"size", b"%d" % size), (b"numblocks", b"%d" % len(pieces))]
        if version == "0.1":
            records += [(b"name", name), (b"map", b",".join(b"%d" % value for value in numbers))]
        else:
            made_up = name
            records += [(b"numbytes" if index % 2 else b"offset", b"%d" % value) for index, value in enumerate(numbers)]
    return pax(*((b"GNU.sparse." + key, value) for key, value in records)) + file(made_up, stored, **fields)
