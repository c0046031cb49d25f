"""What only raw headers can say, and what it comes to on disk (cases U34 to U62)."""

from __future__ import annotations

import gzip
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from reconciler import log
from reconciler.errors import HostError, InvalidError, LimitError, ReconcilerError
from reconciler.linux import mounts
from reconciler.oci.digest import Digest
from reconciler.store.archive.limits import DEFAULTS, Limits
from reconciler.store.database import WritableDatabase
from reconciler.store.layers.extract import extract
from reconciler.store.layers.lower import LowerLayers
from reconciler.store.layers.table import Layers
from reconciler.store.schema import STORE
from reconciler.testing import archives
from reconciler.testing.archives import END, pax

pytestmark = pytest.mark.root

Unpack = Callable[..., Path]
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)


def xattr(key: bytes, value: bytes) -> tuple[bytes, bytes]:
    return b"SCHILY.xattr." + key, value


@pytest.fixture
def unpack(tmp_path: Path) -> Unpack:
    """Unpacks blocks into a new layer over those given (top first), and gives its directory."""
    serial = iter(range(1000))

    def run(*blocks: bytes, over: tuple[Path, ...] = (), limits: Limits = DEFAULTS) -> Path:
        target = tmp_path / f"layer-{next(serial)}"
        target.mkdir(mode=0o700)
        extract(iter([*blocks, END]), target, lambda: LowerLayers(over), limits=limits)
        return target

    return run


@pytest.fixture
def layers(tmp_path: Path) -> Iterator[Layers]:
    database = WritableDatabase(tmp_path, (STORE,))
    yield Layers(tmp_path, database)
    database.close()


@pytest.fixture
def noted() -> Iterator[list[str]]:
    """The events that are logged meanwhile, from info on."""
    events: list[str] = []
    before = log.threshold()
    log.forward(lambda level, event, **fields: events.append(event), threshold=20)
    yield events
    log.configure()
    assert log.threshold() == before


@pytest.mark.parametrize(
    "device", [(-1, 3), (1, -1), (4096, 0), (0, 1 << 20), (1 << 32, 0), (0, 1 << 32), (1 << 54, 7)]
)
@pytest.mark.parametrize("flag", [b"3", b"4"])
def test_u34_device_numbers_that_are_none_are_refused(unpack: Unpack, flag: bytes, device: tuple[int, int]) -> None:
    with pytest.raises(InvalidError, match="device number"):
        unpack(archives.header(b"d", flag, major=device[0], minor=device[1]))


def test_u34_the_largest_device_numbers_are_made(unpack: Unpack) -> None:
    layer = unpack(archives.header(b"d", b"4", major=4095, minor=(1 << 20) - 1))
    assert (layer / "d").lstat().st_rdev == os.makedev(4095, (1 << 20) - 1)
    # A file has no device, whatever the fields say.
    assert (unpack(archives.file(b"f", b"x", major=-1, minor=1 << 40)) / "f").read_bytes() == b"x"


def test_u35_fifos_are_made_and_sockets_left_out_with_a_note(unpack: Unpack, noted: list[str]) -> None:
    base = unpack(archives.file(b"gone"))
    layer = unpack(
        archives.header(b"fifo", b"6", mode=0o640, uid=7),
        archives.header(b"s1", b"s"),
        archives.file(b"s2", mode=0o140777),
        pax((b"SCHILY.filetype", b"socket")) + archives.file(b"s3"),
        archives.header(b".wh.gone", b"s"),  # the name decides (U29)
        archives.file(b"after"),
        over=(base,),
    )
    assert sorted(path.name for path in layer.iterdir()) == ["after", "fifo", "gone"]
    status = (layer / "fifo").lstat()
    assert (stat.filemode(status.st_mode), status.st_uid) == ("prw-r-----", 7)
    assert noted == ["socket-skipped"] * 3


