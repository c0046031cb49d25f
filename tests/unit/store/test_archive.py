"""The tar reader and writer (cases U35, U43, U44, U47, U49, U50, U52, U53, U55, U61, U62, D17, D19)."""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.errors import IntegrityError, InvalidError, LimitError, ReconcilerError
from reconciler.store.archive.limits import DEFAULTS, Limits
from reconciler.store.archive.reader import ArchiveReader, Entry, Kind, Source
from reconciler.store.archive.writer import archive
from reconciler.testing import archives
from reconciler.testing.archives import BLOCK, END, extended, file, pax


def read(data: bytes, step: int = 700, limits: Limits = DEFAULTS) -> list[tuple[Entry, bytes]]:
    reader = ArchiveReader(Source(data[at : at + step] for at in range(0, len(data), step)), limits)
    return [(entry, b"".join(bytes(piece) for piece in reader.body())) for entry in reader]


def pack(*entries: tuple[Entry, bytes]) -> bytes:
    return b"".join(archive(entries))


def one(data: bytes) -> Entry:
    ((entry, _),) = read(data)
    return entry


FILE = file(b"f")
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


@pytest.mark.parametrize("at", range(BLOCK))
def test_u52_a_changed_header_byte_is_noticed(at: int) -> None:
    good = file(b"name", mode=0o4755, uid=1, gid=2, mtime=3)
    for change in (1, 0x10, 0x80, 0xFF):
        block = bytearray(good)
        block[at] ^= change
        # After the NUL of the checksum field nothing counts, and a leading zero may as well be a blank.
        if at in (154, 155) or (at == 148 and change == 0x10):
            continue
        with pytest.raises(InvalidError, match="at byte 0"):
            read(bytes(block) + END)


@pytest.mark.parametrize("size", [0, 3, 512, 513])
def test_u52_garbage_after_an_entry_is_an_error_with_its_offset(size: int) -> None:
    data = file(b"f", b"x" * size)
    for garbage in (b"garbage!" * 64, b"\xff" * BLOCK, archives.header(checksum=0)):
        with pytest.raises(InvalidError, match=f"byte {len(data)}"):
            read(data + garbage)


def test_u52_a_checksum_of_signed_characters_is_one() -> None:
    block = archives.header(b"\xff\xfe")
    signed = sum(byte - 256 if byte > 127 else byte for byte in block[:148] + block[156:]) + 256
    assert one(archives.checked(block, b"%06o\0 " % signed) + END).name == b"\xff\xfe"


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


@pytest.mark.parametrize("long", [b"n" * 101, b"d/" * 80 + b"n", b"n" * 3000, b"n" * 511, b"n" * 512])
def test_u49_a_gnu_long_name_and_long_link(long: bytes) -> None:
    link = archives.symlink(b"cut", b"cut too")
    for end in (b"", b"\0", b"\0garbage"):
        entry = one(extended(long + end, b"L") + extended(b"t" + long + end, b"K") + link + END)
        assert (entry.name, entry.link) == (long, b"t" + long)
        entry = one(extended(b"t" + long + end, b"K") + extended(long + end, b"L") + link + END)
        assert (entry.name, entry.link) == (long, b"t" + long)


def test_u49_a_pax_path_and_link_beat_all_else() -> None:
    records = pax((b"path", b"pax"), (b"linkpath", b"pax link"))
    gnu = extended(b"gnu", b"L") + extended(b"gnu link", b"K")
    link = archives.symlink(b"short", b"short link", prefix=b"prefix")  # type: ignore[arg-type]
    for order in (records + gnu, gnu + records):
        entry = one(order + link + END)
        assert (entry.name, entry.link) == (b"pax", b"pax link")
    assert one(gnu + link + END).name == b"gnu"


def test_u49_a_prefix_counts_only_in_ustar() -> None:
    assert one(file(b"f", prefix=b"prefix") + END).name == b"prefix/f"
    assert one(file(b"n" * 100, prefix=b"p" * 155) + END).name == b"p" * 155 + b"/" + b"n" * 100
    for magic in (archives.GNU, archives.V7, b"ustar\x0100", b"USTAR\x0000"):
        read(file(b"f", prefix=b"not a prefix", magic=magic) + END)
    assert one(file(b"f", prefix=b"not a prefix", magic=archives.GNU) + END).name == b"f"
    assert one(file(b"f", prefix=b"not a prefix", magic=archives.V7) + END).name == b"f"


