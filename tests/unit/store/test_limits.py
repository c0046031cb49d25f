"""The bounds of archives: each is kept, named when it is exceeded, and can be changed."""

from __future__ import annotations

import gzip
import io
from dataclasses import fields

import pytest
import zstandard

from reconciler.errors import InvalidError, LimitError
from reconciler.store.archive.compression import decompress
from reconciler.store.archive.limits import DEFAULTS, Limits, read_limits
from reconciler.store.archive.reader import ArchiveReader, Source
from reconciler.testing import archives
from reconciler.testing.archives import END, file


def read(data: bytes, limits: Limits) -> int:
    return len(list(ArchiveReader(Source(iter([data])), limits)))


def inflate(data: bytes, limits: Limits) -> int:
    return sum(map(len, decompress(io.BytesIO(data), limits)))


def test_the_error_says_which_limit_its_value_and_how_to_raise_it() -> None:
    with pytest.raises(LimitError) as caught:
        read(file(b"a") + file(b"b") + END, Limits(layer_entries=1))
    assert str(caught.value) == "the archive has 2 entries, which is more than layer_entries (1) allows"
    assert "host.yaml" in caught.value.hint
    assert "`limits: {layer_entries: 2}`" in caught.value.hint


def test_entries() -> None:
    assert read(file(b"f") * 10 + END, Limits(layer_entries=10)) == 10
    with pytest.raises(LimitError, match="layer_entries"):
        read(file(b"f") * 11 + END, Limits(layer_entries=10))


def test_the_size_of_a_file_before_anything_of_it_is_read() -> None:
    assert read(file(b"f", bytes(100)) + END, Limits(file_bytes=100)) == 1
    with pytest.raises(LimitError, match="file_bytes"):
        read(archives.header(size=101), Limits(file_bytes=100))
    with pytest.raises(LimitError, match="file_bytes"):
        read(archives.pax((b"size", b"%d" % (1 << 60))) + archives.header(), DEFAULTS)


def test_depth() -> None:
    limits = Limits(path_depth=5)
    assert read(file(b"1/2/3/4/5/f") + END, limits) == 1
    for deep in (file(b"1/2/3/4/5/6/f"), archives.hardlink(b"h", b"1/2/3/4/5/6/f"), archives.directory(b"/////////")):
        with pytest.raises(LimitError, match="path_depth"):
            read(deep + END, limits)
    with pytest.raises(LimitError, match="path_depth"):
        read(archives.extended(b"a/" * 500_000 + b"b", b"L") + file(b"f") + END, DEFAULTS)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress], ids=["plain", "gzip", "zstd"])
def test_the_uncompressed_size(pack: object) -> None:
    limits = Limits(layer_bytes=100_000)
    assert inflate(pack(bytes(100_000)), limits) == 100_000  # type: ignore[operator]
    with pytest.raises(LimitError, match="layer_bytes"):
        inflate(pack(bytes(100_001)), limits)  # type: ignore[operator]


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_the_ratio_counts_only_beyond_a_size(pack: object) -> None:
    zeros = pack(bytes(1 << 20))  # type: ignore[operator]
    assert inflate(zeros, Limits(compression_ratio=2, compression_ratio_from=1 << 20)) == 1 << 20
    assert inflate(zeros, DEFAULTS) == 1 << 20
    with pytest.raises(LimitError, match="compression_ratio "):
        inflate(zeros, Limits(compression_ratio=2, compression_ratio_from=(1 << 20) - 1))
    noise = bytes(range(256)) * 16
    assert inflate(pack(noise), Limits(compression_ratio=100, compression_ratio_from=1)) == len(noise)  # type: ignore[operator]


def test_limits_are_read_from_a_map_with_units() -> None:
    assert read_limits(None) == read_limits({}) == DEFAULTS
    given = {"layer_bytes": "256GiB", "layer_entries": "20M", "path_depth": 50, "compression_ratio": "2 K"}
    assert read_limits(given) == Limits(
        layer_bytes=256 << 30, layer_entries=20_000_000, path_depth=50, compression_ratio=2000
    )
    assert read_limits({field.name: "7" for field in fields(Limits)}) == Limits(*[7] * len(fields(Limits)))


@pytest.mark.parametrize(
    "document",
    [
        [],
        "1GiB",
        {"layer_byte": 1},
        {1: 1},
        *(
            {"layer_bytes": value}
            for value in (0, -1, "0", "1GB", "1G", "1.5GiB", "", None, True, "many", "\u0663", [])
        ),
        {"layer_entries": "1GiB"},
        {"layer_entries": "9" * 30},
    ],
    ids=repr,
)
def test_a_map_that_is_not_right_is_refused(document: object) -> None:
    with pytest.raises(InvalidError, match="limits"):
        read_limits(document)
