"""What a writable layer changes, as people read it, and how two stacks of layers differ; trees of every kind."""

# Names here are bytes, which pathlib does not take.
# ruff: noqa: PTH101, PTH102, PTH208

from __future__ import annotations

import errno
import gzip
import io
import os
import random
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.errors import InvalidError
from reconciler.linux import mounts
from reconciler.linux.tree import remove_tree
from reconciler.store.archive.reader import ArchiveReader, Entry, Source
from reconciler.store.layers.changes import changes, listed
from reconciler.store.layers.comparison import Difference, differences
from reconciler.store.layers.diff import commit_layer
from reconciler.store.layers.extract import extract
from reconciler.store.layers.lower import LowerLayers
from reconciler.testing.trees import found

pytestmark = pytest.mark.root


class Place:
    """An overlay over two layers."""

    def __init__(self, base: Path) -> None:
        self.lowest, self.lower, self.upper, self.work, self.root = (
            base / name for name in ("lowest", "lower", "upper", "work", "root")
        )
        for directory in (self.lowest, self.lower, self.upper, self.work, self.root):
            directory.mkdir(parents=True, mode=0o755)

    @property
    def lowers(self) -> tuple[Path, Path]:
        return self.lower, self.lowest

    def mount(self) -> Path:
        mounts.mount(mounts.Overlay(self.lowers, self.upper, self.work, self.root))
        return self.root

    def listed(self, *stubs: str) -> list[str]:
        return [
            f"{change.kind} {os.fsdecode(change.path)}" for change in listed(self.upper, self.lowers, frozenset(stubs))
        ]

    def archive(self, *stubs: str) -> bytes:
        out = io.BytesIO()
        commit_layer(self.upper, self.lowers, out.write, frozenset(stubs))
        return gzip.decompress(out.getvalue())

    def entries(self, *stubs: str) -> dict[str, Entry]:
        reader = ArchiveReader(Source(iter([self.archive(*stubs)])))
        return {os.fsdecode(entry.name): entry for entry in reader}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "place")
    yield made
    mounts.unmount(made.root)
    remove_tree(tmp_path / "place", point="test", sync=False)


def test_additions_changes_and_deletions_are_listed_as_docker_does(place: Place) -> None:
    for name in ("etc/a", "etc/b", "etc/gone/x", "usr/file", "again/old", "again/kept", "again/sub/x", "again/sub/y"):
        (place.lowest / name).parent.mkdir(parents=True, exist_ok=True)
        (place.lowest / name).write_text("old")
    (place.lower / "etc").mkdir()
    (place.lower / "etc/c").touch()
    assert place.listed() == []
    root = place.mount()
    (root / "etc/a").write_text("new")
    (root / "etc/new").touch()
    (root / "etc/c").unlink()
    shutil.rmtree(root / "etc/gone")
    shutil.rmtree(root / "again")
    (root / "again").mkdir()
    (root / "again/kept").touch()
    (root / "again/sub").mkdir()
    (root / "again/sub/y").touch()
    (root / "added/inner").mkdir(parents=True)
    os.mkfifo(root / "-pipe")
    assert place.listed() == [
        "A /-pipe",
        "A /added",
        "A /added/inner",
        "C /again",
        "C /again/kept",
        "D /again/old",
        "C /again/sub",
        "D /again/sub/x",
        "C /again/sub/y",
        "C /etc",
        "C /etc/a",
        "D /etc/c",
        "D /etc/gone",
        "A /etc/new",
    ]


def test_a_layer_in_between_counts(place: Place) -> None:
    (place.lowest / "d").mkdir()
    (place.lowest / "d/hidden").touch()
    (place.lowest / "f").touch()
    (place.lower / "d").mkdir()
    os.setxattr(place.lower / "d", "trusted.overlay.opaque", b"y")
    os.mknod(place.lower / "f", 0o020000)
    root = place.mount()
    (root / "d/hidden").touch()
    (root / "f").touch()
    assert place.listed() == ["C /d", "A /d/hidden", "A /f"]


def test_stubs_are_found_behind_links(place: Place) -> None:
    """The runtime follows links when it makes a mount point, so its stub lies where the link leads."""
    (place.lowest / "run").mkdir()
    (place.lowest / "var").mkdir()
    (place.lowest / "var/run").symlink_to("/run")
    (place.lowest / "up").symlink_to("../../run/..")
    root = place.mount()
    (root / "run/secret").touch()
    (root / "run/dir").mkdir()
    (root / "deep/a").mkdir(parents=True)
    assert place.listed("/var/run/secret", "/up/run/dir", "/deep/a") == []
    assert place.entries("/var/run/secret", "/up/run/dir", "/deep/a") == {}
    assert place.listed("/var/run/other", "/up/run/dir", "/deep/a") == ["C /run", "A /run/secret"]
    (place.upper / "loop").symlink_to("loop")
    assert place.listed("/loop/x", "/var/run/secret", "/run/dir", "/deep/a") == ["A /loop"]


