"""Sparse files in archives: the stored pieces of a file, and where in it they belong.

Four forms, all GNU tar's (its manual, "Storing Sparse Files"); libarchive writes the last. Old GNU: type ``S``, the map
in the header and in blocks after it. pax 0.0 and 0.1: the map in pax records. pax 1.0: the map as text in front of the
content. However a map is written, its pieces must be in order, apart, within the file, and exactly what is stored.
"""

from __future__ import annotations

import os
import zlib
from typing import TYPE_CHECKING

from reconciler.errors import IntegrityError, InvalidError
from reconciler.linux.durable import write_all
from reconciler.store.archive.header import BLOCK, GNU, number
from reconciler.value import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from reconciler.store.archive.limits import Limits
    from reconciler.store.archive.pax import Records

    Checksum = Callable[[memoryview, int], int]
    Take = Callable[[int], bytes]
    Pair = tuple[int, int]

_PREFIX = b"GNU.sparse."
_MAX = 1 << 63
# In the header of an old GNU entry: four pieces, whether more follow, and the size of the file.
_PIECES, _MORE, _SIZE = slice(386, 482), 482, slice(483, 495)
# In a block that continues the map.
_MORE_PIECES, _MORE_AGAIN = slice(0, 504), 504
_FIELD = 12


@dataclass(frozen=True, slots=True)
class Sparse:
    """``size`` is the file's, holes included; ``extents`` are (offset, length) of what is stored, in order."""

    size: int
    extents: tuple[tuple[int, int], ...]


def is_declared(records: Records) -> bool:
    """Whether pax records say that the entry is sparse."""
    return any(key.startswith(_PREFIX) for key in records)


def from_header(block: bytes, take: Take, stored: int, start: int, limits: Limits) -> Sparse:
    """The map of an old GNU entry; ``take`` reads the blocks that continue it. ``stored`` is the size of the body."""
    if not block[257:].startswith(GNU):
        raise InvalidError(f"the sparse entry at byte {start} is not in GNU's format")
    size = number(block[_SIZE], "size", start)
    pairs = list(_fields(block[_PIECES], start))
    more, spent = block[_MORE], 0
    while more:
        spent += BLOCK
        _bound(spent, start, limits)
        block = _whole(take(BLOCK), start)
        pairs += _fields(block[_MORE_PIECES], start)
        more = block[_MORE_AGAIN]
    return _checked(pairs, size, stored, start, limits)


def from_records(records: Records, take: Take, stored: int, start: int, limits: Limits) -> tuple[Sparse, int]:
    """The map that pax records declare, and how many bytes of the body it took (in pax 1.0 it is there)."""
    version = (records.get(b"GNU.sparse.major", b"0"), records.get(b"GNU.sparse.minor", b"0"))
    size = records.get(b"GNU.sparse.size") or records.get(b"GNU.sparse.realsize")
    if size is None:
        raise InvalidError(f"the sparse entry at byte {start} does not say how large the file is")
    if version == (b"1", b"0"):
        numbers, spent = _from_body(take, stored, start, limits)
    elif version in ((b"0", b"0"), (b"0", b"1")):
        numbers, spent = _from_text(records, start), 0
    else:
        raise InvalidError(f"the sparse entry at byte {start} is of an unknown version")
    pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
    return _checked(pairs, _number(size, start), stored - spent, start, limits), spent


def name(records: Records) -> bytes | None:
    """The file's own name: the ordinary one of a sparse entry is made up, for tools that do not know sparse files."""
    return records.get(b"GNU.sparse.name")


def write(handle: int, sparse: Sparse, pieces: Iterable[memoryview], crc32: Checksum = zlib.crc32) -> int:
    """Writes a sparse file's content to an empty file: what is not stored becomes holes. Its CRC-32, holes as zeros.

    ``pieces`` must be what the extents announce. Raises ``OSError``.
    """
    extents, room, end, checksum = iter(sparse.extents), 0, 0, 0
    for piece in pieces:
        while piece:
            if not room:
                offset, room = next(extents)
                os.lseek(handle, offset, os.SEEK_SET)
                checksum, end = with_zeros(checksum, offset - end), offset + room
            part, piece = piece[:room], piece[room:]
            write_all(handle, part)
            checksum, room = crc32(part, checksum), room - len(part)
    os.ftruncate(handle, sparse.size)
    return with_zeros(checksum, sparse.size - end)


