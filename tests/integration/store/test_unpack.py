"""Unpacking hostile and ordinary archives (cases U01 to U62)."""

# Names here are bytes, which pathlib does not take.
# ruff: noqa: PTH208

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.errors import HostError, InvalidError
from reconciler.linux import mounts
from reconciler.linux.tree import remove_tree
from reconciler.store.archive.reader import Entry, Kind
from reconciler.store.archive.writer import archive
from reconciler.store.layers.extract import extract
from reconciler.store.layers.lower import LowerLayers

pytestmark = pytest.mark.root

Unpack = Callable[..., Path]


def file(name: bytes, content: bytes = b"", mode: int = 0o644, **fields: object) -> tuple[Entry, bytes]:
    return Entry(name, Kind.FILE, mode, size=len(content), **fields), content  # type: ignore[arg-type]


def directory(name: bytes, mode: int = 0o755, **fields: object) -> tuple[Entry, bytes]:
    return Entry(name, Kind.DIRECTORY, mode, **fields), b""  # type: ignore[arg-type]


def symlink(name: bytes, target: bytes) -> tuple[Entry, bytes]:
    return Entry(name, Kind.SYMLINK, 0o777, link=target), b""


def hardlink(name: bytes, target: bytes, mode: int = 0o644) -> tuple[Entry, bytes]:
    return Entry(name, Kind.HARDLINK, mode, link=target), b""