STEERING = [
    b"trusted.overlay.opaque",
    b"trusted.overlay.redirect",
    b"trusted.overlay.metacopy",
    b"trusted.overlay.origin",
    b"trusted.overlay.impure",
    b"trusted.overlay.borrowed",
    b"trusted.overlay.",
    b"trusted.overlay.overlay.opaque",  # what overlayfs itself makes of one inside another
    b"trusted.overlay.overlay.whiteout",
    b"user.overlay.opaque",
    b"user.overlay.redirect",
    b"user.overlay.overlay.opaque",
]


@pytest.mark.parametrize("key", STEERING)
def test_u38_nothing_in_an_archive_steers_overlayfs(
    unpack: Unpack, noted: list[str], tmp_path: Path, key: bytes
) -> None:
    base = unpack(archives.file(b"d/below", b"1"), archives.file(b"f", b"2"))
    steer = pax(xattr(key, b"y"), xattr(b"user.mine", b"kept"))
    layer = unpack(
        steer + archives.directory(b"."),
        steer + archives.directory(b"d"),
        steer + archives.file(b"f", b"3"),
        steer + archives.directory(b"new"),
        steer + archives.file(b"new/implied/f"),
        over=(base,),
    )
    for name in (".", "d", "f", "new"):
        assert os.listxattr(layer / name) == ["user.mine"]
    assert noted == ["extended-attribute-dropped"] * 5
    (target := tmp_path / "mounted").mkdir()
    mounts.mount(mounts.Overlay((layer, base), None, None, target))
    try:
        assert ((target / "d/below").read_bytes(), (target / "f").read_bytes()) == (b"1", b"3")
    finally:
        mounts.unmount(target)


def test_u37_u41_values_come_byte_for_byte_and_after_the_owner(unpack: Unpack) -> None:
    value = bytes(range(256)) * 4
    records = (xattr(b"user.bytes", value), xattr(b"user.empty", b""), xattr(b"user.n\xff\nn", b"\n"))
    layer = unpack(
        pax(xattr(b"security.capability", CAPABILITY), *records) + archives.file(b"f", mode=0o4755, uid=1, gid=2)
    )
    found = os.fsencode(layer / "f")
    assert os.getxattr(found, b"security.capability") == CAPABILITY
    assert os.getxattr(found, b"user.bytes") == value
    assert os.getxattr(found, b"user.empty") == b""
    assert os.getxattr(found, b"user.n\xff\nn") == b"\n"
    assert stat.S_IMODE(os.stat(found).st_mode) == 0o4755  # noqa: PTH116


def test_u40_a_capability_that_cannot_be_set_is_an_error_and_the_rest_a_note(tmp_path: Path, noted: list[str]) -> None:
    """On a filesystem without extended attributes."""
    (place := tmp_path / "ramfs").mkdir()
    os.system(f"mount -t ramfs ramfs {place}")
    try:
        (layer := place / "layer").mkdir()
        extract(iter([pax(xattr(b"user.k", b"v")) + archives.file(b"f"), END]), layer, lambda: LowerLayers(()))
        assert noted == ["extended-attribute-unsupported"]
        (layer := place / "other").mkdir()
        program = pax(xattr(b"security.capability", CAPABILITY)) + archives.file(b"ping")
        with pytest.raises(HostError, match="ping"):
            extract(iter([program, END]), layer, lambda: LowerLayers(()))
    finally:
        mounts.unmount(place)


def test_more_attributes_than_a_file_can_have_are_no_full_disk(tmp_path: Path) -> None:
    """ext4 keeps them in one block."""
    (place := tmp_path / "ext4").mkdir()
    with (tmp_path / "image").open("wb") as image:
        image.truncate(8 << 20)
    os.system(f"mkfs.ext4 -q {tmp_path}/image && mount -o loop {tmp_path}/image {place}")
    try:
        for number, size in enumerate((5000, 70_000)):
            (layer := place / f"{number}").mkdir()
            large = pax(xattr(b"user.large", b"x" * size)) + archives.file(b"f")
            with pytest.raises(InvalidError, match="f has more extended attributes"):
                extract(iter([large, END]), layer, lambda: LowerLayers(()))
    finally:
        mounts.unmount(place)


