"""The tar reader and writer (cases U43, U44, U47, U49, U50, U52, U53, U55, U61, U62, D17, D19)."""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.errors import IntegrityError, InvalidError, ReconcilerError
from reconciler.store.archive import BLOCK, MAX_EXTENDED, ArchiveReader, Entry, Kind, Source
from reconciler.store.archive_writer import END, archive, header


def read(data: bytes, step: int = 700) -> list[tuple[Entry, bytes]]:
    reader = ArchiveReader(Source(data[at : at + step] for at in range(0, len(data), step)))
    return [(entry, b"".join(bytes(piece) for piece in reader.body())) for entry in reader]


def pack(*entries: tuple[Entry, bytes]) -> bytes:
    return b"".join(archive(entries))


def one(data: bytes) -> Entry:
    ((entry, _),) = read(data)
    return entry


def patched(block: bytes, at: int, value: bytes) -> bytes:
    """A header block with a field replaced and the checksum put right."""
    block = block[:at] + value + block[at + len(value) :]
    total = sum(block[:148]) + sum(block[156:BLOCK]) + 8 * 32
    return block[:148] + b"%06o\0 " % total + block[156:]


def extended(flag: bytes, body: bytes) -> bytes:
    block = header(Entry(b"meta", Kind.FILE, size=len(body)))
    return patched(block, 156, flag) + body + bytes(-len(body) % BLOCK)


def record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    while len(b"%d" % length) + len(key) + len(value) + 3 != length:
        length += 1
    return b"%d %s=%s\n" % (length, key, value)


FILE = header(Entry(b"f", Kind.FILE))
NAMES = st.binary(min_size=1, max_size=300).filter(lambda name: b"\0" not in name and not name.endswith(b"/"))
ENTRIES = st.builds(
    Entry,
    name=NAMES,
    kind=st.just(Kind.FILE),
    mode=st.integers(0, 0o7777),
    offset=st.just(0),
    device=st.just((0, 0)),
    link=st.just(b""),
    uid=st.integers(0, 2**32 - 2),
    gid=st.integers(0, 2**32 - 2),
    mtime=st.integers(-(2**31), 2**34 - 2**31 - 1).map(lambda seconds: seconds * 10**9),
    xattrs=st.dictionaries(
        st.binary(min_size=1, max_size=20).filter(lambda key: b"=" not in key and b"\0" not in key),
        st.binary(max_size=50),
    ).map(lambda values: tuple(sorted(values.items()))),
)


@given(st.lists(st.tuples(ENTRIES, st.binary(max_size=1500)), max_size=4))
def test_d17_u47_what_is_written_reads_back_byte_for_byte(entries: list[tuple[Entry, bytes]]) -> None:
    sized = [(entry._replace(size=len(body)), body) for entry, body in entries]
    assert [(entry._replace(offset=0), body) for entry, body in read(pack(*sized))] == sized
    assert pack(*sized) == pack(*sized)


@given(st.binary(max_size=2000))
def test_any_bytes_give_entries_or_one_of_our_errors(data: bytes) -> None:
    with contextlib.suppress(ReconcilerError):
        read(data)


@given(st.integers(0, BLOCK - 1), st.integers(1, 255))
def test_u52_a_changed_header_byte_is_noticed(at: int, change: int) -> None:
    block = bytearray(header(Entry(b"name", Kind.FILE)))
    block[at] ^= change
    # In the checksum field and after its NUL a change may leave the number the same.
    if 148 <= at < 156:
        return
    with pytest.raises(InvalidError, match="at byte 0"):
        read(bytes(block) + END)


def test_u52_garbage_after_an_entry_is_an_error_with_its_offset() -> None:
    with pytest.raises(InvalidError, match="byte 1024"):
        read(header(Entry(b"f", Kind.FILE, size=3)) + b"abc" + bytes(509) + b"garbage!" * 64)


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_u49_every_format_of_another_writer(kind: int) -> None:
    names = ["short", "d" * 60 + "/" + "n" * 70, "/".join(["component"] * 15)]
    if kind != tarfile.USTAR_FORMAT:
        names.append("long" * 200)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.mtime = tarfile.SYMTYPE, name[:90], 1234567890
            tar.addfile(member)
    found = [entry for entry, _ in read(out.getvalue())]
    assert [entry.name.decode() for entry in found] == names
    assert [entry.link.decode() for entry in found] == [name[:90] for name in names]
    assert {(entry.kind, entry.mtime) for entry in found} == {(Kind.SYMLINK, 1234567890 * 10**9)}


def test_u49_gnu_has_no_prefix_and_pax_beats_both() -> None:
    gnu = patched(patched(FILE, 257, b"ustar  \0"), 345, b"not a prefix")
    assert one(gnu + END).name == b"f"
    assert one(patched(FILE, 345, b"prefix") + END).name == b"prefix/f"
    long_name = extended(b"L", b"gnu-long\0")
    assert one(long_name + FILE + END).name == b"gnu-long"
    assert one(extended(b"x", record(b"path", b"pax")) + long_name + FILE + END).name == b"pax"


def test_v7_directories_end_in_a_slash() -> None:
    assert one(patched(header(Entry(b"d/", Kind.FILE)), 156, b"\0") + END).kind is Kind.DIRECTORY


