"""Reading tar archives of layers, as bytes and within bounds.

Formats: POSIX ustar and pax, GNU long names, and the old v7 form (pax(1); GNU tar manual, "Basic Tar Format").
Names are bytes: an archive may hold any. Everything that has a size is bounded before it is read.
"""

from __future__ import annotations

import re
import struct
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from reconciler.errors import IntegrityError, InvalidError

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 512
MAX_ENTRIES = 10_000_000
MAX_EXTENDED = 1 << 20  # bytes of one pax or long-name record; Go's archive/tar has the same bound
MAX_SIZE = 1 << 50
# What an ext4 or XFS timestamp can hold, roughly: 1901 to 2446.
_TIME_MIN, _TIME_MAX = -(1 << 31), (1 << 34) - (1 << 31) - 1
_NANO = 1_000_000_000

_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_DECIMAL = re.compile(rb"([+-]?)(\d{1,400})(?:\.(\d*))?")
_XATTR = b"SCHILY.xattr."


class Kind(Enum):
    FILE = b"0"
    HARDLINK = b"1"
    SYMLINK = b"2"
    CHARACTER = b"3"
    BLOCK_DEVICE = b"4"
    DIRECTORY = b"5"
    FIFO = b"6"


class Entry(NamedTuple):
    """One member. A named tuple, for layers have ten thousands of them.

    ``name`` and ``link`` are as stored; ``mtime`` is in nanoseconds since the epoch; ``mode`` holds permission bits
    only; ``offset`` is where the entry's header begins in the uncompressed archive.
    """

    name: bytes
    kind: Kind
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = 0
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    offset: int = 0


class Source:
    """A stream of chunks read by exact amounts. ``offset`` counts what was taken."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._chunk = memoryview(b"")
        self.offset = 0

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes, or fewer at the end of the stream."""
        if count <= len(self._chunk):
            piece, self._chunk = self._chunk[:count], self._chunk[count:]
            self.offset += count
            return bytes(piece)
        return b"".join(self.pieces(count))

    def pieces(self, count: int) -> Iterator[memoryview]:
        """The next ``count`` bytes as views that are valid until the next call; fewer at the end of the stream."""
        while count:
            if not self._chunk:
                chunk = next(self._chunks, None)
                if chunk is None:
                    return
                self._chunk = memoryview(chunk)
                continue
            piece, self._chunk = self._chunk[:count], self._chunk[count:]
            self.offset += len(piece)
            count -= len(piece)
            yield piece

    def drain(self) -> None:
        """Reads to the end of the stream."""
        self.offset += len(self._chunk)
        for chunk in self._chunks:
            self.offset += len(chunk)
        self._chunk = memoryview(b"")


