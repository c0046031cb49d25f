"""What a tar archive says, by the rules of its formats, read in the slowest and plainest way.

The judge of ``store.archive.reader``: it shares no code with it, holds the whole archive in memory and makes no
attempt to be quick. Where formats leave a choice, the choice is the one that the reader documents.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction

BLOCK = 512
MOST = {"header": 1 << 20, "file": 1 << 20, "depth": 500}
FIRST_SECOND, LAST_SECOND = -(1 << 31), (1 << 34) - (1 << 31) - 1


class Refused(Exception):
    """The archive breaks a rule."""


@dataclass
class Member:
    """One entry. ``kind`` is f, d, l, h (hard link), c, b, p or s; ``mtime`` is in nanoseconds."""

    name: bytes
    kind: str
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    content: bytes = b""


KINDS = {
    b"\0": "f", b"0": "f", b"7": "f", b"S": "f", b"1": "h", b"2": "l", b"3": "c", b"4": "b", b"5": "d", b"6": "p",
    b"s": "s",
}  # fmt: skip


def members(data: bytes) -> list[Member]:
    """All entries. Raises ``Refused``."""
    found: list[Member] = []
    general: dict[bytes, bytes] = {}
    at = 0
    while True:
        local: dict[bytes, bytes] = {}
        names: dict[bytes, bytes] = {}
        spent = 0
        while True:
            block = data[at : at + BLOCK]
            if block == b"" or block == bytes(BLOCK):
                if any(data[at + BLOCK : at + 2 * BLOCK]) or local or names.get(b"L") or names.get(b"K"):
                    raise Refused("after the end")
                return found
            if len(block) < BLOCK:
                raise Refused("half a header")
            if not checksum_is_right(block):
                raise Refused("checksum")
            flag = block[156:157]
            if flag not in (b"x", b"g", b"L", b"K"):
                break
            size = numeric(block[124:136])
            spent += size + BLOCK
            if size < 0 or spent > MOST["header"] + BLOCK:
                raise Refused("size of an extended header")
            content, at = padded(data, at + BLOCK, size)
            if flag == b"x":
                local = pax_records(content)
            elif flag == b"g":
                general.update(pax_records(content))
                if any(key.startswith(b"GNU.sparse.") for key in general):
                    raise Refused("sparse for all")
                if sum(len(key) + len(value) for key, value in general.items()) > MOST["header"]:
                    raise Refused("global headers")
            else:
                names[flag] = content.split(b"\0")[0]
        records = {**general, **local}
        for key in list(records):
            if records[key] == b"" and not key.startswith(b"SCHILY.xattr."):
                del records[key]
        member, at = entry(data, at, records, names)
        found.append(member)


def entry(data: bytes, at: int, records: dict[bytes, bytes], names: dict[bytes, bytes]) -> tuple[Member, int]:
    """The entry whose header is at ``at``, and where the next header is."""
    block = data[at : at + BLOCK]
    flag = block[156:157]
    if flag not in KINDS:
        raise Refused("type")
    mode = numeric(block[100:108])
    kind = KINDS[flag]
    if kind == "f" and (mode & 0o170000 == 0o140000 or records.get(b"SCHILY.filetype") == b"socket"):
        kind = "s"
    name = block[:100].split(b"\0")[0]
    if block[257:263] == b"ustar\0" and block[345:346] != b"\0":
        name = block[345:500].split(b"\0")[0] + b"/" + name
    name = records.get(b"path") or names.get(b"L") or name
    link = records.get(b"linkpath") or names.get(b"K") or block[157:257].split(b"\0")[0]
    size = whole(records[b"size"]) if b"size" in records else numeric(block[124:136])
    if not 0 <= size < 1 << 63:
        raise Refused("size")
    if flag in (b"1", b"2", b"3", b"4", b"5", b"6", b"s"):
        size = 0
    declared = any(key.startswith(b"GNU.sparse.") for key in records)
    at += BLOCK
    if flag == b"S":
        pairs, real, at = old_map(data, block, at)
        stored, at = padded(data, at, size, last=True)
        content = filled(pairs, real, stored)
    elif declared:
        if kind != "f":
            raise Refused("sparse, but no file")
        stored, at = padded(data, at, size, last=True)
        pairs, real, stored = pax_map(records, stored)
        content = filled(pairs, real, stored)
        name = records.get(b"GNU.sparse.name") or name
    else:
        if size > MOST["file"]:
            raise Refused("a large file")
        content, at = padded(data, at, size, last=True)
        if kind == "f" and flag != b"7" and name.endswith(b"/"):
            kind, content = "d", b""
    if not name or b"\0" in name or b"\0" in link or max(name.count(b"/"), link.count(b"/")) > MOST["depth"]:
        raise Refused("name")
    owners = [whole(records[key]) if key in records else numeric(block[start : start + 8])
              for key, start in ((b"uid", 108), (b"gid", 116))]  # fmt: skip
    if not all(0 <= owner <= 2**32 - 2 for owner in owners):
        raise Refused("owner")
    device = (numeric(block[329:337]), numeric(block[337:345])) if kind in "cb" else (0, 0)
    seconds = records.get(b"mtime")
    mtime = moment(seconds) if seconds is not None else nanoseconds(Fraction(numeric(block[136:148])))
    xattrs = {key[13:]: value for key, value in records.items() if key.startswith(b"SCHILY.xattr.")}
    if any(b"\0" in key for key in xattrs):
        raise Refused("name of an attribute")
    return Member(name, kind, mode & 0o7777, owners[0], owners[1], mtime, link, device, xattrs, content), at


def checksum_is_right(block: bytes) -> bool:
    stored = numeric(block[148:156])
    blank = block[:148] + b" " * 8 + block[156:]
    return stored == sum(blank) or stored == sum(byte if byte < 128 else byte - 256 for byte in blank)


def numeric(area: bytes) -> int:
    """Octal, or two's complement of all bits but the first."""
    if area[0] >= 128:
        bits = 8 * len(area) - 1
        value = int.from_bytes(area, "big") - (1 << bits)
        return value - (1 << bits) if value >= 1 << (bits - 1) else value
    text = area.split(b"\0")[0].strip(b" ")
    if not re.fullmatch(rb"[0-7]*", text):
        raise Refused("number")
    return int(text or b"0", 8)