def test_u50_the_pax_size_rules_body_and_next_header() -> None:
    body = b"x" * 600
    data = extended(b"x", record(b"size", b"600")) + header(Entry(b"f", Kind.FILE, size=3)) + body + bytes(424)
    assert [(entry.name, content) for entry, content in read(data + FILE + END)] == [(b"f", body), (b"f", b"")]


def test_u50_a_pax_size_does_not_apply_to_a_long_name_header() -> None:
    data = extended(b"x", record(b"size", b"3")) + extended(b"L", b"n" * 200) + FILE + b"abc" + bytes(509)
    assert [(entry.name, content) for entry, content in read(data + END)] == [(b"n" * 200, b"abc")]


def test_u53_global_headers_apply_to_all_and_are_bounded() -> None:
    data = extended(b"g", record(b"mtime", b"7")) + FILE + extended(b"x", record(b"mtime", b"8")) + FILE + FILE + END
    assert [entry.mtime // 10**9 for entry, _ in read(data)] == [7, 8, 7]
    with pytest.raises(InvalidError, match="global"):
        read(b"".join(extended(b"g", record(b"key%d" % n, b"v" * (MAX_EXTENDED // 2))) for n in range(3)) + FILE)
    with pytest.raises(InvalidError, match="are allowed"):
        read(extended(b"x", b"x" * (MAX_EXTENDED + 1)))


@pytest.mark.parametrize("end", [b"", bytes(BLOCK), END, END + b"trailing data" * 100, bytes(10240)])
def test_u55_the_archive_may_end_in_many_ways(end: bytes) -> None:
    assert [entry.name for entry, _ in read(FILE + end)] == [b"f"]


def test_u55_the_stream_is_read_to_its_end() -> None:
    seen: list[int] = []

    def chunks() -> Iterator[bytes]:
        for piece in (FILE + END, b"after" * 1000, b"the end"):
            seen.append(len(piece))
            yield piece

    list(ArchiveReader(Source(chunks())))
    assert len(seen) == 3


@pytest.mark.parametrize("data", [b"", bytes(BLOCK), bytes(2 * BLOCK)])
def test_u61_nothing_is_an_empty_archive(data: bytes) -> None:
    assert read(data) == []


def test_u62_a_cut_inside_an_entry_is_an_error() -> None:
    data = pack((Entry(b"n" * 300, Kind.FILE, size=1000), b"x" * 1000))
    complete = len(data) - len(END)
    for length in range(1, complete):
        with pytest.raises(IntegrityError):
            read(data[:length])


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        (b"0", 0),
        (b"-1.5", -1_500_000_000),
        (b"1.123456789123", 1_123_456_789),
        (b"nan", 0),
        (b"inf", (2**34 - 2**31 - 1) * 10**9),
        (b"-inf", -(2**31) * 10**9),
        (b"1e300", (2**34 - 2**31 - 1) * 10**9),
        (b"253402300799", (2**34 - 2**31 - 1) * 10**9),
    ],
)
def test_u43_times_are_clamped_never_an_exception(text: bytes, nanoseconds: int) -> None:
    assert one(extended(b"x", record(b"mtime", text)) + FILE + END).mtime == nanoseconds


def test_u44_owners_up_to_the_kernel_s_last() -> None:
    last = 2**32 - 2
    assert one(extended(b"x", record(b"uid", b"%d" % last)) + FILE + END).uid == last
    assert one(patched(FILE, 108, b"\x80" + last.to_bytes(7, "big")) + END).uid == last
    for wrong in (patched(FILE, 108, b"\xff" * 8), patched(FILE, 108, b"\x80" + (last + 1).to_bytes(7, "big"))):
        with pytest.raises(InvalidError, match="owner"):
            read(wrong + END)
    with pytest.raises(InvalidError):
        read(extended(b"x", record(b"gid", b"-1")) + FILE + END)


@pytest.mark.parametrize("body", [b"5 a=\n", b"99 path=x\n", b"path=x\n", b"9 path=x", b"0 \n", b"11 path\0=xy\n\n"])
def test_malformed_pax_records_are_errors(body: bytes) -> None:
    if body == b"5 a=\n":
        assert one(extended(b"x", body) + FILE + END).name == b"f"
        return
    with pytest.raises(InvalidError):
        read(extended(b"x", body) + FILE + END)


def test_d17_another_reader_agrees() -> None:
    entry = Entry(b"d/" * 80 + b"\xff" * 90, Kind.FILE, 0o4755, 3_000_000, 5, 4, 10**18, xattrs=((b"user.k", b"v\n"),))
    with tarfile.open(fileobj=io.BytesIO(pack((entry, b"data"))), errors="surrogateescape") as tar:
        (member,) = tar.getmembers()
        assert member.name.encode(errors="surrogateescape") == entry.name
        assert (member.mode, member.uid, member.gid, member.mtime) == (0o4755, 3_000_000, 5, 10**9)
        assert member.pax_headers["SCHILY.xattr.user.k"] == "v\n"
        content = tar.extractfile(member)
        assert content is not None
        assert content.read() == b"data"


def test_d19_times_are_whole_seconds_rounded_down() -> None:
    assert one(pack((Entry(b"f", Kind.FILE, mtime=1_999_999_999), b""))).mtime == 1_000_000_000
    assert one(pack((Entry(b"f", Kind.FILE, mtime=-1), b""))).mtime == -1_000_000_000