class ArchiveReader:
    """Iterates over the entries of an archive; between two steps, ``body`` gives the content of the current one.

    Raises ``InvalidError`` with the byte offset for what is not a tar archive or exceeds a bound, and
    ``IntegrityError`` for one that ends too early. The end of the stream between two entries counts as the end of the
    archive, as does one zero block: what comes after it is read and ignored (it belongs to the diff ID all the same).
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._rest = 0  # bytes of the current body not yet read
        self._padding = 0
        self._globals: dict[bytes, bytes] = {}

    def __iter__(self) -> Iterator[Entry]:
        count = 0
        while (entry := self._next()) is not None:
            count += 1
            if count > MAX_ENTRIES:
                raise InvalidError(f"the archive has more than {MAX_ENTRIES} entries")
            yield entry
        self._source.drain()

    def body(self) -> Iterator[memoryview]:
        """The rest of the current entry's content."""
        for piece in self._source.pieces(self._rest):
            self._rest -= len(piece)
            yield piece
        if self._rest:
            raise IntegrityError(f"the archive ends inside an entry, at byte {self._source.offset}")

    def _next(self) -> Entry | None:
        local: dict[bytes, bytes] = {}
        long_name = long_link = b""
        while True:
            for _ in self.body():
                pass
            if self._padding and len(self._source.take(self._padding)) < self._padding:
                raise IntegrityError(f"the archive ends inside an entry, at byte {self._source.offset}")
            self._padding = 0
            start = self._source.offset
            block = self._source.take(BLOCK)
            if not block or (len(block) == BLOCK and not block.strip(b"\0")):
                if local or long_name or long_link:
                    raise IntegrityError(f"the archive ends after an extended header, at byte {start}")
                self._end(block)
                return None
            if len(block) < BLOCK:
                raise IntegrityError(f"the archive ends inside a header, at byte {start}")
            fields = _HEADER.unpack(block)
            _check(block, fields[6], start)
            flag = fields[7]
            if flag in b"xgLK":
                data = self._extended(_number(fields[4], "size", start), start)
                if flag == b"x":
                    local = _pax(data, start)
                elif flag == b"g":
                    self._globals |= _pax(data, start)
                    _bound_globals(self._globals, start)
                elif flag == b"L":
                    long_name = data.partition(b"\0")[0]
                else:
                    long_link = data.partition(b"\0")[0]
                continue
            entry = _entry(fields, {**self._globals, **local} if self._globals else local, long_name, long_link, start)
            self._rest = entry.size
            self._padding = -entry.size % BLOCK
            return entry

    def _end(self, block: bytes) -> None:
        """After a zero block only another one, or nothing, may follow: anything else is a torn archive."""
        start = self._source.offset
        following = self._source.take(BLOCK) if block else b""
        if following.strip(b"\0"):
            raise InvalidError(f"garbage after a zero block, at byte {start}")

    def _extended(self, size: int, start: int) -> bytes:
        if size > MAX_EXTENDED:
            raise InvalidError(f"the extended header at byte {start} has {size} bytes; {MAX_EXTENDED} are allowed")
        data = self._source.take(size)
        if len(data) < size or len(self._source.take(-size % BLOCK)) < -size % BLOCK:
            raise IntegrityError(f"the archive ends inside an extended header, at byte {self._source.offset}")
        return data


_NO_BODY = frozenset(b"123456")
_TYPES = {kind.value: kind for kind in Kind} | {b"\0": Kind.FILE, b"7": Kind.FILE}


def _entry(fields: tuple[bytes, ...], pax: dict[bytes, bytes], long_name: bytes, long_link: bytes, start: int) -> Entry:
    name, mode, uid, gid, size, mtime, _, flag, link, magic, _, _, major, minor, prefix = fields
    kind = _TYPES.get(flag)
    if kind is None:
        raise InvalidError(f"the entry at byte {start} has the unsupported type {flag!r}")
    name = name.partition(b"\0")[0]
    # GNU's magic is "ustar  ": there the prefix field holds other things.
    if magic[:6] == b"ustar\0" and prefix[0]:
        name = prefix.partition(b"\0")[0] + b"/" + name
    name = pax.get(b"path") or long_name or name
    link = pax.get(b"linkpath") or long_link or link.partition(b"\0")[0]
    if kind is Kind.FILE and flag != b"7" and name.endswith(b"/"):
        kind = Kind.DIRECTORY  # v7 had no type for it
    if not name or b"\0" in name or b"\0" in link:
        raise InvalidError(f"the entry at byte {start} has an empty name or one with a NUL byte")
    length = _count(pax[b"size"], "size", start) if b"size" in pax else _number(size, "size", start)
    if not 0 <= length <= MAX_SIZE:
        raise InvalidError(f"the entry at byte {start} has the impossible size {length}")
    is_device = kind in (Kind.CHARACTER, Kind.BLOCK_DEVICE)
    return Entry(
        name=name,
        kind=kind,
        mode=_number(mode, "mode", start) & 0o7777,
        uid=_owner(_count(pax[b"uid"], "uid", start) if b"uid" in pax else _number(uid, "uid", start), start),
        gid=_owner(_count(pax[b"gid"], "gid", start) if b"gid" in pax else _number(gid, "gid", start), start),
        # Only regular files have a body, whatever the field says (so do Go's archive/tar and thus Docker).
        size=length if flag[0] not in _NO_BODY else 0,
        mtime=_pax_time(pax[b"mtime"], start) if b"mtime" in pax else _clamp(_number(mtime, "mtime", start)) * _NANO,
        link=link,
        device=(_number(major, "major", start), _number(minor, "minor", start)) if is_device else (0, 0),
        xattrs=tuple((key[len(_XATTR) :], pax[key]) for key in pax if key.startswith(_XATTR)) if pax else (),
        offset=start,
    )