def whole(text: bytes) -> int:
    if not re.fullmatch(rb"[0-9]{1,400}", text):
        raise Refused("number")
    return int(text)


def moment(text: bytes) -> int:
    """A time in seconds, in any form that a float has."""
    lower = text.lower()
    if re.fullmatch(rb"[+-]?nan", lower):
        return 0
    if match := re.fullmatch(rb"([+-]?)inf(inity)?", lower):
        return nanoseconds(Fraction(-(1 << 99) if match[1] == b"-" else 1 << 99))
    if match := re.fullmatch(rb"[+-]?[0-9]{1,400}(\.[0-9]*)?", lower):
        return nanoseconds(Fraction(lower.decode().rstrip(".")))
    if re.fullmatch(rb"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", lower):
        number = float(lower)  # the odd forms count in whole seconds
        return nanoseconds(Fraction(int(max(-1e15, min(number, 1e15)))))
    raise Refused("time")


def nanoseconds(seconds: Fraction) -> int:
    """Clamped to what filesystems hold; what is finer is cut off."""
    first, last = FIRST_SECOND * 10**9, LAST_SECOND * 10**9
    exact = seconds * 10**9
    cut = exact.numerator // exact.denominator if exact >= 0 else -(-exact.numerator // exact.denominator)
    return max(first, min(cut, last))


def padded(data: bytes, at: int, size: int, *, last: bool = False) -> tuple[bytes, int]:
    """``size`` bytes and where the block after them begins. The ``last`` body of all may go without its padding."""
    after = at + size + (-size % BLOCK)
    if last and at + size == len(data):
        after = len(data)
    if after > len(data):
        raise Refused("cut off")
    return data[at : at + size], after