def test_nothing_inherits_an_access_list_that_the_archive_did_not_give_it(unpack: Unpack) -> None:
    everyone = (1, 7, 0xFFFFFFFF), (2, 7, 1000), (4, 7, 0xFFFFFFFF), (16, 7, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF)
    default = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in everyone)
    layer = unpack(
        pax(xattr(b"system.posix_acl_default", default)) + archives.directory(b"d", 0o2775, gid=5),
        archives.file(b"d/f", b"secret", mode=0o640),
        archives.directory(b"d/s", 0o700),
        archives.file(b"d/implied/f", mode=0o600),
        archives.header(b"d/p", b"6", mode=0o600),
    )
    assert os.getxattr(layer / "d", "system.posix_acl_default") == default
    for name, mode in (("f", 0o640), ("s", 0o700), ("implied", 0o755), ("implied/f", 0o600), ("p", 0o600)):
        status = (layer / "d" / name).stat()
        assert (stat.S_IMODE(status.st_mode), status.st_gid, os.listxattr(layer / "d" / name)) == (mode, 0, [])


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        (b"0", 0),
        (b"-1", -(10**9)),
        (b"-1.5", -1_500_000_000),
        (b"-2147483648", -(2**31) * 10**9),
        (b"-99999999999", -(2**31) * 10**9),
        (b"253402300799", (2**34 - 2**31 - 1) * 10**9),  # the end of the year 9999
        (b"nan", 0),
        (b"inf", (2**34 - 2**31 - 1) * 10**9),
        (b"1e300", (2**34 - 2**31 - 1) * 10**9),
        (b"1700000000.123456789", 1_700_000_000_123_456_789),
    ],
)
def test_u43_every_time_ends_up_on_disk_as_the_kernel_can_hold_it(
    unpack: Unpack, text: bytes, nanoseconds: int
) -> None:
    time = pax((b"mtime", text))
    layer = unpack(
        time + archives.directory(b"d"),
        time + archives.file(b"d/f", b"x"),
        time + archives.symlink(b"d/l", b"f"),
        time + archives.header(b"d/p", b"6"),
    )
    for name in ("d", "d/f", "d/l", "d/p"):
        assert (layer / name).lstat().st_mtime_ns == nanoseconds


def test_u44_the_last_owner_there_is(unpack: Unpack) -> None:
    last = 2**32 - 2
    layer = unpack(
        archives.file(b"f", uid=last, gid=last),
        archives.directory(b"d", uid=2**31, gid=last),
        archives.symlink(b"l", b"f", uid=last, gid=2**31 - 1),
    )
    owners = [((layer / name).lstat().st_uid, (layer / name).lstat().st_gid) for name in ("f", "d", "l")]
    assert owners == [(last, last), (2**31, last), (last, 2**31 - 1)]


@pytest.mark.parametrize("form", ["old", "0.0", "0.1", "1.0"])
def test_sparse_files_have_holes_on_disk(unpack: Unpack, form: str) -> None:
    size, pieces = 1 << 36, [(1 << 30, b"x" * 4096), (1 << 35, b"tail")]
    made = archives.old_sparse if form == "old" else lambda *given: archives.pax_sparse(*given, form)
    layer = unpack(archives.file(b"f", b"replaced" * 1000), made(b"f", size, pieces), archives.hardlink(b"h", b"f"))
    status = (layer / "f").stat()
    assert (status.st_size, status.st_nlink) == (size, 2)
    assert status.st_blocks * 512 < 64 << 10
    with (layer / "h").open("rb") as file:
        assert os.pread(file.fileno(), 10, (1 << 35) - 3) == b"\0\0\0tail\0\0\0"


def test_links_do_not_lead_deeper_than_the_limit(unpack: Unpack) -> None:
    deep = b"/".join([b"d"] * 30)
    steps = [archives.symlink(b"a", deep), archives.symlink(b"a/a", deep), archives.symlink(b"a/a/a", deep)]
    unpack(*steps, archives.file(b"a/a/a/f"))
    with pytest.raises(LimitError, match="path_depth"):
        unpack(*steps, archives.file(b"a/a/a/f"), limits=Limits(path_depth=80))


