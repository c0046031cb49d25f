"""Sparse files in archives, in all four forms, and their maps when they lie."""

from __future__ import annotations

import subprocess
import zlib
from pathlib import Path

import pytest

from reconciler.errors import InvalidError, LimitError
from reconciler.store.archive import sparse
from reconciler.store.archive.limits import DEFAULTS, Limits
from reconciler.store.archive.reader import ArchiveReader, Entry, Kind, Source
from reconciler.testing import archives
from reconciler.testing.archives import END, Piece, file, old_sparse, pax, pax_sparse

FORMS = ["old", "0.0", "0.1", "1.0"]


def written(form: str, name: bytes, size: int, pieces: list[Piece]) -> bytes:
    return old_sparse(name, size, pieces) if form == "old" else pax_sparse(name, size, pieces, form)


def unpacked(data: bytes, place: Path, limits: Limits = DEFAULTS) -> list[tuple[Entry, bytes]]:
    """The entries, and what the file of each would hold."""
    found = []
    reader = ArchiveReader(Source(data[at : at + 700] for at in range(0, len(data), 700)), limits)
    for entry in reader:
        with place.open("w+b") as out:
            if entry.sparse is not None:
                checksum = sparse.write(out.fileno(), entry.sparse, reader.body())
                assert checksum == zlib.crc32(place.read_bytes())
            else:
                out.writelines(reader.body())
        found.append((entry, place.read_bytes()))
    return found


def whole(size: int, pieces: list[Piece]) -> bytes:
    content = bytearray(size)
    for at, piece in pieces:
        content[at : at + len(piece)] = piece
    return bytes(content)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("size", "pieces"),
    [
        (0, []),
        (10_000, []),
        (3, [(0, b"abc")]),
        (10_000, [(0, b"a" * 512), (4096, b"b" * 700), (10_000, b"")]),
        (10_000, [(0, b""), (9_999, b"z")]),
        (100_000, [(at * 1000, b"%04d" % at) for at in range(100)]),
    ],
)
def test_every_form_gives_the_same_file(form: str, size: int, pieces: list[Piece], tmp_path: Path) -> None:
    data = written(form, b"dir/f", size, pieces) + file(b"next", b"content") + END
    (entry, content), (following, after) = unpacked(data, tmp_path / "f")
    assert (entry.name, entry.kind, content) == (b"dir/f", Kind.FILE, whole(size, pieces))
    assert entry.size == sum(len(piece) for _, piece in pieces)
    assert (following.name, following.sparse, after) == (b"next", None, b"content")


@pytest.mark.parametrize("form", FORMS)
def test_what_is_not_stored_becomes_a_hole(form: str, tmp_path: Path) -> None:
    size = 1 << 40
    data = written(form, b"f", size, [(1 << 30, b"x" * 4096)]) + END
    reader = ArchiveReader(Source(iter([data])))
    (place := tmp_path / "f").touch()
    with place.open("r+b") as out:
        entry = next(iter(reader))
        assert entry.sparse is not None
        sparse.write(out.fileno(), entry.sparse, reader.body())
        out.seek(1 << 30)
        assert out.read(5) == b"xxxxx"
    assert place.stat().st_size == size
    assert place.stat().st_blocks * 512 <= 64 << 10


def test_the_checksum_of_zeros_is_that_of_zlib() -> None:
    for count in (0, 1, 7, 4096, 1_000_003):
        assert sparse.with_zeros(zlib.crc32(b"data"), count) == zlib.crc32(b"data" + bytes(count))


