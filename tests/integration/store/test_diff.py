"""What changed in a container, as a layer (cases D01 to D25)."""

# Names here are bytes, which pathlib does not take.
# ruff: noqa: PTH101, PTH103, PTH104, PTH108, PTH112, PTH114, PTH115, PTH118, PTH120, PTH211

from __future__ import annotations

import contextlib
import gzip
import io
import os
import random
import shutil
import socket
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.errors import ConflictError, InvalidError
from reconciler.linux import mounts
from reconciler.store.archive.reader import ArchiveReader, Entry, Kind, Source
from reconciler.store.layers.changes import changes
from reconciler.store.layers.diff import Archive, CommittedLayer, commit_layer
from reconciler.store.layers.extract import extract
from reconciler.store.layers.lower import LowerLayers

pytestmark = pytest.mark.root


@dataclass
class Box:
    """An overlay mount over one lower layer: change ``root``, then ``commit``."""

    base: Path
    lower: Path = field(init=False)
    upper: Path = field(init=False)
    root: Path = field(init=False)

    def __post_init__(self) -> None:
        for name in ("lower", "upper", "work", "root"):
            (self.base / name).mkdir(parents=True, mode=0o755)
        self.lower, self.upper, self.root = self.base / "lower", self.base / "upper", self.base / "root"

    def mount(self) -> Path:
        mounts.mount(mounts.Overlay((self.lower,), self.upper, self.base / "work", self.root))
        return self.root

    def remount(self) -> Path:
        self.close()
        return self.mount()

    def commit(self, *exclude: str) -> tuple[CommittedLayer, bytes]:
        out = io.BytesIO()
        layer = commit_layer(self.upper, (self.lower,), out.write, frozenset(exclude))
        return layer, gzip.decompress(out.getvalue())

    def entries(self, *exclude: str) -> dict[str, Entry]:
        layer, data = self.commit(*exclude)
        found = {os.fsdecode(entry.name): entry for entry in ArchiveReader(Source(iter([data])))}
        assert len(found) == layer.entries
        return found

    def close(self) -> None:
        mounts.unmount(self.root)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path / "box")
    yield made
    made.close()


def test_d01_nothing_changed(box: Box) -> None:
    (box.lower / "d").mkdir()
    (box.lower / "d/f").write_text("x")
    root = box.mount()
    (root / "d/f").read_text()
    layer, data = box.commit()
    assert (layer.is_empty, data) == (True, bytes(1024))


def test_d01_mount_points_of_the_runtime_do_not_leak(box: Box) -> None:
    (box.lower / "etc").mkdir()
    root = box.mount()
    (root / "etc/hosts").touch()
    for name in ("proc", "dev", "a/b/mnt"):
        (root / name).mkdir(parents=True)
    stubs = ("etc/hosts", "proc", "dev", "a/b/mnt")
    assert box.entries(*stubs) == {}
    assert list(box.entries()) == ["a/", "a/b/", "a/b/mnt/", "dev/", "etc/", "etc/hosts", "proc/"]
    # What was written there before anything was mounted is the user's.
    (root / "etc/hosts").write_text("mine")
    (root / "proc/x").touch()
    assert list(box.entries(*stubs)) == ["etc/", "etc/hosts", "proc/", "proc/x"]


def test_d02_d19_a_file_comes_with_its_parents(box: Box) -> None:
    root = box.mount()
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/f").write_text("hello docker\n")
    os.chmod(root / "a", 0o2750)
    os.utime(root / "a/b/f", ns=(1, 1_700_000_000_999_999_999))
    found = box.entries()
    assert list(found) == ["a/", "a/b/", "a/b/f"]
    assert (found["a/"].mode, found["a/b/f"].size, found["a/b/f"].mtime) == (0o2750, 13, 1_700_000_000 * 10**9)