def test_u49_an_empty_pax_value_means_the_header_s() -> None:
    empty = pax((b"path", b""), (b"size", b""), (b"uid", b""), (b"mtime", b""), (b"SCHILY.xattr.user.k", b""))
    general = pax((b"uid", b"7"), (b"mtime", b"9"), flag=b"g")
    entry, content = read(general + empty + file(b"f", b"abc", uid=5, mtime=6) + END)[0]
    assert (entry.name, content, entry.uid, entry.mtime) == (b"f", b"abc", 5, 6 * 10**9)
    assert entry.xattrs == ((b"user.k", b""),)


def test_the_attributes_that_other_tools_read_are_read_and_no_others() -> None:
    records = pax(
        (b"SCHILY.xattr.user.a=b", b"x\0y\nz=="),
        (b"LIBARCHIVE.xattr.user.c", b"eA=="),
        (b"SCHILY.acl.access", b"user::rwx"),
        (b"SCHILY.devmajor", b"9"),
        (b"MSWINDOWS.rawsd", b"x"),
    )
    entry = one(records + archives.header(b"c", b"3", major=1, minor=3) + END)
    # The name ends at the first "=", as in pax(1): the tools that write these have none in their names.
    assert entry.xattrs == ((b"user.a", b"b=x\0y\nz=="),)
    assert entry.device == (1, 3)


def test_v7_directories_end_in_a_slash() -> None:
    for flag in (b"\0", b"0"):
        assert one(archives.header(b"d/", flag, magic=archives.V7) + END).kind is Kind.DIRECTORY
    assert one(archives.header(b"f/", b"7") + END).kind is Kind.FILE


@pytest.mark.parametrize("flag", [b"D", b"M", b"N", b"V", b"X", b"A", b"I", b"8", b"\xff"])
def test_an_unknown_type_is_refused_by_name(flag: bytes) -> None:
    with pytest.raises(InvalidError, match="byte 0 has the unsupported type"):
        read(archives.header(b"f", flag) + END)


def test_u35_sockets_are_told_however_they_are_written() -> None:
    for data in (
        archives.header(b"s", b"s", size=9),
        file(b"s", mode=0o140755),
        pax((b"SCHILY.filetype", b"socket")) + file(b"s"),
    ):
        assert [entry.kind for entry, _ in read(data + FILE + END)] == [Kind.SOCKET, Kind.FILE]


def test_types_without_content_have_none_whatever_the_size_says() -> None:
    for flag in (b"1", b"2", b"3", b"4", b"5", b"6"):
        data = archives.header(b"x", flag, size=999, link=b"f", minor=1) + FILE + END
        assert [entry.size for entry, _ in read(data)] == [0, 0]


def test_u50_the_pax_size_rules_body_and_next_header() -> None:
    body = b"x" * 600
    for size, records in ((3, b"600"), (99999, b"600")):
        data = pax((b"size", records)) + archives.header(size=size) + archives.body(body)
        assert [content for _, content in read(data + FILE + END)] == [body, b""]
    data = pax((b"size", b"0")) + archives.header(size=600) + FILE + END
    assert [entry.size for entry, _ in read(data)] == [0, 0]


def test_u50_a_pax_size_does_not_apply_to_a_long_name_header() -> None:
    for flag in (b"L", b"K"):
        data = pax((b"size", b"3")) + extended(b"n" * 200, flag) + archives.header(size=3) + archives.body(b"abc")
        assert [content for _, content in read(data + FILE + END)] == [b"abc", b""]
    # Nor a global one, nor to another extended header.
    data = pax((b"size", b"3"), flag=b"g") + pax((b"path", b"n" * 200)) + archives.header() + archives.body(b"abc")
    assert read(data + END)[0][1] == b"abc"


@pytest.mark.parametrize("size", [-1, 1 << 63, 1 << 80, b"9", b"x" * 12, b"-1", b"0x1", b"1 1"])
def test_impossible_sizes_are_refused(size: archives.Number) -> None:
    with pytest.raises(InvalidError, match="byte 0"):
        read(archives.header(size=size) + END)
    with pytest.raises(InvalidError, match="byte 0"):
        read(archives.header(flag=b"x", size=size) + END)


@pytest.mark.parametrize("size", [b"-1", b"1.5", b" 1", b"0x1", b"9" * 500, b"9" * 30, b"1_0", "\u0663".encode()])
def test_impossible_pax_sizes_are_refused(size: bytes) -> None:
    with pytest.raises(InvalidError):
        read(pax((b"size", size)) + FILE + END)


