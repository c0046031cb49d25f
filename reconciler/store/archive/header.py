"""The 512-byte header of a tar archive: its fields, and numbers in them.

Formats: POSIX ustar, GNU's variant of it, and the old v7 form (pax(1); GNU tar manual, "Basic Tar Format").
"""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache

from reconciler.errors import InvalidError

BLOCK = 512
_HALF = 256

HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
"""name, mode, uid, gid, size, mtime, checksum, type, link, magic, user, group, major, minor, prefix"""

USTAR = b"ustar\0"
GNU = b"ustar "
"""What the magic begins with; GNU keeps other things than a prefix where ustar has one."""


def check(block: bytes, stored: bytes, start: int) -> None:
    """Raises ``InvalidError`` unless the checksum, the field ``stored``, is that of the block."""
    # The checksum is that of the header with the checksum field itself as eight spaces.
    expected = number(stored, "checksum", start)
    if _sum(block[:_HALF]) + _sum(block[_HALF:]) - _sum(stored) + 256 == expected:
        return
    signed = sum(byte - 256 if byte > 127 else byte for byte in block[:148] + block[156:]) + 256
    if signed != expected:  # some old writers summed signed characters
        raise InvalidError(f"bad tar header checksum at byte {start}", hint="the layer is damaged or not a tar archive")


def number(field: bytes, what: str, start: int) -> int:
    """A numeric field: octal text, or base-256 (GNU) when the top bit is set. ``start`` is where its header begins."""
    value = _number(field)
    if value is None:
        raise InvalidError(f"the tar header at byte {start} has a malformed {what} field")
    return value


@lru_cache(1024)  # most fields of an archive are like those of the entry before
def _number(field: bytes) -> int | None:
    if field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=False) & ((1 << (8 * len(field) - 1)) - 1)
        return value - (1 << (8 * len(field) - 1)) if field[0] & 0x40 else value
    text = field.partition(b"\0")[0].strip(b" ")
    if not text:
        return 0
    try:
        return int(text, 8) if text.isdigit() else None
    except ValueError:
        return None


def _sum(data: bytes) -> int:
    """The sum of at most 256 bytes: the low half of their Adler-32, which counts from one, modulo more than that."""
    return (zlib.adler32(data) & 0xFFFF) - 1


def text(field: bytes) -> bytes:
    """A text field up to its NUL, if it has one."""
    return field.partition(b"\0")[0]
