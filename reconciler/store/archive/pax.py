"""The records of a pax extended header (pax(1), "pax Extended Header").

Of the vendors' records those count that the tools that build images write: ``SCHILY.xattr.`` (Go's archive/tar, and
with it Docker, containerd, BuildKit, buildah and umoci; GNU tar, libarchive and star too) and ``GNU.sparse.`` (GNU tar,
libarchive). ``LIBARCHIVE.xattr.`` is left alone on purpose: libarchive writes each attribute in both forms, and a
reader that took the other one could be shown something else than every other tool. So are ``SCHILY.dev*``, whose
numbers the ordinary fields can hold, and access lists as text.
"""

from __future__ import annotations

import re

from reconciler.errors import InvalidError
from reconciler.store.archive.header import BLOCK

Records = dict[bytes, bytes]

NANO = 1_000_000_000
# What an ext4 or XFS timestamp can hold, roughly: 1901 to 2446.
_TIME_MIN, _TIME_MAX = -(1 << 31), (1 << 34) - (1 << 31) - 1
_DECIMAL = re.compile(rb"([+-]?)(\d{1,400})(?:\.(\d*))?")
_FLOAT = re.compile(rb"[+-]?(?:nan|inf(?:inity)?|(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)", re.IGNORECASE)
_XATTR = b"SCHILY.xattr."
# What is read of a header that applies to all entries. It is looked at again for each, so the rest must not be there.
_GENERAL = frozenset({b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime", b"SCHILY.filetype"})
_SPARSE_PAIR = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
_SPARSE_MAP = b"GNU.sparse.map"


def parse(data: bytes, start: int) -> Records:
    """The records, "<length> <key>=<value>\\n" each, the length being that of the whole record; the last of a key wins.

    The map of a sparse file that comes as repeated records (GNU.sparse 0.0) is given as one (0.1). ``start`` is where
    the header's own block begins. Raises ``InvalidError`` with the byte offset.
    """
    records: Records = {}
    pairs: list[bytes] = []
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        length = data[at:space] if space > at else b""
        end = at + int(length) if length.isdigit() else 0
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if end <= space or end > len(data) or data[end - 1 : end] != b"\n" or not equals or not key:
            raise InvalidError(f"malformed pax record at byte {start + BLOCK + at}")
        if key in _SPARSE_PAIR:
            if key != _SPARSE_PAIR[len(pairs) % 2] or b"," in value:
                raise InvalidError(f"malformed sparse map at byte {start + BLOCK + at}")
            pairs.append(value)
        else:
            records[key] = value
        at = end
    if pairs:
        records[_SPARSE_MAP] = b",".join(pairs)
    return records


def general(records: Records) -> Records:
    """Those records of a global header that mean something here."""
    return {key: value for key, value in records.items() if key in _GENERAL or key.startswith(_XATTR)}


def merged(globally: Records, local: Records) -> Records:
    """The records that hold for an entry: its own before the global ones. An empty value means the header's field."""
    if globally:
        local = {**globally, **local}
    if b"" in local.values():
        return {key: value for key, value in local.items() if value or key.startswith(_XATTR)}
    return local


def xattrs(records: Records) -> tuple[tuple[bytes, bytes], ...]:
    """The extended attributes, by name and value."""
    return tuple((key[len(_XATTR) :], value) for key, value in records.items() if key.startswith(_XATTR))


def count(value: bytes, what: str, start: int) -> int:
    """A whole number that is not negative. Raises ``InvalidError`` naming ``what``."""
    if not value.isdigit() or len(value) > 400:
        raise InvalidError(f"the pax header before byte {start} has a malformed {what}")
    return int(value)


def time(value: bytes, start: int) -> int:
    """A time in seconds as nanoseconds, clamped to what filesystems can hold: nothing that is a number is refused."""
    match = _DECIMAL.fullmatch(value)
    if match is None:
        if not _FLOAT.fullmatch(value):
            raise InvalidError(f"the pax header before byte {start} has a malformed mtime")
        number = float(value)
        if number != number:
            return 0
        return clamp(int(max(_TIME_MIN - 1.0, min(number, _TIME_MAX + 1.0)))) * NANO
    nanoseconds = int(match[2]) * NANO + int(((match[3] or b"") + b"000000000")[:9])
    if match[1] == b"-":
        nanoseconds = -nanoseconds
    return max(_TIME_MIN * NANO, min(nanoseconds, _TIME_MAX * NANO))


def clamp(seconds: int) -> int:
    """A time in seconds, clamped to what filesystems can hold."""
    return max(_TIME_MIN, min(seconds, _TIME_MAX))