def test_u53_global_headers_apply_to_all_and_are_bounded() -> None:
    data = pax((b"mtime", b"7"), flag=b"g") + FILE + pax((b"mtime", b"8")) + FILE + FILE + END
    assert [entry.mtime // 10**9 for entry, _ in read(data)] == [7, 8, 7]
    # As `git archive` has it: a comment, and perhaps no file.
    comment = pax((b"comment", b"0" * 40), flag=b"g")
    assert [entry.name for entry, _ in read(comment + FILE + END)] == [b"f"]
    assert read(comment + END) == []
    half = b"v" * (DEFAULTS.header_bytes // 2)
    with pytest.raises(LimitError, match="global"):
        read(b"".join(pax((b"SCHILY.xattr.user.%d" % n, half), flag=b"g") + FILE for n in range(3)))
    # What means nothing is not kept: it would be gone through again for every entry.
    read(b"".join(pax((b"key%d" % n, half), flag=b"g") + FILE for n in range(3)))


def test_extended_headers_of_one_entry_are_bounded_together() -> None:
    half = b"v" * (DEFAULTS.header_bytes // 2)
    for flag in (b"x", b"g", b"L", b"K"):
        with pytest.raises(LimitError, match="header_bytes"):
            read(extended(b"x" * (DEFAULTS.header_bytes + 1), flag))
        # The size alone is enough: nothing of what it announces need be there.
        with pytest.raises(LimitError, match="header_bytes"):
            read(archives.header(flag=flag, size=1 << 40))
    with pytest.raises(LimitError, match="header_bytes"):
        read(pax((b"a", half)) + extended(b"n" * len(half), b"L") + pax((b"b", half)) + FILE)
    assert len(read((pax((b"a", half)) + FILE) * 4 + END)) == 4


@pytest.mark.parametrize("end", [b"", bytes(BLOCK), END, END + b"trailing data" * 100, bytes(10240), END + FILE])
def test_u55_the_archive_may_end_in_many_ways(end: bytes) -> None:
    assert [entry.name for entry, _ in read(FILE + end)] == [b"f"]


def test_u55_one_zero_block_and_then_something_is_torn() -> None:
    with pytest.raises(InvalidError, match="byte 1024"):
        read(FILE + bytes(BLOCK) + FILE + END)


def test_u55_the_stream_is_read_to_its_end() -> None:
    seen: list[int] = []

    def chunks() -> Iterator[bytes]:
        for piece in (FILE + END, b"after" * 1000, b"the end"):
            seen.append(len(piece))
            yield piece

    list(ArchiveReader(Source(chunks())))
    assert len(seen) == 3


@pytest.mark.parametrize("data", [b"", bytes(BLOCK), bytes(2 * BLOCK), bytes(1 << 20)])
def test_u61_nothing_is_an_empty_archive(data: bytes) -> None:
    assert read(data) == []


def test_u62_a_cut_inside_an_entry_is_an_error() -> None:
    data = pack((Entry(b"n" * 300, Kind.FILE, size=1000), b"x" * 1000))
    complete = len(data) - len(END)
    unpadded = complete - (-1000 % BLOCK)
    for length in range(1, complete):
        if length != unpadded:
            with pytest.raises(IntegrityError):
                read(data[:length])
    assert len(read(data[:unpadded])) == 1  # umoci leaves the padding of the last body out


@pytest.mark.parametrize(
    "data",
    [
        pax((b"path", b"long" * 300)) + file(b"f", b"x" * 2000),
        extended(b"n" * 2000, b"L") + extended(b"l" * 2000, b"K") + archives.symlink(b"s", b"t"),
        archives.old_sparse(b"f", 100_000, [(at * 1000, b"x" * 100) for at in range(60)]),
        archives.pax_sparse(b"f", 100_000, [(at * 1000, b"x" * 100) for at in range(60)], "1.0"),
        archives.pax_sparse(b"f", 100_000, [(at * 1000, b"x" * 100) for at in range(60)], "0.0"),
    ],
    ids=["pax", "gnu", "old sparse", "sparse 1.0", "sparse 0.0"],
)
def test_u62_a_cut_at_any_block_is_an_error(data: bytes) -> None:
    assert len(read(data)) == 1
    for length in range(BLOCK, len(data), BLOCK):
        for extra in (0, 1, -1):
            with pytest.raises(IntegrityError):
                read(data[: length + extra])


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        (b"0", 0),
        (b"-1.5", -1_500_000_000),
        (b"1.123456789123", 1_123_456_789),
        (b"1700000000.000000001", 1_700_000_000_000_000_001),
        (b"-0.000000001", -1),
        (b"7.", 7 * 10**9),
        (b"+7", 7 * 10**9),
        (b"1e3", 1000 * 10**9),
        (b".5", 0),
        (b"nan", 0),
        (b"-NaN", 0),
        (b"inf", (2**34 - 2**31 - 1) * 10**9),
        (b"Infinity", (2**34 - 2**31 - 1) * 10**9),
        (b"-inf", -(2**31) * 10**9),
        (b"1e300", (2**34 - 2**31 - 1) * 10**9),
        (b"-1e300", -(2**31) * 10**9),
        (b"1e99999", (2**34 - 2**31 - 1) * 10**9),
        (b"253402300799", (2**34 - 2**31 - 1) * 10**9),
        (b"9" * 300, (2**34 - 2**31 - 1) * 10**9),
        (b"-" + b"9" * 300, -(2**31) * 10**9),
    ],
)
def test_u43_times_are_clamped_never_an_exception(text: bytes, nanoseconds: int) -> None:
    assert one(pax((b"mtime", text)) + FILE + END).mtime == nanoseconds


@pytest.mark.parametrize(("field", "seconds"), [(0, 0), (-1, -1), (-(1 << 90), -(2**31)), (1 << 90, 2**34 - 2**31 - 1)])
def test_u43_times_of_the_header_are_clamped_too(field: int, seconds: int) -> None:
    assert one(file(b"f", mtime=field) + END).mtime == seconds * 10**9


@pytest.mark.parametrize(
    "text", [b"soon", b"1_000", b" 1", b"0x10", b"1,5", b"--1", b"1e", b"nanny", "\u0663".encode()]
)
def test_u43_what_is_no_number_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidError, match="malformed mtime"):
        read(pax((b"mtime", text)) + FILE + END)