def with_zeros(crc: int, count: int) -> int:
    """The CRC-32 of what ``crc`` is that of, followed by ``count`` zero bytes, in time that hardly grows with those."""
    # A zero byte multiplies the register by x^8 modulo the polynomial; the powers of that come from squaring.
    register, power = crc ^ 0xFFFFFFFF, 1 << 23
    while count:
        if count & 1:
            register = _times(register, power)
        power, count = _times(power, power), count >> 1
    return register ^ 0xFFFFFFFF


def _times(left: int, right: int) -> int:
    """The product of two polynomials over GF(2) modulo that of CRC-32 (RFC 1952); the top bit is x^0."""
    product = 0
    for bit in range(31, -1, -1):
        if left >> bit & 1:
            product ^= right
        right = right >> 1 ^ (0xEDB88320 if right & 1 else 0)
    return product


def _fields(area: bytes, start: int) -> Iterator[Pair]:
    """The pairs of numbers in a header; one without an offset ends them."""
    for at in range(0, len(area), 2 * _FIELD):
        offset, length = area[at : at + _FIELD], area[at + _FIELD : at + 2 * _FIELD]
        if offset[0] == 0:
            return
        yield number(offset, "sparse map", start), number(length, "sparse map", start)


def _from_text(records: Records, start: int) -> list[int]:
    text, blocks = records.get(b"GNU.sparse.map", b""), records.get(b"GNU.sparse.numblocks")
    numbers = [_number(word, start) for word in text.split(b",")] if text else []
    if len(numbers) % 2 or (blocks is None and not numbers) or (blocks and _number(blocks, start) * 2 != len(numbers)):
        raise _malformed(start)
    return numbers


def _from_body(take: Take, stored: int, start: int, limits: Limits) -> tuple[list[int], int]:
    """The numbers before the content, a line each, in whole blocks; the first says how many pairs follow."""
    text, spent, lines = bytearray(), 0, 0
    wanted: int | None = None
    while wanted is None or lines < wanted:
        spent += BLOCK
        if spent > stored:
            raise _malformed(start)
        _bound(spent, start, limits)
        block = _whole(take(BLOCK), start)
        lines += block.count(b"\n")
        text += block
        if wanted is None and lines:
            wanted = 1 + 2 * _number(bytes(text.partition(b"\n")[0]), start)
    return [_number(line, start) for line in bytes(text).split(b"\n")[1:wanted]], spent


def _checked(pairs: list[Pair], size: int, stored: int, start: int, limits: Limits) -> Sparse:
    if size > limits.file_bytes:
        raise limits.exceeded("file_bytes", f"the sparse file at byte {start} has {size} bytes")
    extents, end, total = [], 0, 0
    for offset, length in pairs:
        if offset < end or length < 0 or offset + length > size:
            raise InvalidError(
                f"the sparse map at byte {start} has a piece of {length} bytes at {offset}, in a file of {size}, "
                f"after one that ends at {end}"
            )
        end, total = offset + length, total + length
        if length:
            extents.append((offset, length))
    if size < 0 or total != stored:
        raise InvalidError(f"the sparse map at byte {start} has {total} bytes; {stored} are stored")
    return Sparse(size, tuple(extents))


def _number(text: bytes, start: int) -> int:
    value = int(text) if text.isdigit() and len(text) < 20 else _MAX
    if value >= _MAX:
        raise _malformed(start)
    return value


def _whole(block: bytes, start: int) -> bytes:
    if len(block) < BLOCK:
        raise IntegrityError(f"the archive ends inside the sparse map at byte {start}")
    return block


def _bound(spent: int, start: int, limits: Limits) -> None:
    if spent > limits.header_bytes:
        raise limits.exceeded("header_bytes", f"the sparse map at byte {start} has {spent} bytes")


def _malformed(start: int) -> InvalidError:
    return InvalidError(f"malformed sparse map at byte {start}")