def pax_records(content: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    numbers: list[bytes] = []
    while content:
        match = re.match(rb"([0-9]{1,19}) ", content)
        if match is None:
            raise Refused("record")
        length = int(match[1])
        line, content = content[match.end() : length], content[length:] if length <= len(content) else b"?"
        key, equals, value = line[:-1].partition(b"=")
        if length <= match.end() - 1 or not line.endswith(b"\n") or content == b"?" or not equals or not key:
            raise Refused("record")
        if len(line) != length - match.end():
            raise Refused("record")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            if (key == b"GNU.sparse.offset") != (len(numbers) % 2 == 0) or b"," in value:
                raise Refused("map")
            numbers.append(value)
        else:
            found[key] = value
    if numbers:
        found[b"GNU.sparse.map"] = b",".join(numbers)
    return found


def old_map(data: bytes, block: bytes, at: int) -> tuple[list[int], int, int]:
    """The numbers of an old GNU map, the file's size, and where the content begins."""
    if block[257:263] != b"ustar ":
        raise Refused("not GNU")
    real = numeric(block[483:495])
    fields, more = block[386:482], block[482]
    numbers: list[int] = []
    read = 0
    while True:
        for start in range(0, len(fields), 24):
            if fields[start] == 0:
                break
            numbers += [numeric(fields[start : start + 12]), numeric(fields[start + 12 : start + 24])]
        if not more:
            return numbers, real, at
        read += BLOCK
        following = data[at : at + BLOCK]
        if len(following) < BLOCK or read > MOST["header"]:
            raise Refused("map")
        fields, more, at = following[:504], following[504], at + BLOCK


def pax_map(records: dict[bytes, bytes], stored: bytes) -> tuple[list[int], int, bytes]:
    """The numbers of a map in records or in front of the content, the file's size, and the content."""
    version = records.get(b"GNU.sparse.major", b"0"), records.get(b"GNU.sparse.minor", b"0")
    size = records.get(b"GNU.sparse.size") or records.get(b"GNU.sparse.realsize")
    if size is None:
        raise Refused("no size")
    if version == (b"1", b"0"):
        lines = stored.split(b"\n")
        count = small(lines[0]) if len(lines) > 1 else -1
        if count < 0 or len(lines) < 2 + 2 * count:
            raise Refused("map")
        head = sum(len(line) + 1 for line in lines[: 1 + 2 * count])
        head += -head % BLOCK
        if head > len(stored) or head > MOST["header"]:
            raise Refused("map")
        return [small(line) for line in lines[1 : 1 + 2 * count]], small(size), stored[head:]
    if version not in ((b"0", b"0"), (b"0", b"1")):
        raise Refused("version")
    text = records.get(b"GNU.sparse.map", b"")
    numbers = [small(word) for word in text.split(b",")] if text else []
    blocks = records.get(b"GNU.sparse.numblocks")
    if len(numbers) % 2 or (blocks is None and not numbers) or (blocks and 2 * small(blocks) != len(numbers)):
        raise Refused("map")
    return numbers, small(size), stored


def small(text: bytes) -> int:
    if not re.fullmatch(rb"[0-9]{1,19}", text) or int(text) >= 1 << 63:
        raise Refused("map")
    return int(text)


def filled(numbers: list[int], size: int, stored: bytes) -> bytes:
    """The file: the stored pieces in their places, zeros between."""
    if not 0 <= size <= MOST["file"]:
        raise Refused("size of a sparse file")
    content = b""
    for offset, length in zip(numbers[::2], numbers[1::2], strict=True):
        if offset < len(content) or length < 0 or length > len(stored) or offset + length > size:
            raise Refused("map")
        content += bytes(offset - len(content)) + stored[:length]
        stored = stored[length:]
    if stored:
        raise Refused("more than the map")
    return content + bytes(size - len(content))