def test_a_stub_that_the_image_has_is_no_stub(place: Place) -> None:
    (place.lowest / "hosts").write_text("from the image")
    (place.mount() / "hosts").write_text("")
    assert place.listed("/hosts") == ["C /hosts"]


# Trees that break what was written for ordinary ones.


def _round_trip(place: Place, tmp_path: Path) -> None:
    """The archive, put on the layers below, shows what the container saw."""
    layer, again = tmp_path / "layer", tmp_path / "again"
    layer.mkdir(mode=0o755)
    again.mkdir()
    extract(iter([place.archive()]), layer, lambda: LowerLayers(place.lowers))
    mounts.mount(mounts.Overlay((layer, *place.lowers), None, None, again))
    try:
        wanted, got = found(os.fsencode(place.root)), found(os.fsencode(again))
        assert wanted.keys() == got.keys()
        for path in wanted:
            assert wanted[path]._replace(mtime=0) == got[path]._replace(mtime=0), path
    finally:
        mounts.unmount(again)


def _deep(root: Path, depth: int, name: bytes) -> None:
    """Directories ``depth`` levels down, a file at the bottom; longer than any path the kernel takes."""
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=handle)
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=handle)
        os.close(handle)
        handle = inner
    os.close(os.open("bottom", os.O_WRONLY | os.O_CREAT, dir_fd=handle))
    os.close(handle)


@pytest.mark.parametrize("where", ["upper", "both"])
def test_directories_300_deep_with_names_of_255_bytes(place: Place, where: str) -> None:
    name, depth = b"\xff" * 254 + b"n", 300
    if where == "both":
        _deep(place.lowest, depth, name)
        remove_bottom(place.lowest, depth, name)
    _deep(place.upper, depth, name)
    before = len(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 150, hard))
    try:
        archive = place.archive()
        told = list(changes(place.upper, place.lowers))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(os.listdir("/proc/self/fd")) == before
    assert told[-1].parts == (*[name] * depth, b"bottom")
    entries = [entry.name for entry in ArchiveReader(Source(iter([archive])))]
    assert entries[-1] == b"/".join([*[name] * depth, b"bottom"])
    assert len(entries) == depth + 1
    shown = listed(place.upper, place.lowers)
    assert {change.kind for change in shown[:-1]} == ({"C"} if where == "both" else {"A"})
    assert shown[-1].kind == "A"
    assert [item.kind for item in differences((place.lowest,), (place.upper,))][-1] == "A"


def remove_bottom(root: Path, depth: int, name: bytes) -> None:
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=handle)
        os.close(handle)
        handle = inner
    os.unlink("bottom", dir_fd=handle)
    os.close(handle)


def test_names_of_every_byte(place: Place, tmp_path: Path) -> None:
    root = os.fsencode(place.mount())
    for byte in set(range(1, 256)) - {0x2F, 0x2E}:
        Path(os.fsdecode(root + b"/%c" % byte)).touch()
    for name in (b"\xfe" * 255, b"new\nline", b"back\\slash", b"trailing ", b"\x1b[31mred", "\u202egnp.exe".encode()):
        Path(os.fsdecode(root + b"/" + name)).touch()
    _round_trip(place, tmp_path)
    assert [os.fsencode(line[3:]) for line in place.listed()] == sorted(os.listdir(root))


def test_large_and_odd_extended_attributes(place: Place, tmp_path: Path) -> None:
    root = place.mount()
    (root / "f").touch()
    (root / "d").mkdir()
    for target in (root / "f", root / "d"):
        size = 1 << 16
        while size:
            try:
                os.setxattr(target, "user.large", bytes(random.Random(1).randbytes(size)))
                break
            except OSError as error:
                assert error.errno in (errno.ENOSPC, errno.E2BIG, errno.ERANGE)
                size //= 2
        assert size > 1000
        os.setxattr(target, b"trusted.n\xff\n", b"\0=\n")
        os.setxattr(target, "user.empty", b"")
    _round_trip(place, tmp_path)


def test_files_with_holes_keep_their_content(place: Place, tmp_path: Path) -> None:
    root = place.mount()
    with (root / "holes").open("wb") as file:
        file.seek(3 << 20)
        file.write(b"middle")
        file.truncate(20 << 20)
    full = tmp_path / "full"
    full.mkdir(mode=0o755)
    (full / "holes").write_bytes((root / "holes").read_bytes())
    for top in (place.upper, full):
        os.utime(top / "holes", (0, 1_700_000_000))
    out = io.BytesIO()
    assert commit_layer(full, place.lowers, out.write) == commit_layer(place.upper, place.lowers, io.BytesIO().write)
    assert len(out.getvalue()) < 1 << 20
    _round_trip(place, tmp_path)


