"""Decompression by magic bytes (cases U55, U56, U58, U61, U62)."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import lzma
import random
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from reconciler.errors import IntegrityError, InvalidError
from reconciler.store.archive import compression
from reconciler.store.archive.compression import CHUNK, GzipWriter, decompress


def inflate(data: bytes) -> bytes:
    return b"".join(decompress(io.BytesIO(data)))


def deflate(data: bytes) -> bytes:
    writer = GzipWriter()
    return writer.compress(data) + writer.finish()


@pytest.fixture(params=["isal", "zlib"], autouse=True)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "zlib":
        monkeypatch.setattr(compression, "_zlib", lambda: zlib)
    else:
        pytest.importorskip("isal")


def test_u56_gzip_members_are_all_read() -> None:
    assert inflate(gzip.compress(b"one ") + gzip.compress(b"") + gzip.compress(b"two")) == b"one two"


def test_u56_zero_padding_after_the_last_member_is_ignored() -> None:
    assert inflate(gzip.compress(b"data") + bytes(3 * CHUNK)) == b"data"


@pytest.mark.parametrize("garbage", [b"garbage", b"\0\0garbage", b"\x1f", b"\0" * (CHUNK + 1) + b"x"])
def test_u56_garbage_after_the_last_member_is_an_error(garbage: bytes) -> None:
    with pytest.raises(IntegrityError):
        inflate(gzip.compress(b"data") + garbage)


@pytest.mark.parametrize("count", [1, 2, 7, 300])
def test_u56_members_of_any_size_wherever_reading_stops(count: int) -> None:
    """Small ones, as seekable layers have them, and such as end just where a chunk does."""
    noise = random.Random(count).randbytes(3 * CHUNK)
    cuts = [len(noise) * number // count for number in range(count + 1)]
    packed = b"".join(gzip.compress(noise[a:b], 0) for a, b in itertools.pairwise(cuts))
    assert inflate(packed) == inflate(packed + bytes(512)) == noise


def test_u56_every_field_that_a_gzip_header_may_have() -> None:
    deflated = gzip.compress(b"data")[10:]
    fields = {0x04: b"\x05\0extra", 0x08: b"name\0", 0x10: b"comment\0"}
    for flags in range(0, 0x20, 4):
        header = b"\x1f\x8b\x08" + bytes([flags]) + bytes(6)
        header += b"".join(content for flag, content in fields.items() if flags & flag)
        assert inflate((header + deflated) * 2) == b"datadata"


def test_u58_a_compression_that_layers_do_not_have_is_named() -> None:
    for packed, name in (
        (lzma.compress(b"x"), "xz"),
        (bz2.compress(b"x"), "bzip2"),
        (b"\x04\x22\x4d\x18\x64", "lz4"),
        (b"PK\x03\x04", "zip"),
    ):
        with pytest.raises(InvalidError, match=name):
            inflate(packed)
    assert inflate(b"BZh9 may well be the name of a file") == b"BZh9 may well be the name of a file"


def test_u58_zstd_is_told_by_its_magic_and_frames_are_all_read() -> None:
    skippable = b"\x5a\x2a\x4d\x18\x03\0\0\0abc"
    frames = zstandard.compress(b"one ") + skippable + zstandard.compress(b"two" * 100_000)
    assert inflate(skippable + frames) == b"one " + b"two" * 100_000


def test_u58_anything_else_is_read_as_it_is() -> None:
    assert inflate(b"plain") == b"plain"
    assert inflate(b"") == b""


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_u62_a_truncated_stream_is_an_error_wherever_it_ends(pack: object) -> None:
    data = pack(bytes(range(256)) * 4)  # type: ignore[operator]
    for length in range(4, len(data)):
        with pytest.raises(IntegrityError):
            inflate(data[:length])


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_u62_of_several_members_or_frames_only_whole_ones_pass(pack: object) -> None:
    parts = [b"one" * 50, b"", b"two" * 300, b"x"]
    packed = [pack(part) for part in parts]  # type: ignore[operator]
    whole = {sum(map(len, packed[:count])): b"".join(parts[:count]) for count in range(1, 5)}
    data = b"".join(packed)
    for length in range(4, len(data) + 1):
        if length in whole:
            assert inflate(data[:length]) == whole[length]
        else:
            with pytest.raises(IntegrityError):
                inflate(data[:length])


def test_zstd_frames_need_not_tell_their_size_and_may_have_a_checksum() -> None:
    for options in ({"write_content_size": False}, {"write_checksum": True}):
        frame = zstandard.ZstdCompressor(**options).compress(b"data" * 1000)
        assert inflate(frame * 2) == b"data" * 2000
        if "write_checksum" in options:
            with pytest.raises(IntegrityError):
                inflate(frame[:-1] + bytes([frame[-1] ^ 1]))


def test_the_worst_frame_that_is_read_takes_less_than_200_mib(tmp_path: Path) -> None:
    """One with the largest window, in which a few bytes come to much."""
    options = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
    packer = zstandard.ZstdCompressor(compression_params=options)
    with (tmp_path / "blob").open("wb") as file, packer.stream_writer(file) as writer:
        for _ in range(200):
            writer.write(bytes(1 << 20))
    code = (
        "import sys\n"
        "from reconciler.store.archive.compression import decompress\n"
        "with open(sys.argv[1], 'rb') as blob: assert sum(map(len, decompress(blob))) == 200 << 20\n"
        # Not getrusage: what it tells begins with the parent's, before exec.
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    said = subprocess.run([sys.executable, "-c", code, tmp_path / "blob"], check=True, stdout=subprocess.PIPE).stdout
    assert int(said) < 200 << 10


def test_a_zstd_frame_may_not_ask_for_all_memory() -> None:
    # Magic, a descriptor without a content size, and a window of 2 TiB.
    with pytest.raises(IntegrityError, match="zstd"):
        inflate(b"\x28\xb5\x2f\xfd\x00\xf8" + b"\x01\x00\x00")


def test_damage_is_an_error() -> None:
    data = bytearray(gzip.compress(b"x" * 1000))
    data[-8] ^= 1
    with pytest.raises(IntegrityError):
        inflate(bytes(data))


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_a_bomb_comes_in_bounded_chunks(pack: object) -> None:
    bomb = pack(bytes(8 << 20))  # type: ignore[operator]
    sizes = [len(chunk) for chunk in decompress(io.BytesIO(bomb))]
    assert sum(sizes) == 8 << 20
    assert max(sizes) <= CHUNK


@given(st.binary(max_size=5000))
def test_what_we_compress_is_the_same_each_time_and_reads_back(data: bytes) -> None:
    packed = deflate(data)
    assert packed == deflate(data)
    assert gzip.decompress(packed) == data
    assert packed[4:8] == bytes(4)  # no time in the header