def test_d04_a_file_of_which_only_the_metadata_changed_is_written_whole(box: Box) -> None:
    for name in ("mode", "owner", "xattr", "untouched"):
        (box.lower / name).write_text("content")
    root = box.mount()
    os.chmod(root / "mode", 0o711)
    os.chown(root / "owner", 5, 6)
    os.setxattr(root / "xattr", "user.k", b"v\0\n")
    found = box.entries()
    assert list(found) == ["mode", "owner", "xattr"]
    assert {entry.size for entry in found.values()} == {7}
    assert (found["mode"].mode, found["owner"].uid, found["owner"].gid) == (0o711, 5, 6)
    assert found["xattr"].xattrs == ((b"user.k", b"v\0\n"),)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: os.chmod(path, 0o700),
        lambda path: os.chown(path, 5, 6),
        lambda path: os.setxattr(path, "user.k", b"v"),
        lambda path: os.utime(path, (1, 1)),
    ],
)
def test_d05_a_directory_of_which_only_the_metadata_changed_has_no_children(
    box: Box, change: Callable[[Path], None]
) -> None:
    (box.lower / "d/e").mkdir(parents=True)
    (box.lower / "d/f").touch()
    (box.lower / "d/e/g").touch()
    change(box.mount() / "d/e")
    assert list(box.entries()) == ["d/", "d/e/"]


def test_d08_a_directory_made_again_hides_what_it_had_before_its_children(box: Box) -> None:
    for name in ("again", "empty", "was-file-below"):
        (box.lower / name).mkdir()
        (box.lower / name / "x").touch()
    (box.lower / "file").touch()
    root = box.mount()
    for name in ("again", "empty"):
        shutil.rmtree(root / name)
        (root / name).mkdir()
    for name in ("-first", "z"):  # the marker comes before what sorts before it, too
        (root / "again" / name).touch()
    # Opaque over nothing, or over a file: there is nothing to hide, and so no marker.
    (root / "file").unlink()
    (root / "file").mkdir()
    (root / "fresh").mkdir()
    box.close()
    for name in ("file", "fresh"):
        os.setxattr(box.upper / name, "trusted.overlay.opaque", b"y")
    assert list(box.entries()) == [
        "again/",
        "again/.wh..wh..opq",
        "again/-first",
        "again/z",
        "empty/",
        "empty/.wh..wh..opq",
        "file/",
        "fresh/",
    ]


def test_d07_a_deleted_directory_is_one_whiteout(box: Box) -> None:
    (box.lower / "gone/inner").mkdir(parents=True)
    for name in ("gone/x", "gone/inner/y"):
        (box.lower / name).touch()
    shutil.rmtree(box.mount() / "gone")
    assert list(box.entries()) == [".wh.gone"]


def test_d10_d11_replacement_and_rename(box: Box) -> None:
    (box.lower / "f").touch()
    (box.lower / "old").mkdir()
    (box.lower / "old/x").write_text("moved")
    root = box.mount()
    (root / "f").unlink()
    (root / "f").symlink_to("../else where")
    subprocess.run(["mv", root / "old", root / "new"], check=True)
    found = box.entries()
    assert list(found) == ["f", "new/", "new/x", ".wh.old"]
    assert (found["f"].kind, found["f"].link) == (Kind.SYMLINK, b"../else where")


@pytest.mark.parametrize("key", ["redirect", "metacopy"])
def test_d11_what_lies_elsewhere_cannot_be_stored(box: Box, key: str) -> None:
    (box.upper / "f").touch()
    os.setxattr(box.upper / "f", f"trusted.overlay.{key}", b"/x")
    with pytest.raises(InvalidError, match=key):
        box.commit()


def test_d13_hard_links_share_one_body(box: Box) -> None:
    (box.lower / "z").write_text("content")
    root = box.mount()
    os.link(root / "z", root / "a")
    os.link(root / "a", root / "m")
    found = box.entries()
    assert [(name, entry.kind, entry.link) for name, entry in found.items()] == [
        ("a", Kind.FILE, b""),
        ("m", Kind.HARDLINK, b"a"),
        ("z", Kind.HARDLINK, b"a"),
    ]


def test_d14_modes_and_capabilities(box: Box) -> None:
    root = box.mount()
    (root / "su").touch()
    os.chmod(root / "su", 0o4755)
    (root / "sticky").mkdir()
    os.chmod(root / "sticky", 0o1777)
    (root / "cap").touch()
    version_3 = struct.pack("<IIIIII", 0x03000001, 1 << 13, 0, 0, 0, 1000)
    os.setxattr(box.upper / "cap", "security.capability", version_3)
    found = box.entries()
    assert (found["su"].mode, found["sticky/"].mode) == (0o4755, 0o1777)
    assert found["cap"].xattrs == ((b"security.capability", struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)),)