MAPS = {
    "overlapping": (100, [(0, 10), (9, 10)]),
    "out of order": (100, [(50, 10), (0, 10)]),
    "beyond the end": (100, [(90, 20)]),
    "more than is stored": (100, [(0, 30)]),
    "less than is stored": (100, [(0, 5)]),
    "negative": (100, [(-5, 20)]),
    "negative length": (100, [(20, -20), (0, 40)]),
    "overflowing": (100, [(1 << 63, 20)]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", MAPS)
def test_a_map_that_lies_is_refused(form: str, case: str, tmp_path: Path) -> None:
    size, pairs = MAPS[case]
    stored = b"x" * 20
    if form == "old":
        fields = b"".join(archives.number(value, 12) for pair in pairs for value in pair)
        data = archives.header(
            b"f", b"S", size=20, magic=archives.GNU, raw={386: fields, 483: archives.number(size, 12)}
        )
    elif form == "1.0":
        text = archives.body(b"".join(b"%d\n" % value for value in (len(pairs), *(v for pair in pairs for v in pair))))
        records = ((b"major", b"1"), (b"minor", b"0"), (b"name", b"f"), (b"realsize", b"%d" % size))
        data = pax(*((b"GNU.sparse." + key, value) for key, value in records))
        data += archives.header(size=20 + len(text)) + text
    else:
        numbers = [b"%d" % value for pair in pairs for value in pair]
        keys = [(b"offset", b"numbytes")[index % 2] for index in range(len(numbers))]
        records = tuple(zip(keys, numbers, strict=True)) if form == "0.0" else ((b"map", b",".join(numbers)),)
        data = pax(*((b"GNU.sparse." + key, value) for key, value in ((b"size", b"%d" % size), *records)))
        data += archives.header(size=20)
    data = file(b"before") + data + archives.body(stored) + END
    with pytest.raises(InvalidError, match=r"sparse map at byte (512|1024|1536)"):
        unpacked(data, tmp_path / "f")


@pytest.mark.parametrize(
    "records",
    [
        {b"size": b"10", b"map": b"0"},
        {b"size": b"10", b"map": b"0,x"},
        {b"size": b"10", b"map": b"0,1,"},
        {b"size": b"10", b"map": b"0, 0"},
        {b"size": b"10", b"map": b"0,0", b"numblocks": b"2"},
        {b"size": b"10", b"map": b"0,0", b"numblocks": b"-1"},
        {b"size": b"10"},
        {b"size": b"-1", b"map": b"0,0"},
        {b"size": b"1" * 40, b"map": b"0,0"},
        {b"map": b"0,0"},
        {b"name": b"f"},
        {b"size": b"10", b"offset": b"0"},
        {b"size": b"10", b"numbytes": b"0", b"offset": b"0"},
        {b"size": b"10", b"offset": b"0,0", b"numbytes": b"0"},
        {b"major": b"1", b"minor": b"1", b"realsize": b"10"},
        {b"major": b"2", b"minor": b"0", b"realsize": b"10"},
        {b"major": b"1", b"minor": b"0", b"realsize": b"10"},
    ],
    ids=lambda records: b" ".join(records).decode(),
)
def test_malformed_pax_maps_are_refused(records: dict[bytes, bytes], tmp_path: Path) -> None:
    data = pax(*((b"GNU.sparse." + key, value) for key, value in records.items())) + file(b"f") + END
    with pytest.raises(InvalidError, match="byte"):
        unpacked(data, tmp_path / "f")


@pytest.mark.parametrize(
    "text", [b"", b"x\n", b"-1\n", b"1\n0\n", b"1\n0\nx\n", b"99999\n", b"1" * 600, b"1_0\n" + b"0\n" * 20, b"\n\n\n"]
)
def test_malformed_maps_before_the_content_are_refused(text: bytes, tmp_path: Path) -> None:
    records = ((b"major", b"1"), (b"minor", b"0"), (b"realsize", b"10"))
    data = pax(*((b"GNU.sparse." + key, value) for key, value in records)) + file(b"f", archives.body(text)) + END
    with pytest.raises(InvalidError, match="malformed sparse map at byte 1024"):
        unpacked(data, tmp_path / "f")


def test_sparse_is_only_for_regular_files_and_never_for_all(tmp_path: Path) -> None:
    map_ = ((b"GNU.sparse.size", b"0"), (b"GNU.sparse.map", b"0,0"))
    for data in (
        pax(*map_) + archives.directory(b"d"),
        pax(*map_) + archives.symlink(b"s", b"t"),
        pax(*map_, flag=b"g") + file(b"f"),
        archives.header(b"f", b"S"),  # not in GNU's format
    ):
        with pytest.raises(InvalidError):
            unpacked(data + END, tmp_path / "f")


@pytest.mark.parametrize("form", FORMS)
def test_the_size_and_the_map_of_a_sparse_file_are_bounded(form: str, tmp_path: Path) -> None:
    limits = Limits(file_bytes=1000, header_bytes=1 << 11)
    assert len(unpacked(written(form, b"f", 1000, []) + END, tmp_path / "f", limits)) == 1
    with pytest.raises(LimitError, match="file_bytes"):
        unpacked(written(form, b"f", 1001, []) + END, tmp_path / "f", limits)
    many = [(at, b"x") for at in range(0, 1000, 2)]
    with pytest.raises(LimitError, match="header_bytes"):
        unpacked(written(form, b"f", 1000, many) + END, tmp_path / "f", limits)


@pytest.mark.parametrize("options", [["gnu"], ["posix", "0.0"], ["posix", "0.1"], ["posix", "1.0"]], ids=" ".join)
def test_gnu_tar_s_sparse_files_are_read(options: list[str], tmp_path: Path) -> None:
    name = "n" * 120
    pieces = [(0, b"start"), (1 << 20, b"x" * 5000), (3 << 20, b"y" * 100_000)] + [
        ((4 << 20) + (at << 16), b"%d" % at) for at in range(40)
    ]
    with (tmp_path / name).open("wb") as out:
        for at, piece in pieces:
            out.seek(at)
            out.write(piece)
        out.truncate(10 << 20)
    version = [f"--sparse-version={options[1]}"] if len(options) > 1 else []
    command = ["tar", "-C", tmp_path, "-c", "--sparse", f"--format={options[0]}", *version, name]
    data = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    assert len(data) < 2 << 20
    ((entry, content),) = unpacked(data, tmp_path / "out")
    assert (entry.name, content) == (name.encode(), (tmp_path / name).read_bytes())
    assert entry.sparse is not None
