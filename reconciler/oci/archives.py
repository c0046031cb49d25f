"""What a file that should be a tar archive is instead, by its first bytes: to say so before anything is done with it.

What passes here may still be damaged. Layers are tar archives, plain or compressed (image-spec, layer.md).
"""

from __future__ import annotations

import zlib
from typing import Literal

from reconciler.errors import InvalidError

Use = Literal["load", "import"]

HEAD = 1 << 16
"""So many bytes from the start are looked at."""

COMPRESSED = {
    b"\xfd7zXZ\0": "xz",
    **{b"BZh%d1AY&SY" % level: "bzip2" for level in range(1, 10)},
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
}
"""Compressions that layers do not have, by how they begin."""

_GZIP = b"\x1f\x8b"
_GZIP_BITS = 31  # zlib's inflateInit2: a window of 15 bits, and 16 for the header of gzip
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"  # after one byte of 0x50 to 0x5f
_BLOCK = 512
_CHECKSUM = slice(148, 156)
_KNOWN = {
    b"\x7fELF": "a program",
    b"#!": "a script",
    b"hsqs": "a squashfs image",
    b"QFI\xfb": "a disk image (qcow2)",
    b"!<arch>\n": "a Debian package, or another `ar` archive",
    b"\xed\xab\xee\xdb": "an RPM package",
    b"070701": "a cpio archive",
    b"SQLite format 3\0": "an SQLite database",
    b"%PDF": "a PDF document",
}
_HINTS: dict[Use, str] = {
    "load": "give what `reconciler image save` or `docker save` wrote",
    "import": "pack a root filesystem: tar -C DIRECTORY -cf FILE .",
}
_COMPRESS = "compress it with gzip or zstd, or not at all"


def check_archive(head: bytes, name: str, use: Use) -> None:
    """Raises ``InvalidError`` when a file that begins with ``head`` (``HEAD`` bytes, or the whole of a shorter file) is
    certainly no tar archive. Says what it seems to be; the hint says what to give instead for this ``use``."""
    for magic, compression in COMPRESSED.items():
        if head.startswith(magic):
            raise InvalidError(f"{name} is compressed with {compression}", hint=_COMPRESS)
    if head.startswith(_ZSTD) or head[1:4] == _ZSTD_SKIPPABLE:
        return
    if not head:
        raise InvalidError(f"{name} is empty", hint=_HINTS[use])
    seems = _appearance(head)
    if head.startswith(_GZIP):
        try:
            inside = zlib.decompressobj(_GZIP_BITS).decompress(head, _BLOCK)
        except zlib.error:
            return  # damaged: whoever reads it says where
        if len(inside) < _BLOCK and len(head) >= HEAD:
            return
        seems = _appearance(inside) if inside else "an empty file"
        name = f"{name}, uncompressed,"
    if seems is not None:
        but = f": it seems to be {seems}" if seems else ""
        raise InvalidError(f"{name} is no tar archive{but}", hint=_HINTS[use])


def _appearance(head: bytes) -> str | None:
    """What a file seems to be that begins so, empty where nobody can tell; None for a tar archive."""
    if _is_header(head[:_BLOCK]):
        return None
    for magic, what in _KNOWN.items():
        if head.startswith(magic):
            return what
    if b"\0" not in head[:_BLOCK] and _is_text(head[:_BLOCK]):
        return "a JSON document" if head.lstrip()[:1] in (b"{", b"[") else "text"
    return ""


def _is_header(block: bytes) -> bool:
    """Whether an archive may begin so: with a header whose checksum is right, or with its end (GNU tar manual)."""
    if len(block) < _BLOCK:
        return False
    stored = block[_CHECKSUM].partition(b"\0")[0].strip()
    if not stored:
        return not any(block)
    try:
        expected = int(stored, 8)
    except ValueError:
        return block[_CHECKSUM][0] == 0x80  # a number in GNU's binary form: the reader can tell
    others = block[: _CHECKSUM.start] + b" " * 8 + block[_CHECKSUM.stop :]
    # Some old writers summed signed characters.
    return expected in (sum(others), sum(byte - 256 if byte > 127 else byte for byte in others))


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"  # cut in the middle of a character
    return True
