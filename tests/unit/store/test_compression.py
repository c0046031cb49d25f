"""Decompression by magic bytes (cases U55, U56, U58, U61, U62)."""

from __future__ import annotations

import gzip
import io
import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from reconciler.errors import IntegrityError
from reconciler.store import compression
from reconciler.store.compression import CHUNK, GzipWriter, decompress


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