def test_hard_links_across_directories(place: Place, tmp_path: Path) -> None:
    (place.lowest / "z").mkdir()
    (place.lowest / "z/f").write_text("content")
    root = place.mount()
    (root / "a/b").mkdir(parents=True)
    os.link(root / "z/f", root / "a/b/f")
    (root / "link").symlink_to("nowhere")
    os.link(root / "link", root / "a/link", follow_symlinks=False)
    os.mkfifo(root / "pipe")
    os.link(root / "pipe", root / "z/pipe")
    _round_trip(place, tmp_path)


def test_many_hard_links_to_one_file(place: Place, tmp_path: Path) -> None:
    root = place.mount()
    (root / "f").write_bytes(bytes(1 << 14))
    for number in range(2000):
        os.link(root / "f", root / f"{number}")
    assert len(place.archive()) < 2 << 20
    _round_trip(place, tmp_path)


def test_a_directory_that_was_replaced_at_each_level(place: Place, tmp_path: Path) -> None:
    for top, kind in ((place.lowest, "d"), (place.lower, "f")):
        if kind == "d":
            (top / "x/y").mkdir(parents=True)
            (top / "x/y/old").touch()
        else:
            (top / "x").touch()
    root = place.mount()
    (root / "x").unlink()
    (root / "x/y").mkdir(parents=True)
    assert place.listed() == ["C /x", "A /x/y"]
    _round_trip(place, tmp_path)


def test_100_000_files_take_little_time_and_memory(tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    memory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "many", memory], check=True)
    try:
        _commit_many(Place(memory))
    finally:
        subprocess.run(["umount", memory], check=True)


def _commit_many(place: Place) -> None:
    for directory in range(100):
        os.mkdir(place.upper / str(directory))
        for number in range(1000):
            os.mknod(place.upper / str(directory) / str(number))
    began = time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    layer = commit_layer(place.upper, place.lowers, lambda _: None)
    assert layer.entries == 100_100
    assert time.process_time() - began < 15
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


def test_an_extended_attribute_whose_name_no_layer_can_hold_is_refused(place: Place) -> None:
    (place.mount() / "f").touch()
    os.setxattr(place.root / "f", "user.a=b", b"c")
    with pytest.raises(InvalidError, match=r"/f cannot be stored: .*user\.a=b"):
        place.archive()


def test_what_cannot_be_stored_is_named_by_its_printable_path(place: Place) -> None:
    root = place.mount()
    (root / "d\x1b").mkdir()
    (root / "d\x1b/.wh.x").touch()
    with pytest.raises(InvalidError, match=r"/d\\x1b/\.wh\.x cannot be stored"):
        place.archive()


# Two images


def test_images_differ_by_content_and_attributes_not_by_time(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for top in (first, second):
        (top / "d").mkdir(parents=True)
        for name in ("same", "content", "mode", "owner", "xattr", "size", "kind", "d/inner"):
            (top / name).write_text("text")
        (top / "link").symlink_to("a")
    (second / "content").write_text("TEXT")
    (second / "size").write_text("longer text")
    os.chmod(second / "mode", 0o600)
    os.chown(second / "owner", 1, 2)
    os.setxattr(second / "xattr", "user.k", b"v")
    (second / "kind").unlink()
    (second / "kind").mkdir()
    (second / "link").unlink()
    (second / "link").symlink_to("b")
    os.utime(second / "same", (1, 1))
    (second / "new").write_text("12345")
    shutil.rmtree(second / "d")
    assert differences((first,), (second,)) == [
        Difference("C", b"/content", 4, 4),
        Difference("D", b"/d"),
        Difference("D", b"/d/inner", 4),
        Difference("C", b"/kind", 4),
        Difference("C", b"/link"),
        Difference("C", b"/mode", 4, 4),
        Difference("A", b"/new", None, 5),
        Difference("C", b"/owner", 4, 4),
        Difference("C", b"/size", 4, 11),
        Difference("C", b"/xattr", 4, 4),
    ]


def test_directories_of_which_both_have_the_same_layers_are_not_read(tmp_path: Path) -> None:
    shared, own = tmp_path / "shared", tmp_path / "own"
    (shared / "d/inner").mkdir(parents=True)
    (shared / "e").mkdir()
    (own / "e").mkdir(parents=True)
    (own / "e/new").touch()
    os.mknod(own / "gone", 0o020000)
    (shared / "gone").touch()
    read = []
    real = os.listdir

    def listing(path: bytes) -> list[bytes]:
        read.append(path)
        return real(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "listdir", listing)
        found_differences = differences((shared,), (own, shared))
    assert [(item.kind, item.path) for item in found_differences] == [("A", b"/e/new"), ("D", b"/gone")]
    assert not any(path.endswith((b"/d", b"/inner")) for path in read)
    assert differences((own, shared), (own, shared)) == []
    assert differences((), (own,))[0].kind == "A"