def _check(block: bytes, stored: bytes, start: int) -> None:
    # The checksum is that of the header with the checksum field itself as eight spaces.
    expected = _number(stored, "checksum", start)
    if sum(block) - sum(stored) + 256 == expected:
        return
    signed = sum(byte - 256 if byte > 127 else byte for byte in block[:148] + block[156:]) + 256
    if signed != expected:  # some old writers summed signed characters
        raise InvalidError(f"bad tar header checksum at byte {start}", hint="the layer is damaged or not a tar archive")


def _number(field: bytes, what: str, start: int) -> int:
    """A numeric field: octal text, or base-256 (GNU) when the top bit is set."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=False) & ((1 << (8 * len(field) - 1)) - 1)
        return value - (1 << (8 * len(field) - 1)) if field[0] & 0x40 else value
    text = field.partition(b"\0")[0].strip(b" ")
    if not text:
        return 0
    try:
        if text.isdigit():
            return int(text, 8)
    except ValueError:
        pass
    raise InvalidError(f"the tar header at byte {start} has a malformed {what} field")


def _owner(value: int, start: int) -> int:
    # chown(2) takes 2^32-1 for "leave unchanged".
    if not 0 <= value < 0xFFFFFFFF:
        raise InvalidError(f"the entry at byte {start} has the impossible owner {value}")
    return value


def _pax(data: bytes, start: int) -> dict[bytes, bytes]:
    """The records of a pax header: "<length> <key>=<value>\\n", the length being that of the whole record."""
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        length = data[at:space] if space > at else b""
        end = at + int(length) if length.isdigit() else 0
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if end <= space or end > len(data) or data[end - 1 : end] != b"\n" or not equals or not key:
            raise InvalidError(f"malformed pax record at byte {start + BLOCK + at}")
        if key.startswith(b"GNU.sparse."):
            raise InvalidError(f"sparse files are not supported, at byte {start}", hint="build the layer without them")
        records[key] = value
        at = end
    return records


def _bound_globals(records: dict[bytes, bytes], start: int) -> None:
    if sum(len(key) + len(value) for key, value in records.items()) > MAX_EXTENDED:
        raise InvalidError(f"the global pax headers up to byte {start} exceed {MAX_EXTENDED} bytes")


def _count(text: bytes, what: str, start: int) -> int:
    match = _DECIMAL.fullmatch(text)
    if match is None or match[3] is not None or match[1]:
        raise InvalidError(f"the pax header before byte {start} has a malformed {what}")
    return int(match[2])


def _pax_time(text: bytes, start: int) -> int:
    match = _DECIMAL.fullmatch(text)
    if match is None:
        try:
            number = float(text)
        except ValueError:
            raise InvalidError(f"the pax header before byte {start} has a malformed mtime") from None
        return 0 if number != number else (_TIME_MAX if number > 0 else _TIME_MIN) * _NANO
    nanoseconds = int(match[2]) * _NANO + int(((match[3] or b"") + b"000000000")[:9])
    if match[1] == b"-":
        nanoseconds = -nanoseconds
    return max(_TIME_MIN * _NANO, min(nanoseconds, _TIME_MAX * _NANO))


def _clamp(seconds: int) -> int:
    return max(_TIME_MIN, min(seconds, _TIME_MAX))