BASE = b"".join((archives.directory(b"d"), archives.file(b"d/a", b"1" * 700), archives.file(b"b", b"2"), END))


def deflated(data: bytes, parts: int) -> bytes:
    """gzip with a flush after every so many bytes: a cut can then be at any place of the archive."""
    engine = zlib.compressobj(wbits=31)
    pieces = [data[at : at + parts] for at in range(0, len(data), parts)]
    return b"".join(engine.compress(piece) + engine.flush(zlib.Z_FULL_FLUSH) for piece in pieces) + engine.flush()


def blob(kind: str, length: int) -> bytes:
    """The archive cut after ``length`` bytes, in one of the ways that a blob can be cut."""
    cut = BASE[:length]
    match kind:
        case "plain":
            return cut
        case "gzip, cut":
            whole = deflated(BASE, 512)
            return whole[: len(deflated(cut, 512)) - 10]
        case "gzip members":
            return b"".join(gzip.compress(cut[at : at + 512]) for at in range(0, length, 512))
        case "zstd frames":
            return b"".join(zstandard.compress(cut[at : at + 512]) for at in range(0, length, 512))
        case _:
            return zstandard.compress(BASE)[: max(4, length // 32)]


@pytest.mark.parametrize("kind", ["plain", "gzip, cut", "gzip members", "zstd frames", "zstd, cut"])
def test_u62_a_stream_cut_at_any_block_leaves_nothing(layers: Layers, tmp_path: Path, kind: str) -> None:
    diff_id = Digest.of(BASE)
    source = tmp_path / "blob"
    for length in range(0, len(BASE), 512):
        source.write_bytes(blob(kind, length))
        with source.open("rb") as file, layers.unpacking([diff_id]) as job, pytest.raises(ReconcilerError):
            job.unpack(0, file)
        assert not layers.has(diff_id)
        assert list(layers.directory.iterdir()) == []
    source.write_bytes(blob(kind if "cut" not in kind else "gzip members", len(BASE)))
    with source.open("rb") as file, layers.unpacking([diff_id]) as job:
        job.unpack(0, file)
        job.publish()
    assert layers.has(diff_id)


@pytest.mark.parametrize("end", [b"", bytes(512), bytes(1024), bytes(10240), bytes(1024) + b"after the end" * 1000])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress], ids=["plain", "gzip", "zstd"])
def test_u55_the_diff_id_is_that_of_the_whole_stream_however_it_ends(
    layers: Layers, tmp_path: Path, end: bytes, pack: Callable[[bytes], bytes]
) -> None:
    data = archives.file(b"f", b"content") + end
    (tmp_path / "blob").write_bytes(pack(data))
    with (tmp_path / "blob").open("rb") as file, layers.unpacking([Digest.of(data)]) as job:
        job.unpack(0, file)
        (chain,) = job.publish()
    assert (layers.path(chain) / "f").read_bytes() == b"content"


@pytest.mark.parametrize("data", [b"", bytes(1024), bytes(10240)], ids=len)
def test_u61_nothing_is_an_empty_layer(layers: Layers, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "blob").write_bytes(data)
    with (tmp_path / "blob").open("rb") as file, layers.unpacking([Digest.of(data)]) as job:
        job.unpack(0, file)
        (chain,) = job.publish()
    assert list(layers.path(chain).iterdir()) == []
    assert stat.S_IMODE(layers.path(chain).stat().st_mode) == 0o755


def test_limits_reach_the_process_that_unpacks(layers: Layers, tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(gzip.compress(BASE))
    for limits, name in (
        (Limits(layer_entries=2), "layer_entries"),
        (Limits(layer_bytes=512), "layer_bytes"),
        (Limits(file_bytes=600), "file_bytes"),
        (Limits(compression_ratio=1, compression_ratio_from=512), "compression_ratio"),
    ):
        layers.limits = limits
        with (tmp_path / "blob").open("rb") as file, layers.unpacking([Digest.of(BASE)]) as job:
            with pytest.raises(LimitError, match=f"{name} ") as caught:
                job.unpack(0, file)
            assert "host.yaml" in caught.value.hint
        assert list(layers.directory.iterdir()) == []
