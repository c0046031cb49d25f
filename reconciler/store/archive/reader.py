"""Reading tar archives of layers, as bytes and within bounds.

Formats: POSIX ustar and pax, GNU long names and sparse files, and the old v7 form. Names are bytes: an archive may hold
any. Everything that has a size is bounded before it is read.
"""

from __future__ import annotations

import stat
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from reconciler.errors import IntegrityError, InvalidError
from reconciler.store.archive import pax, sparse
from reconciler.store.archive.header import BLOCK, HEADER, USTAR, check, number, text
from reconciler.store.archive.limits import DEFAULTS, Limits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.store.archive.sparse import Sparse

Xattrs = tuple[tuple[bytes, bytes], ...]

_MAX_SIZE = 1 << 63
_TYPE_BITS = 0o170000


class Kind(Enum):
    FILE = b"0"
    HARDLINK = b"1"
    SYMLINK = b"2"
    CHARACTER = b"3"
    BLOCK_DEVICE = b"4"
    DIRECTORY = b"5"
    FIFO = b"6"
    SOCKET = b"s"


class Entry(NamedTuple):
    """One member. A named tuple, for layers have ten thousands of them.

    ``name`` and ``link`` are as stored; ``mtime`` is in nanoseconds since the epoch; ``mode`` holds permission bits
    only; ``size`` is that of the body, which for a ``sparse`` file is what is stored of it; ``offset`` is where the
    entry's header begins in the uncompressed archive.
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
    xattrs: Xattrs = ()
    offset: int = 0
    sparse: Sparse | None = None


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

    Raises ``InvalidError`` with the byte offset for what is not a tar archive, ``LimitError`` for what exceeds a bound,
    and ``IntegrityError`` for one that ends too early. The end of the stream between two entries counts as the end of
    the archive, as does one zero block: what comes after it is read and ignored (it belongs to the diff ID all the
    same).
    """

    def __init__(self, source: Source, limits: Limits = DEFAULTS) -> None:
        self._source = source
        self._limits = limits
        self._rest = 0  # bytes of the current body not yet read
        self._padding = 0
        self._globals: pax.Records = {}

    def __iter__(self) -> Iterator[Entry]:
        count = 0
        while (entry := self._next()) is not None:
            count += 1
            if count > self._limits.layer_entries:
                raise self._limits.exceeded("layer_entries", f"the archive has {count} entries")
            yield entry
        self._source.drain()

    def body(self) -> Iterator[memoryview]:
        """The rest of the current entry's content; of a sparse file only what is stored."""
        for piece in self._source.pieces(self._rest):
            self._rest -= len(piece)
            yield piece
        if self._rest:
            raise IntegrityError(f"the archive ends inside an entry, at byte {self._source.offset}")

    def _next(self) -> Entry | None:
        self._finish_body()
        local: pax.Records = {}
        long_name = long_link = b""
        spent = 0
        while True:
            start = self._source.offset
            block = self._source.take(BLOCK)
            if not block or (len(block) == BLOCK and not block.strip(b"\0")):
                if local or long_name or long_link:
                    raise IntegrityError(f"the archive ends after an extended header, at byte {start}")
                self._end(block)
                return None
            if len(block) < BLOCK:
                raise IntegrityError(f"the archive ends inside a header, at byte {start}")
            fields = HEADER.unpack(block)
            check(block, fields[6], start)
            flag = fields[7]
            if flag not in b"xgLK":
                entry = self._entry(block, fields, pax.merged(self._globals, local), long_name, long_link, start)
                self._rest = entry.size
                return entry
            size = number(fields[4], "size", start)
            spent += size + BLOCK
            data = self._extended(size, spent, start)
            if flag == b"x":
                local = pax.parse(data, start)
            elif flag == b"g":
                self._add_globals(pax.parse(data, start), start)
            elif flag == b"L":
                long_name = text(data)
            else:
                long_link = text(data)

    def _finish_body(self) -> None:
        if self._rest:
            for _ in self.body():
                pass
        # umoci does not pad the last body, and Go reads that: only a cut inside the padding is a torn archive.
        padding = self._source.take(self._padding) if self._padding else b""
        if padding and len(padding) < self._padding:
            raise IntegrityError(f"the archive ends inside an entry, at byte {self._source.offset}")
        self._padding = 0

    def _end(self, block: bytes) -> None:
        """After a zero block only another one, or nothing, may follow: anything else is a torn archive."""
        start = self._source.offset
        following = self._source.take(BLOCK) if block else b""
        if following.strip(b"\0"):
            raise InvalidError(f"garbage after a zero block, at byte {start}")

    def _extended(self, size: int, spent: int, start: int) -> bytes:
        if size < 0:
            raise InvalidError(f"the extended header at byte {start} has the impossible size {size}")
        if spent > self._limits.header_bytes + BLOCK:
            raise self._limits.exceeded("header_bytes", f"the extended header at byte {start} comes to {spent} bytes")
        data = self._source.take(size)
        if len(data) < size or len(self._source.take(-size % BLOCK)) < -size % BLOCK:
            raise IntegrityError(f"the archive ends inside an extended header, at byte {self._source.offset}")
        return data

    def _add_globals(self, records: pax.Records, start: int) -> None:
        if sparse.is_declared(records):
            raise InvalidError(f"the global header at byte {start} declares sparse files")
        self._globals |= pax.general(records)
        total = sum(len(key) + len(value) for key, value in self._globals.items())
        if total > self._limits.header_bytes:
            raise self._limits.exceeded("header_bytes", f"the global headers up to byte {start} come to {total} bytes")

    def _entry(
        self,
        block: bytes,
        fields: tuple[bytes, ...],
        records: pax.Records,
        long_name: bytes,
        long_link: bytes,
        start: int,
    ) -> Entry:
        name, mode, uid, gid, size, mtime, _, flag, link, magic, _, _, major, minor, prefix = fields
        bits = number(mode, "mode", start)
        kind = _kind(flag, bits, records, start)
        name = text(name)
        # GNU's magic is "ustar  ": there the prefix field holds other things.
        if magic[:6] == USTAR and prefix[0]:
            name = text(prefix) + b"/" + name
        name = records.get(b"path") or long_name or name
        length = pax.count(records[b"size"], "size", start) if b"size" in records else number(size, "size", start)
        if not 0 <= length < _MAX_SIZE:
            raise InvalidError(f"the entry at byte {start} has the impossible size {length}")
        # Only regular files have a body, whatever the field says (so do Go's archive/tar and thus Docker).
        if flag[0] in _NO_BODY:
            length = 0
        self._padding = -length % BLOCK
        holes: Sparse | None = None
        if flag == b"S":
            holes = sparse.from_header(block, self._source.take, length, start, self._limits)
        elif records and sparse.is_declared(records):
            if kind is not Kind.FILE:
                raise InvalidError(f"the entry at byte {start} is sparse and not a regular file")
            holes, spent = sparse.from_records(records, self._source.take, length, start, self._limits)
            length -= spent
            name = sparse.name(records) or name
        elif length > self._limits.file_bytes:
            raise self._limits.exceeded("file_bytes", f"the file at byte {start} has {length} bytes")
        if kind is Kind.FILE and holes is None and flag != b"7" and name.endswith(b"/"):
            kind = Kind.DIRECTORY  # v7 had no type for it
        link = records.get(b"linkpath") or long_link or text(link)
        xattrs = pax.xattrs(records) if records else ()
        self._check_names(name, link, xattrs, start)
        is_device = kind in (Kind.CHARACTER, Kind.BLOCK_DEVICE)
        return Entry(  # without the fields' names, which would take as long again
            name,
            kind,
            bits & 0o7777,
            _owner(pax.count(records[b"uid"], "uid", start) if b"uid" in records else number(uid, "uid", start), start),
            _owner(pax.count(records[b"gid"], "gid", start) if b"gid" in records else number(gid, "gid", start), start),
            length,
            _time(records, mtime, start),
            link,
            (number(major, "major", start), number(minor, "minor", start)) if is_device else (0, 0),
            xattrs,
            start,
            holes,
        )

    def _check_names(self, name: bytes, link: bytes, xattrs: Xattrs, start: int) -> None:
        if not name or b"\0" in name or b"\0" in link or (xattrs and any(b"\0" in key for key, _ in xattrs)):
            raise InvalidError(f"the entry at byte {start} has an empty name or one with a NUL byte")
        depth = max(name.count(b"/"), link.count(b"/"))
        if depth > self._limits.path_depth:
            raise self._limits.exceeded("path_depth", f"the entry at byte {start} has a path of {depth} directories")


_NO_BODY = frozenset(b"123456s")
_TYPES = {kind.value: kind for kind in Kind} | {b"\0": Kind.FILE, b"7": Kind.FILE, b"S": Kind.FILE}


def _kind(flag: bytes, mode: int, records: pax.Records, start: int) -> Kind:
    kind = _TYPES.get(flag)
    if kind is None:
        raise InvalidError(f"the entry at byte {start} has the unsupported type {flag!r}")
    # No standard has a type for sockets. Old writers stored the whole mode of the file; star says it in a record.
    if kind is Kind.FILE and (mode & _TYPE_BITS == stat.S_IFSOCK or records.get(b"SCHILY.filetype") == b"socket"):
        return Kind.SOCKET
    return kind


def _owner(value: int, start: int) -> int:
    # chown(2) takes 2^32-1 for "leave unchanged".
    if not 0 <= value < 0xFFFFFFFF:
        raise InvalidError(f"the entry at byte {start} has the impossible owner {value}")
    return value


def _time(records: pax.Records, field: bytes, start: int) -> int:
    if b"mtime" in records:
        return pax.time(records[b"mtime"], start)
    return pax.clamp(number(field, "mtime", start)) * pax.NANO