def test_d16_special_files(box: Box) -> None:
    root = box.mount()
    os.mkfifo(root / "pipe")
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "s"))
        found = box.entries()
    assert [(name, entry.kind, entry.device) for name, entry in found.items()] == [
        ("null", Kind.CHARACTER, (1, 3)),
        ("pipe", Kind.FIFO, (0, 0)),
    ]


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A second filesystem, which lists names in an order of its own."""
    place = tmp_path / "memory"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "d20", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def test_d20_the_same_tree_gives_the_same_bytes_on_any_filesystem(tmp_path: Path, memory: Path) -> None:
    assert tmp_path.stat().st_dev != memory.stat().st_dev
    orders, results = set(), set()
    for attempt in range(30):
        place = (tmp_path, memory)[attempt % 2]
        box = Box(place / str(attempt))
        names = [f"{n % 7}/{n}" for n in range(40)]
        random.Random(attempt).shuffle(names)
        for name in names:
            (box.upper / name).parent.mkdir(exist_ok=True)
            (box.upper / name).write_text(name * 100)
        for directory in list(box.upper.iterdir()):
            os.link(directory / f"{int(directory.name) + 7}", directory / "link")
            os.setxattr(directory, "user.b", b"1")
            os.setxattr(directory, "user.a", b"2")
            for file in directory.iterdir():
                os.utime(file, (attempt, 1_000_000))
            os.utime(directory, (attempt, 2_000_000))
        with os.scandir(box.upper / "3") as entries:
            listed = list(entries)
        orders.add(tuple(entry.name for entry in listed))
        orders.add(tuple(entry.name for entry in sorted(listed, key=lambda entry: entry.inode())))
        results.add(box.commit())
    assert len(orders) > 10
    assert len(results) == 1


def _grown(target: Path) -> None:
    with target.open("ab") as log:
        log.write(b"x")


def _exchanged(target: Path) -> None:
    status = target.stat()
    fresh = target.with_name("fresh")
    fresh.write_bytes(bytes(status.st_size))
    os.utime(fresh, ns=(status.st_atime_ns, status.st_mtime_ns))
    fresh.rename(target)


@pytest.mark.parametrize(
    "change",
    [
        _grown,
        lambda target: os.truncate(target, 4 << 20),
        lambda target: target.write_bytes(b"x" * (8 << 20)),
        lambda target: target.chmod(0o600),
    ],
    ids=["grown", "shrunk", "rewritten", "chmod"],
)
def test_d22_a_file_that_changes_while_it_is_read(box: Box, change: Callable[[Path], None]) -> None:
    target = box.upper / "log"
    target.write_bytes(bytes(8 << 20))
    with pytest.raises(ConflictError, match="/log changed during the commit"):
        commit_layer(box.upper, (box.lower,), lambda _: change(target))


@pytest.mark.parametrize(
    "change",
    [
        lambda target: target.unlink(),
        _exchanged,
        lambda target: (target.with_name("x").symlink_to("/etc/shadow"), target.with_name("x").rename(target)),
        lambda target: target.unlink() or os.mkfifo(target),  # type: ignore[func-returns-value]
        lambda target: shutil.rmtree(target.parent),
    ],
    ids=["gone", "another-file", "a-link", "a-fifo", "with-its-directory"],
)
def test_d22_a_file_that_vanishes_before_it_is_read(box: Box, change: Callable[[Path], object]) -> None:
    (box.upper / "a").write_bytes(bytes(8 << 20))
    (box.upper / "b").mkdir()
    target = box.upper / "b/log"
    target.write_bytes(bytes(100))
    changed = False

    def walk() -> Iterator[bytes]:
        nonlocal changed
        archive = Archive()
        for entry in changes(box.upper, (box.lower,)):
            if entry.parts == (b"b", b"log") and not changed:
                change(target)
                changed = True
            yield from archive.pieces(entry)

    with pytest.raises(ConflictError, match=r"/b/log changed during the commit"):
        b"".join(walk())
    assert changed


def test_d23_names_of_whiteouts_cannot_be_stored(box: Box) -> None:
    (box.mount() / "d").mkdir()
    (box.root / "d/.wh.x").touch()
    with pytest.raises(InvalidError, match=r"/d/\.wh\.x"):
        box.commit()


def test_the_root_has_an_entry_when_its_attributes_changed(box: Box) -> None:
    os.chmod(box.mount(), 0o1777)
    assert [(name, entry.mode) for name, entry in box.entries().items()] == [("./", 0o1777)]


# A law: what was changed, put on what it was changed from, gives what it became.

NAMES = st.sampled_from([b"a", b"b", b"\xff"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(b"/".join)
KINDS = ["file", "mkdir", "again", "symlink", "remove", "chmod", "chown", "xattr", "link", "move"]
ACTIONS = st.lists(st.tuples(st.sampled_from(KINDS), PATHS, PATHS, st.integers(0, 7)), min_size=5, max_size=25)


def act(root: bytes, action: tuple[str, bytes, bytes, int]) -> None:
    """One change to a tree; nothing happens where it is impossible."""
    kind, first, second, number = action
    path, other = root + b"/" + first, root + b"/" + second
    with contextlib.suppress(OSError):
        match kind:
            case "file":
                os.makedirs(os.path.dirname(path), exist_ok=True)
                Path(os.fsdecode(path)).write_bytes(b"x" * number * 300)
            case "mkdir":
                os.makedirs(path)
            case "again":
                shutil.rmtree(path)
                os.makedirs(path)
            case "symlink":
                os.symlink(other, path)
            case "remove":
                shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
            case "chmod" if not os.path.islink(path):
                os.chmod(path, number * 0o111 + 0o1000)
            case "chown":
                os.chown(path, number, number + 1, follow_symlinks=False)
            case "xattr" if not os.path.islink(path):
                os.setxattr(path, b"user.k", b"%d" % number)
            case "link":
                os.link(path, other, follow_symlinks=False)
            case "move":
                os.rename(path, other)


def contents(root: Path) -> dict[bytes, tuple[object, ...]]:
    """All that an image keeps of a tree. The root's own time is not among it, nor fractions of seconds."""
    found: dict[bytes, tuple[object, ...]] = {}
    links: dict[int, list[bytes]] = {}
    base = os.fsencode(root)
    for directory, names, files in os.walk(base):
        for name in [*names, *files, b""]:
            path = os.path.join(directory, name) if name else directory
            status = os.lstat(path)
            place = path[len(base) :]
            is_link, is_file = stat.S_ISLNK(status.st_mode), stat.S_ISREG(status.st_mode)
            body: bytes = os.readlink(path) if is_link else Path(os.fsdecode(path)).read_bytes() if is_file else b""
            xattrs = {
                key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)
            }
            time = int(status.st_mtime) if place else 0
            found[place] = (status.st_mode, status.st_uid, status.st_gid, time, body, tuple(sorted(xattrs.items())))
            if not stat.S_ISDIR(status.st_mode):
                links.setdefault(status.st_ino, []).append(place)
    for names in links.values():
        for name in names:
            found[name] += (tuple(sorted(names)),)
    return found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ACTIONS, ACTIONS)
def test_d25_applying_a_diff_gives_what_was_diffed(
    tmp_path_factory: pytest.TempPathFactory,
    before: list[tuple[str, bytes, bytes, int]],
    after: list[tuple[str, bytes, bytes, int]],
) -> None:
    base = tmp_path_factory.mktemp("law")
    box = Box(base)
    target = base / "again"
    target.mkdir()
    try:
        for action in before:
            act(os.fsencode(box.lower), action)
        root = box.mount()
        for action in after:
            act(os.fsencode(root), action)
        expected = contents(box.remount())
        box.close()
        _, data = box.commit()
        layer = base / "layer"
        layer.mkdir()
        extract(iter([data]), layer, lambda: LowerLayers((box.lower,)))
        mounts.mount(mounts.Overlay((layer, box.lower), None, None, target))
        assert contents(target) == expected
    finally:
        mounts.unmount(target)
        box.close()
        shutil.rmtree(base)
