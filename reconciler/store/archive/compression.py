"""What layers are compressed with: recognised by their first bytes, never by a media type or a file name.

gzip (RFC 1952) with any number of members, zstd (RFC 8878) with any number of frames, or nothing. Inflating and
hashing release the GIL, so both run well in a thread beside whoever consumes the result.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Literal, Protocol

from reconciler.errors import IntegrityError, InvalidError
from reconciler.oci.archives import COMPRESSED
from reconciler.store.archive.limits import DEFAULTS, Limits

if TYPE_CHECKING:
    from collections.abc import Iterator

Compression = Literal["none", "gzip", "zstd"]

CHUNK = 1 << 17
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE_ZSTD = frozenset(bytes((0x50 + low, 0x2A, 0x4D, 0x18)) for low in range(16))
# Bounds the memory one hostile frame may ask for; 128 MiB is what `zstd --long` writes at most without a flag.
_ZSTD_WINDOW = 1 << 27
# A zstd block of 128 KiB can take four bytes: this much input makes at most 16 MiB of output at a time.
_ZSTD_STEP = 1 << 9
# gzip window bits: 15 for the window, 16 for "gzip header and trailer" (zlib manual, inflateInit2).
_GZIP_BITS = 31


def detect(head: bytes) -> Compression:
    """The compression of a stream that begins with ``head`` (ten bytes are enough).

    A tar archive has no magic at its start: anything else is read as one, and its first header checksum is the judge.
    Raises ``InvalidError`` for a compression that layers do not have.
    """
    if head.startswith(_GZIP_MAGIC):
        return "gzip"
    if head[:4] == _ZSTD_MAGIC or head[:4] in _SKIPPABLE_ZSTD:
        return "zstd"
    for magic, name in COMPRESSED.items():
        if head.startswith(magic):
            raise InvalidError(f"it is compressed with {name}", hint="compress it with gzip or zstd, or not at all")
    return "none"


class Readable(Protocol):
    """A stream of bytes: all that reading needs of it."""

    def read(self, count: int, /) -> bytes: ...


def decompress(source: Readable, limits: Limits = DEFAULTS) -> Iterator[bytes]:
    """Yields the uncompressed bytes of ``source`` in chunks of bounded size, to its very end.

    Raises ``IntegrityError`` for a truncated or damaged stream, and for bytes after the last member or frame that are
    not zero padding; ``InvalidError`` for another compression than gzip and zstd; ``LimitError`` when more comes out,
    in all or for what went in, than ``limits`` allow.
    """
    counted = _Counted(source)
    head = counted.read(CHUNK)
    match detect(head):
        case "gzip":
            chunks = _gunzip(counted, head)
        case "zstd":
            chunks = _unzstd(counted, head)
        case _:
            chunks = _plain(counted, head)
    return _bounded(chunks, counted, limits)


class _Counted:
    """Reads from a source, and counts the bytes."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self.taken = 0

    def read(self, count: int) -> bytes:
        data = self._source.read(count)
        self.taken += len(data)
        return data


def _bounded(chunks: Iterator[bytes], counted: _Counted, limits: Limits) -> Iterator[bytes]:
    total = 0
    for chunk in chunks:
        total += len(chunk)
        if total > limits.layer_bytes:
            raise limits.exceeded("layer_bytes", f"the layer comes to {total} bytes or more")
        if total > limits.compression_ratio_from and total > counted.taken * limits.compression_ratio:
            raise limits.exceeded(
                "compression_ratio", f"{counted.taken} compressed bytes of the layer come to {total} or more"
            )
        yield chunk


def _plain(source: _Counted, head: bytes) -> Iterator[bytes]:
    while head:
        yield head
        head = source.read(CHUNK)


def _gunzip(source: _Counted, data: bytes) -> Iterator[bytes]:
    engine = _zlib()
    while data:
        inflate = engine.decompressobj(wbits=_GZIP_BITS)
        while not inflate.eof:
            try:
                out = inflate.decompress(data, CHUNK)
            except engine.error as error:
                raise IntegrityError(f"damaged gzip stream: {error}") from None
            if out:
                yield out
            data = inflate.unconsumed_tail
            if not data and not out and not inflate.eof:
                data = source.read(CHUNK)
                if not data:
                    raise IntegrityError("gzip stream ends before its trailer", hint="fetch the blob again")
        data = _next_member(source, inflate.unused_data)


def _next_member(source: _Counted, data: bytes) -> bytes:
    """The start of the member that follows, after any zero padding; empty at the end of the stream."""
    while True:
        data = data.lstrip(b"\0") or source.read(CHUNK)
        if not data:
            return b""
        if data[0] != 0:
            break
    if len(data) < len(_GZIP_MAGIC):
        data += source.read(CHUNK)
    if not data.startswith(_GZIP_MAGIC):
        raise IntegrityError("the gzip stream is followed by bytes that are neither gzip nor zero padding")
    return data


def _unzstd(source: _Counted, data: bytes) -> Iterator[bytes]:
    import zstandard

    context = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    frame, is_inside = context.decompressobj(), False
    out = bytearray()
    while data:
        for start in range(0, len(data), _ZSTD_STEP):
            piece = data[start : start + _ZSTD_STEP]
            while piece:
                try:
                    inflated = frame.decompress(piece)
                except zstandard.ZstdError as error:
                    raise IntegrityError(f"damaged zstd stream: {error}") from None
                if len(inflated) > CHUNK:  # never copied whole: it may be large
                    yield from _cut(bytes(out), inflated)
                    out.clear()
                else:
                    out += inflated
                piece, is_inside = frame.unused_data, not frame.eof
                if frame.eof:
                    frame = context.decompressobj()
            while len(out) >= CHUNK:
                yield bytes(out[:CHUNK])
                del out[:CHUNK]
        data = source.read(CHUNK)
    if is_inside:
        raise IntegrityError("zstd stream ends inside a frame", hint="fetch the blob again")
    if out:
        yield bytes(out)


def _cut(*parts: bytes) -> Iterator[bytes]:
    for part in parts:
        yield from (part[at : at + CHUNK] for at in range(0, len(part), CHUNK))


class GzipWriter:
    """Compresses with fixed parameters: equal input gives equal output, on every host that has the same library.

    The header carries no name and no time.
    """

    def __init__(self) -> None:
        # isal's level 1 costs a sixteenth of zlib's level 6 and grows the result by an eighth.
        engine = _zlib()
        self._deflate: Any = engine.compressobj(1, zlib.DEFLATED, _GZIP_BITS)

    def compress(self, data: bytes | memoryview) -> bytes:
        """Some of the output, perhaps empty."""
        out: bytes = self._deflate.compress(data)
        return out

    def finish(self) -> bytes:
        """The rest of the output, with the trailer."""
        out: bytes = self._deflate.flush()
        return out


def _zlib() -> Any:
    """isal where there is a wheel for it, else the standard library's zlib, which has the same interface."""
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib
    return isal_zlib
