"""What files that are no archives are taken for, and that archives are taken for what they are."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile

import pytest

from reconciler.errors import InvalidError
from reconciler.oci.archives import HEAD, check_archive


def tar(format: int = tarfile.PAX_FORMAT, name: str = "etc/motd") -> bytes:  # noqa: A002
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as archive:
        info = tarfile.TarInfo(name)
        info.size, info.mtime = 5, 1.5 if format == tarfile.PAX_FORMAT else 1
        archive.addfile(info, io.BytesIO(b"hello"))
    return file.getvalue()


def old(data: bytes) -> bytes:
    """The archive with the checksum of a writer that sums signed characters."""
    block = bytearray(data[:512])
    block[0] = 0xE9
    total = sum(byte - 256 if byte > 127 else byte for byte in (*block[:148], *block[156:])) + 8 * 32
    block[148:156] = b"%06o\0 " % total
    return bytes(block) + data[512:]


@pytest.mark.parametrize(
    "data",
    [
        tar(),
        tar(tarfile.GNU_FORMAT),
        tar(tarfile.USTAR_FORMAT),
        tar(tarfile.GNU_FORMAT, "long/" * 60 + "name"),
        old(tar(tarfile.USTAR_FORMAT)),
        bytes(1024),
        bytes(512),
        gzip.compress(tar(), mtime=0),
        gzip.compress(tar(), mtime=0)[:300],
        b"\x1f\x8b damaged: whoever reads it says where",
        b"\x28\xb5\x2f\xfd and the rest of a zstd frame",
        b"\x50\x2a\x4d\x18 a frame that zstd skips",
    ],
)
def test_what_may_be_an_archive_is_let_through(data: bytes) -> None:
    check_archive(data[:HEAD], "x", "load")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "x is empty"),
        (b"hello\n", "x is no tar archive: it seems to be text"),
        ("é".encode() * 256 + b"\n", "x is no tar archive: it seems to be text"),
        (("a" + "é" * 500).encode(), "x is no tar archive: it seems to be text"),  # block ends inside a character
        (b'\n {"schemaVersion": 2}' + b" " * 600, "x is no tar archive: it seems to be a JSON document"),
        (b"#!/bin/sh\n", "x is no tar archive: it seems to be a script"),
        (b"\x7fELF\2\1\1" + bytes(600), "x is no tar archive: it seems to be a program"),
        (b"hsqs" + bytes(600), "x is no tar archive: it seems to be a squashfs image"),
        (b"!<arch>\ndebian-binary", "x is no tar archive: it seems to be a Debian package, or another `ar` archive"),
        (bytes(100), "x is no tar archive"),
        (b"\1" + bytes(600), "x is no tar archive"),
        (tar()[:-1][1:], "x is no tar archive"),
        (gzip.compress(b"hello", mtime=0), "x, uncompressed, is no tar archive: it seems to be text"),
        (gzip.compress(b"", mtime=0), "x, uncompressed, is no tar archive: it seems to be an empty file"),
        (lzma.compress(tar()), "x is compressed with xz"),
        (bz2.compress(tar()), "x is compressed with bzip2"),
        (b"PK\3\4" + bytes(600), "x is compressed with zip"),
    ],
)
def test_what_is_no_archive_is_told_what_it_seems_to_be(data: bytes, said: str) -> None:
    with pytest.raises(InvalidError) as caught:
        check_archive(data[:HEAD], "x", "import")
    assert str(caught.value) == said
    assert caught.value.hint
