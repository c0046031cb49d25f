"""Writing tar archives, deterministically: the same entries always give the same bytes.

Plain ustar, with a pax header only for what ustar cannot hold: long names and links, big numbers, negative times,
extended attributes. No user names, no access or change times; modification times in whole seconds (as Docker's layers
have them: nanoseconds would cost a kilobyte an entry).
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from reconciler.store.archive.header import BLOCK, HEADER
from reconciler.store.archive.reader import Entry, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_MAGIC = b"ustar\x0000"
_NANO = 1_000_000_000
_PAX = b"x"
# What the octal digits of ustar's fields hold: seven of an owner, eleven of a size or a time.
_IDS, _LONG = 1 << 21, 1 << 33

END = bytes(2 * BLOCK)


def header(entry: Entry) -> bytes:
    """The header blocks of an entry, to be followed by its body and ``padding``."""
    name = entry.name + b"/" if entry.kind is Kind.DIRECTORY and not entry.name.endswith(b"/") else entry.name
    seconds = entry.mtime // _NANO
    if entry.kind is Kind.FILE and not entry.xattrs:
        plain = plain_header(name, entry.mode, entry.uid, entry.gid, entry.size, entry.mtime)
        if plain is not None:
            return plain
    prefix, short = _split(name)
    records: dict[bytes, bytes] = {}
    if short is None:
        records[b"path"] = name
        prefix, short = b"", name[:100]
    if len(entry.link) > 100:
        records[b"linkpath"] = entry.link
    for key, value, limit in (
        (b"uid", entry.uid, _IDS),
        (b"gid", entry.gid, _IDS),
        (b"size", entry.size, _LONG),
        (b"mtime", seconds, _LONG),
    ):
        if not 0 <= value < limit:
            records[key] = b"%d" % value
    # The standard wants UTF-8 in these unless told otherwise (pax(1), "hdrcharset").
    if not all(_is_utf8(records.get(key, b"")) for key in (b"path", b"linkpath")):
        records[b"hdrcharset"] = b"BINARY"
    records |= {b"SCHILY.xattr." + key: value for key, value in entry.xattrs}
    block = _block(
        prefix,
        short,
        entry.kind.value,
        entry.mode,
        entry.uid if b"uid" not in records else 0,
        entry.gid if b"gid" not in records else 0,
        entry.size if b"size" not in records else 0,
        seconds if b"mtime" not in records else 0,
        entry.link[:100],
        entry.device,
    )
    return _extended(records) + block if records else block


def plain_header(name: bytes, mode: int, uid: int, gid: int, size: int, mtime: int) -> bytes | None:
    """The header of a regular file without extended attributes, as ``header`` gives it, in a third of the time; None
    where ustar's own fields do not hold all of it."""
    seconds = mtime // _NANO
    if len(name) > 100 or not (0 <= uid < _IDS and 0 <= gid < _IDS and 0 <= seconds < _LONG and 0 <= size < _LONG):
        return None
    head = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0" % (name.ljust(100, b"\0"), mode, uid, gid, size, seconds)
    # The low half of Adler-32 is the sum of the bytes plus one, modulo a number that 148 bytes cannot reach.
    total = (zlib.adler32(head) & 0xFFFF) - 1 + _TAIL_SUM
    return b"%b%06o\0 %b" % (head, total, _TAIL)


def padding(size: int) -> bytes:
    """The zeros after a body of ``size`` bytes."""
    return bytes(-size % BLOCK)


def archive(entries: Iterable[tuple[Entry, bytes]]) -> Iterator[bytes]:
    """A whole archive of small entries with their bodies."""
    for entry, body in entries:
        yield header(entry) + body + padding(len(body))
    yield END


def _extended(records: dict[bytes, bytes]) -> bytes:
    body = b"".join(_record(key, records[key]) for key in sorted(records))
    block = _block(b"", b"pax", _PAX, 0o644, 0, 0, len(body), 0, b"", (0, 0))
    return block + body + padding(len(body))


def _record(key: bytes, value: bytes) -> bytes:
    """One pax record. Its length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _block(
    prefix: bytes,
    name: bytes,
    flag: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime: int,
    link: bytes,
    device: tuple[int, int],
) -> bytes:
    def pack(checksum: bytes) -> bytes:
        return HEADER.pack(
            name, b"%07o" % mode, b"%07o" % uid, b"%07o" % gid, b"%011o" % size, b"%011o" % mtime, checksum, flag, link,
            _MAGIC, b"", b"", b"%07o" % device[0], b"%07o" % device[1], prefix,
        )  # fmt: skip

    return pack(b"%06o\0 " % sum(pack(b" " * 8)))


# What follows the checksum in the header of a plain file; the sum counts the checksum's own field as eight spaces.
_TAIL = _block(b"", b"", Kind.FILE.value, 0, 0, 0, 0, 0, b"", (0, 0))[156:]
_TAIL_SUM = sum(_TAIL) + sum(b" " * 8)


def _split(name: bytes) -> tuple[bytes, bytes | None]:
    """A name as ustar's (prefix, name), cut at a slash; the name is None where that cannot be done."""
    if len(name) <= 100:
        return b"", name
    cut = name.rfind(b"/", 0, min(156, len(name) - 1))
    if cut > 0 and len(name) - cut - 1 <= 100:
        return name[:cut], name[cut + 1 :]
    return b"", None


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