@pytest.mark.parametrize("which", ["uid", "gid"])
def test_u44_owners_up_to_the_kernel_s_last(which: str) -> None:
    last = 2**32 - 2
    for good in (0, 2**21 - 1, 2**21, 2**31 - 1, 2**31, last):
        assert getattr(one(file(b"f", **{which: good}) + END), which) == good
        assert getattr(one(file(b"f", **{which: archives.base256(good, 8)}) + END), which) == good
        assert getattr(one(pax((which.encode(), b"%d" % good)) + file(b"f", **{which: 1}) + END), which) == good
    for bad in (-1, -2, -(2**31), last + 1, last + 2, 2**55):
        with pytest.raises(InvalidError, match=f"impossible owner {bad}"):
            read(file(b"f", **{which: archives.base256(bad, 8)}) + END)
        with pytest.raises(InvalidError):
            read(pax((which.encode(), b"%d" % bad)) + FILE + END)


@pytest.mark.parametrize("field", [b"0000644", b"644", b"   644 ", b"644 \0\0\0\0", b" 000644\0"])
def test_numbers_may_be_padded_as_old_writers_did(field: bytes) -> None:
    assert one(file(b"f", mode=field) + END).mode == 0o644


@pytest.mark.parametrize("field", [b"00008\0", b"+644\0", b"-1\0", b"6 44\0", b"0o644\0", b"6_4\0", b"\x7f"])
def test_malformed_numbers_are_refused(field: bytes) -> None:
    for name in ("mode", "uid", "gid", "mtime"):
        with pytest.raises(InvalidError, match=f"malformed {name} field"):
            read(file(b"f", **{name: field}) + END)


@pytest.mark.parametrize(
    "content",
    [
        b"99 path=x\n",
        b"path=x\n",
        b"9 path=x",
        b"0 \n",
        b"11 path\0=xy\n\n",
        b"8 a\n",
        b"6 =b\n",
        b"-5 a=b\n",
        b"+6 a=b\n",
        b" 6 a=b\n",
        b"6 a=bc",
        b"\n",
        b"99999999999999999999 a=b\n",
    ],
)
def test_malformed_pax_records_are_errors(content: bytes) -> None:
    with pytest.raises(InvalidError, match="malformed pax record at byte 512"):
        read(extended(content, b"x") + FILE + END)


def test_a_record_without_a_value_is_one() -> None:
    assert one(extended(b"5 a=\n", b"x") + FILE + END).name == b"f"


def test_only_the_permission_bits_of_a_mode_count() -> None:
    for mode, bits in ((0o100644, 0o644), (0o7777777, 0o7777), (-1, 0o7777), (1 << 50, 0)):
        assert one(file(b"f", mode=mode) + END).mode == bits


def test_names_that_are_empty_or_have_a_nul_are_refused() -> None:
    for data in (
        file(b""),
        pax((b"path", b"a\0b")) + FILE,
        pax((b"linkpath", b"a\0b")) + archives.symlink(b"s", b"t"),
        pax((b"SCHILY.xattr.user.a\0b", b"v")) + FILE,
    ):
        with pytest.raises(InvalidError, match="empty name or one with a NUL"):
            read(data + END)


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