@pytest.fixture
def unpack(tmp_path: Path) -> Unpack:
    """Unpacks entries into a new layer over those given (top first), and gives its directory."""
    serial = iter(range(1000))

    def run(*entries: tuple[Entry, bytes], over: tuple[Path, ...] = ()) -> Path:
        target = tmp_path / f"layer-{next(serial)}"
        target.mkdir(mode=0o700)
        extract(archive(entries), target, lambda: LowerLayers(over))
        return target

    return run


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A directory outside of any layer, with a secret in it."""
    outside = tmp_path / "host"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    return outside


def tree(path: Path) -> dict[str, str]:
    """What is in a layer: path to type, whiteouts told apart."""
    found = {}
    for entry in sorted(path.rglob("*")):
        status = entry.lstat()
        kind = stat.filemode(status.st_mode)[0]
        if kind == "c" and status.st_rdev == 0:
            kind = "whiteout"
        if kind == "d" and is_opaque(entry):
            kind = "opaque"
        found[str(entry.relative_to(path))] = kind
    return found


def is_opaque(path: Path) -> bool:
    return "trusted.overlay.opaque" in os.listxattr(path)


def shown(tmp_path: Path, *layers: Path) -> dict[str, str]:
    """What overlayfs shows of layers, top first."""
    target = tmp_path / "mounted"
    target.mkdir(exist_ok=True)
    mounts.mount(mounts.Overlay((*layers, empty_layer(tmp_path)), None, None, target))
    try:
        return tree(target)
    finally:
        mounts.unmount(target)


def empty_layer(tmp_path: Path) -> Path:
    layer = tmp_path / "empty"
    layer.mkdir(exist_ok=True)
    return layer


@pytest.mark.parametrize("name", [b"../evil", b"a/../../evil", b"/../evil", b".."])
def test_u01_a_path_that_leads_out_is_refused(unpack: Unpack, tmp_path: Path, name: bytes) -> None:
    with pytest.raises(InvalidError, match="leads out"):
        unpack(file(name))
    assert not (tmp_path / "evil").exists()


def test_u02_a_leading_slash_means_the_layer(unpack: Unpack) -> None:
    assert tree(unpack(file(b"/etc/passwd"), file(b"//./a/../b"))) == {"b": "-", "etc": "d", "etc/passwd": "-"}


def test_u04_a_link_to_the_root_means_the_layer_s(unpack: Unpack, host: Path) -> None:
    layer = unpack(symlink(b"a", b"/"), file(b"a/etc/x", b"content"))
    assert (layer / "etc/x").read_bytes() == b"content"
    absolute = os.fsencode(host)
    layer = unpack(symlink(b"a", absolute), file(b"a/secret", b"changed"))
    assert (host / "secret").read_text() == "secret"
    assert (layer / os.fsdecode(absolute[1:]) / "secret").read_bytes() == b"changed"


def test_u05_parents_stop_at_the_root(unpack: Unpack) -> None:
    layer = unpack(directory(b"d"), symlink(b"d/a", b"../../../.."), file(b"d/a/x"))
    assert tree(layer) == {"d": "d", "d/a": "l", "x": "-"}


def test_u06_a_loop_of_links_is_an_error(unpack: Unpack) -> None:
    with pytest.raises(InvalidError, match="too many symbolic links"):
        unpack(symlink(b"a", b"b"), symlink(b"b", b"a"), file(b"a/x"))


def test_u07_what_was_a_directory_may_have_become_a_link(unpack: Unpack, host: Path) -> None:
    outside = os.fsencode(host)
    layer = unpack(
        directory(b"foo"),
        file(b"foo/secret", b"1"),
        symlink(b"foo", outside),
        file(b"foo/secret", b"2"),
        directory(b"foo"),
        file(b"foo/secret", b"3"),
    )
    assert (host / "secret").read_text() == "secret"
    assert (layer / "foo/secret").read_bytes() == b"3"
    assert not (layer / "foo").is_symlink()


def test_u08_the_root_s_own_entry(unpack: Unpack) -> None:
    layer = unpack(directory(b"./", 0o1777, uid=5, gid=6, mtime=7 * 10**9, xattrs=((b"user.k", b"v"),)), file(b"x"))
    status = layer.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime) == (0o1777, 5, 6, 7)
    assert os.getxattr(layer, "user.k") == b"v"
    with pytest.raises(InvalidError, match="root directory"):
        unpack(file(b"."))


def test_u10_without_one_the_root_is_the_parent_layer_s(unpack: Unpack) -> None:
    base = unpack(file(b"x"))
    assert (stat.S_IMODE(base.stat().st_mode), base.stat().st_uid) == (0o755, 0)
    lower = unpack(directory(b".", 0o750, uid=9))
    status = unpack(file(b"y"), over=(lower, base)).stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o750, 9)


def test_u11_implied_parents_are_as_below(unpack: Unpack) -> None:
    attributes = {"uid": 3, "gid": 4, "mtime": 5 * 10**9, "xattrs": ((b"user.k", b"v"),)}
    base = unpack(directory(b"tmp", 0o1777, **attributes), directory(b"gone"), file(b"gone/x"))
    middle = unpack(file(b".wh.gone"), over=(base,))
    layer = unpack(file(b"tmp/x"), file(b"gone/y"), file(b"new/z"), over=(middle, base))
    status = (layer / "tmp").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime) == (0o1777, 3, 4, 5)
    assert os.getxattr(layer / "tmp", "user.k") == b"v"
    assert [stat.S_IMODE((layer / name).stat().st_mode) for name in ("gone", "new")] == [0o755, 0o755]


def test_u12_a_parent_that_is_a_link_below_is_followed(unpack: Unpack) -> None:
    base = unpack(directory(b"usr"), directory(b"usr/bin", 0o711), symlink(b"bin", b"usr/bin"))
    layer = unpack(file(b"bin/tool"), over=(base,))
    assert tree(layer) == {"usr": "d", "usr/bin": "d", "usr/bin/tool": "-"}
    assert stat.S_IMODE((layer / "usr/bin").stat().st_mode) == 0o711


def test_u13_types_replace_each_other(unpack: Unpack, tmp_path: Path) -> None:
    deep = b"/".join([b"d"] * 500)
    layer = unpack(
        file(b"d/x"), file(deep), symlink(b"d/l", b"/"), file(b"d"), file(b"e"), directory(b"e"), file(b"e/x")
    )
    assert tree(layer) == {"d": "-", "e": "opaque", "e/x": "-"}
    merged = unpack(directory(b"d", 0o700, xattrs=((b"user.a", b"1"),)), file(b"d/x"), directory(b"d", 0o750))
    assert (tree(merged), stat.S_IMODE((merged / "d").stat().st_mode)) == ({"d": "d", "d/x": "-"}, 0o750)
    assert os.listxattr(merged / "d") == []


def test_u13_a_directory_that_was_a_file_shows_nothing_from_below(unpack: Unpack, tmp_path: Path) -> None:
    base = unpack(file(b"d/old"))
    layer = unpack(file(b"d"), directory(b"d"), file(b"d/new"), over=(base,))
    assert shown(tmp_path, layer, base) == {"d": "d", "d/new": "-"}


def test_u14_the_last_entry_wins(unpack: Unpack) -> None:
    fifo = (Entry(b"x", Kind.FIFO), b"")
    layer = unpack(file(b"x", b"1"), symlink(b"x", b"y"), fifo, directory(b"x"), file(b"x", b"2"), file(b"x", b"3"))
    assert (tree(layer), (layer / "x").read_bytes()) == ({"x": "-"}, b"3")


@pytest.mark.parametrize("target", [b"/secret", b"../host/secret", b"../../host/secret"])
def test_u16_a_hard_link_never_reaches_the_host(unpack: Unpack, host: Path, target: bytes) -> None:
    target = os.fsencode(host) + target if target == b"/secret" else target
    with pytest.raises(InvalidError):
        unpack(hardlink(b"h", target))
    with pytest.raises(InvalidError):
        unpack(symlink(b"s", os.fsencode(host)), hardlink(b"h", b"s/secret"))
    assert (host / "secret").stat().st_nlink == 1


def test_u17_a_hard_link_to_a_link_is_the_link(unpack: Unpack, host: Path) -> None:
    before = (host / "secret").stat()
    layer = unpack(symlink(b"s", os.fsencode(host / "secret")), hardlink(b"h", b"s", 0o777))
    assert (layer / "h").is_symlink()
    assert (layer / "h").lstat().st_ino == (layer / "s").lstat().st_ino
    assert (host / "secret").stat() == before


def test_u18_hard_links_share_their_content(unpack: Unpack) -> None:
    layer = unpack(file(b"a/x", b"content"), file(b"b/y"), hardlink(b"b/y", b"/a/x"), hardlink(b"z", b"./b/y"))
    assert (layer / "z").read_bytes() == b"content"
    assert (layer / "a/x").stat().st_nlink == 3


def test_u19_a_hard_link_needs_its_target_first(unpack: Unpack) -> None:
    base = unpack(file(b"target"))
    with pytest.raises(InvalidError, match="h is a hard link to /target"):
        unpack(hardlink(b"h", b"target"), file(b"target"), over=(base,))


def test_u20_no_hard_link_to_a_directory_or_itself(unpack: Unpack) -> None:
    for entries in (
        (directory(b"d"), hardlink(b"h", b"d")),
        (file(b"f"), hardlink(b"f", b"f")),
        (file(b"f"), hardlink(b"./f", b"/f")),
        (file(b"d/f"), hardlink(b"d", b"d/f")),
        (directory(b"d"), hardlink(b"h", b"/")),
        (hardlink(b"h", b""),),
    ):
        with pytest.raises(InvalidError):
            unpack(*entries)


def test_u21_no_hard_link_to_a_whiteout(unpack: Unpack) -> None:
    base = unpack(file(b"x"))
    with pytest.raises(InvalidError):
        unpack(file(b".wh.x"), hardlink(b"h", b"x"), over=(base,))


@pytest.mark.parametrize(
    "name", [b".wh.", b".wh..", b".wh...", b"a/.wh...", b".wh..wh.other", b".wh.a/b", b"a/.wh.b/.wh.c"]
)
def test_u22_whiteouts_of_nothing_sensible_are_refused(unpack: Unpack, name: bytes) -> None:
    with pytest.raises(InvalidError):
        unpack(directory(b"a"), file(name))


def test_u23_opaque_keeps_what_this_layer_has(unpack: Unpack, tmp_path: Path) -> None:
    base = unpack(file(b"d/old"), file(b"d/e/old"), file(b"keep"))
    opaque = file(b"d/.wh..wh..opq")
    child = file(b"d/e/new")
    for order in ((child, opaque), (opaque, child)):
        layer = unpack(*order, over=(base,))
        assert shown(tmp_path, layer, base) == {"d": "d", "d/e": "d", "d/e/new": "-", "keep": "-"}


def test_u24_an_opaque_root_hides_all_below(unpack: Unpack, tmp_path: Path) -> None:
    base = unpack(file(b"a"), file(b"d/old"), file(b"e/old"))
    layer = unpack(file(b"d/new"), file(b".wh..wh..opq"), over=(base,))
    assert shown(tmp_path, layer, base) == {"d": "d", "d/new": "-"}


def test_u25_no_ghosts_in_an_opaque_directory(unpack: Unpack, tmp_path: Path) -> None:
    base = unpack(file(b"d/x"), file(b"d/e/y"))
    marks = [file(b"d/.wh.x"), file(b"d/e/.wh.y"), file(b"d/.wh..wh..opq")]
    for order in (marks, marks[::-1]):
        layer = unpack(*order, over=(base,))
        assert "whiteout" not in tree(layer).values()
        assert "d/x" not in shown(tmp_path, layer, base)
    # Nor where the layers below have no such directory or name.
    assert tree(unpack(directory(b"n"), file(b"n/.wh.x"), file(b"d/.wh.no"), over=(base,))) == {"d": "d", "n": "d"}


def test_u26_a_whiteout_below_a_whiteout_has_no_effect(unpack: Unpack) -> None:
    base = unpack(file(b"foo/bar"))
    assert tree(unpack(file(b".wh.foo"), file(b"foo/.wh.bar"), over=(base,))) == {"foo": "whiteout"}


def test_u25_u26_no_ghosts_of_directories_that_only_whiteouts_needed(unpack: Unpack, tmp_path: Path) -> None:
    base = unpack(directory(b"d", 0o711), directory(b"d/e", 0o700, uid=5), file(b"d/e/y"), file(b"d/z"))
    inner, opaque, outer = file(b"d/e/.wh.y"), file(b"d/.wh..wh..opq"), file(b".wh.d")
    for order in ((inner, opaque), (opaque, inner)):
        assert shown(tmp_path, unpack(*order, over=(base,)), base) == {"d": "d"}
    for order in ((inner, outer), (outer, inner), (inner, file(b".wh..wh..opq"))):
        assert shown(tmp_path, unpack(*order, over=(base,)), base) == {}
    # What comes afterwards is new: it has nothing of what was hidden.
    layer = unpack(inner, outer, file(b"d/e/new"), over=(base,))
    assert shown(tmp_path, layer, base) == {"d": "d", "d/e": "d", "d/e/new": "-"}
    assert [(stat.S_IMODE((layer / name).stat().st_mode), (layer / name).stat().st_uid) for name in ("d", "d/e")] == [
        (0o755, 0)
    ] * 2


def test_u11_a_directory_that_whiteouts_needed_is_as_below_and_then_the_layer_s_own(
    unpack: Unpack, tmp_path: Path
) -> None:
    base = unpack(directory(b"d", 0o711, uid=5, mtime=7 * 10**9), file(b"d/x"), file(b"d/y"))
    for entries, names in (
        ((file(b"d/.wh.x"),), {"d", "d/y"}),
        ((file(b"d/.wh.x"), file(b"d/new")), {"d", "d/y", "d/new"}),
        ((file(b"d/.wh.x"), file(b"d/new"), file(b"d/.wh..wh..opq")), {"d", "d/new"}),
        ((file(b"d/.wh.x"), directory(b"d", 0o711, uid=5, mtime=7 * 10**9), file(b".wh.d")), {"d"}),
    ):
        layer = unpack(*entries, over=(base,))
        assert shown(tmp_path, layer, base).keys() == names
        status = (layer / "d").stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_mtime) == (0o711, 5, 7)
        assert {key for key in os.listxattr(layer / "d") if not key.endswith("opaque")} == set()


def test_u27_a_whiteout_only_concerns_the_layers_below(unpack: Unpack, tmp_path: Path) -> None:
    base = unpack(file(b"f"), file(b"d/old"))
    entries = [file(b".wh.f"), file(b"f"), file(b".wh.d"), file(b"d/new")]
    for order in (entries, entries[::-1]):
        assert shown(tmp_path, unpack(*order, over=(base,)), base) == {"d": "d", "d/new": "-", "f": "-"}


def test_u28_a_whiteout_behind_a_link_applies_inside(unpack: Unpack, host: Path) -> None:
    base = unpack(file(b"real/x"), symlink(b"link", b"/real"))
    assert tree(unpack(file(b"link/.wh.x"), over=(base,))) == {"real": "d", "real/x": "whiteout"}


def test_u29_the_name_decides(unpack: Unpack) -> None:
    base = unpack(file(b"a"), file(b"b"), file(b"c"))
    layer = unpack(file(b".wh.a", b"body"), directory(b".wh.b"), symlink(b".wh.c", b"/"), file(b"d"), over=(base,))
    assert tree(layer) == {"a": "whiteout", "b": "whiteout", "c": "whiteout", "d": "-"}


def test_u31_what_aufs_left_is_skipped(unpack: Unpack) -> None:
    assert tree(unpack(directory(b".wh..wh.plnk"), file(b".wh..wh.plnk/1.2"), file(b".wh..wh.aufs"), file(b"x"))) == {
        "x": "-"
    }


def test_u32_u34_devices(unpack: Unpack) -> None:
    layer = unpack(
        (Entry(b"null", Kind.CHARACTER, 0o666, uid=1, device=(1, 3)), b""), (Entry(b"b", Kind.BLOCK_DEVICE), b"")
    )
    status = (layer / "null").stat()
    assert (stat.filemode(status.st_mode), status.st_rdev, status.st_uid) == ("crw-rw-rw-", os.makedev(1, 3), 1)
    for device in ((0, 0), (4096, 0), (0, 1 << 20)):
        with pytest.raises(InvalidError):
            unpack((Entry(b"c", Kind.CHARACTER, device=device), b""))


def test_u37_u38_u41_extended_attributes(unpack: Unpack) -> None:
    capability = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
    keys = ("trusted.overlay.opaque", "trusted.overlay.redirect", "trusted.overlay.metacopy", "user.overlay.opaque")
    steering = tuple((key.encode(), b"y") for key in keys)
    mine = ((b"security.capability", capability), (b"user.k", b"a\0b\nc"))
    layer = unpack(file(b"f", mode=0o755, uid=1, xattrs=mine + steering), directory(b"d", xattrs=steering))
    assert os.getxattr(layer / "f", "security.capability") == capability
    assert os.getxattr(layer / "f", "user.k") == b"a\0b\nc"
    assert set(os.listxattr(layer / "f")) == {"security.capability", "user.k"}
    assert os.listxattr(layer / "d") == []


def test_u40_attributes_that_cannot_be_are_left_out(unpack: Unpack) -> None:
    attributes = ((b"user.k", b"v"),)
    layer = unpack(
        (symlink(b"l", b"x")[0]._replace(xattrs=attributes), b""),
        (Entry(b"p", Kind.FIFO, xattrs=attributes), b""),
        file(b"f", xattrs=((b"nonsense.k", b"v"),)),
    )
    assert tree(layer) == {"f": "-", "l": "l", "p": "p"}


def test_u43_times_last_and_to_the_nanosecond(unpack: Unpack) -> None:
    layer = unpack(directory(b"d", mtime=3 * 10**9), file(b"d/x", mtime=-5 * 10**9), file(b"d/y", mtime=2**40 * 10**9))
    assert (layer / "d").stat().st_mtime == 3
    assert (layer / "d/x").stat().st_mtime == -5


def test_u46_u47_names(unpack: Unpack) -> None:
    odd = [b"\xff\xfe", b"new\nline", b"back\\slash", b"trailing ", b"n" * 255]
    layer = unpack(*(file(name) for name in odd))
    assert sorted(os.listdir(os.fsencode(layer))) == sorted(odd)
    for name in (b"n" * 256, b"d/" + b"n" * 256 + b"/f", b".wh." + b"n" * 252):
        with pytest.raises(InvalidError, match="256 bytes"):
            unpack(file(name))
    assert (unpack(symlink(b"l", b"t" * 4095)) / "l").readlink() == Path("t" * 4095)
    with pytest.raises(InvalidError, match="File name too long"):
        unpack(symlink(b"l", b"t" * 4096))


def test_u46_a_path_beyond_the_kernel_s_limit_works(unpack: Unpack) -> None:
    layer = unpack(file(b"/".join([b"d" * 50] * 100) + b"/x", b"deep"), file(b"y"))
    handle = os.open(layer, os.O_RDONLY)
    for _ in range(100):
        child = os.open(b"d" * 50, os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = child
    assert os.listdir(handle) == ["x"]
    os.close(handle)
    remove_tree(layer, point="test")  # too deep for whoever else removes directories


def test_setuid_and_sticky_bits_survive_the_change_of_owner(unpack: Unpack) -> None:
    layer = unpack(file(b"su", mode=0o4755, uid=7), directory(b"t", 0o3777, gid=8), file(b"t/x", gid=0))
    assert stat.S_IMODE((layer / "su").stat().st_mode) == 0o4755
    assert stat.S_IMODE((layer / "t").stat().st_mode) == 0o3777
    assert (layer / "t/x").stat().st_gid == 0


def test_s29_a_full_disk_is_an_error_of_the_host(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    os.system(f"mount -t tmpfs -o size=256k tmpfs {small}")
    try:
        with pytest.raises(HostError, match="No space left") as caught:
            extract(archive([file(b"big", bytes(1 << 20))]), small, lambda: LowerLayers(()))
        assert "free space" in caught.value.hint
        assert caught.value.__cause__.errno == errno.ENOSPC  # type: ignore[union-attr]
    finally:
        mounts.unmount(small)


def test_no_descriptor_stays_open(unpack: Unpack) -> None:
    before = len(os.listdir("/proc/self/fd"))
    unpack(*(file(b"d%d/e/f" % number) for number in range(200)))
    with pytest.raises(InvalidError):
        unpack(file(b"a/b/c"), file(b"../x"))
    assert len(os.listdir("/proc/self/fd")) == before
