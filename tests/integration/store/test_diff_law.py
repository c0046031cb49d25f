"""The law of diffs over many random trees: what was changed, put on what it was changed from, gives what it became."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import random
import shutil
import stat
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reconciler.linux import mounts
from reconciler.store.layers.diff import commit_layer
from reconciler.store.layers.extract import extract
from reconciler.store.layers.lower import LowerLayers
from reconciler.testing.trees import Seen, found

# Names here are bytes, which pathlib does not take.
# ruff: noqa: PTH101, PTH102, PTH103, PTH104, PTH108, PTH114, PTH120, PTH208, PTH211

pytestmark = pytest.mark.root

TREES = 10_000
BATCH = 2_500
_NAMES = (b"a", b"b", b"\xff", b".h", b"c d")
_CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A filesystem in memory: what matters here is overlayfs above it."""
    place = tmp_path / "memory"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2g", "trees", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


class Actor:
    """Random changes to a small tree; nothing happens where one is impossible."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def change(self, root: bytes, count: int) -> None:
        for _ in range(count):
            action = self._random.choice(_ACTIONS)
            with contextlib.suppress(OSError):
                action(self, root + b"/" + self._name(), root)

    def _name(self) -> bytes:
        return b"/".join(self._random.choices(_NAMES, k=self._random.choice((1, 1, 2, 2, 3))))

    def _number(self) -> int:
        return self._random.randrange(8)

    def file(self, path: bytes, _: bytes) -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        _write(path, os.O_CREAT | os.O_TRUNC, b"x" * self._random.choice((0, 1, 511, 512, 513, 3000)))

    def append(self, path: bytes, _: bytes) -> None:
        _write(path, os.O_APPEND, b"more")

    def mkdir(self, path: bytes, _: bytes) -> None:
        os.makedirs(path)

    def again(self, path: bytes, _: bytes) -> None:
        _remove_directory(path)
        os.makedirs(path)

    def filled_again(self, path: bytes, _: bytes) -> None:
        _remove_directory(path)
        os.makedirs(path)
        os.mknod(path + b"/" + self._random.choice(_NAMES))

    def symlink(self, path: bytes, _: bytes) -> None:
        os.symlink(self._name(), path)

    def remove(self, path: bytes, _: bytes) -> None:
        _remove_directory(path) if stat.S_ISDIR(os.lstat(path).st_mode) else os.unlink(path)

    def chmod(self, path: bytes, _: bytes) -> None:
        if not os.path.islink(path):
            os.chmod(path, self._number() * 0o111 | self._random.choice((0, 0o1000, 0o2000, 0o4000)))

    def chown(self, path: bytes, _: bytes) -> None:
        os.chown(path, self._number(), self._random.choice((0, 70000, 3_000_000)), follow_symlinks=False)

    def xattr(self, path: bytes, _: bytes) -> None:
        if not os.path.islink(path):
            os.setxattr(path, self._random.choice((b"user.k", b"trusted.k")), b"\0%d\n" % self._number())

    def capability(self, path: bytes, _: bytes) -> None:
        if stat.S_ISREG(os.lstat(path).st_mode):
            os.setxattr(path, b"security.capability", _CAPABILITY)

    def link(self, path: bytes, root: bytes) -> None:
        os.link(path, root + b"/" + self._name(), follow_symlinks=False)

    def move(self, path: bytes, root: bytes) -> None:
        os.rename(path, root + b"/" + self._name())

    def node(self, path: bytes, _: bytes) -> None:
        kind, device = self._random.choice(((stat.S_IFCHR, (1, 3)), (stat.S_IFBLK, (250, 300)), (stat.S_IFIFO, (0, 0))))
        os.mknod(path, kind | 0o640, os.makedev(*device))

    def time(self, path: bytes, _: bytes) -> None:
        moment = self._random.choice((0, 1, 1_700_000_000, -5)) * 10**9 + self._number()
        os.utime(path, ns=(0, moment), follow_symlinks=False)


def _write(path: bytes, flags: int, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK | flags)  # a FIFO would wait for a reader
    try:
        os.write(handle, data)
    finally:
        os.close(handle)


def _remove_directory(path: bytes) -> None:
    os.listdir(path)  # rmtree opens whatever it is given, and a FIFO would wait for a writer
    shutil.rmtree(path)


_ACTIONS: list[Callable[[Actor, bytes, bytes], None]] = [
    Actor.file, Actor.file, Actor.append, Actor.mkdir, Actor.again, Actor.filled_again, Actor.symlink, Actor.remove,
    Actor.remove, Actor.chmod, Actor.chown, Actor.xattr, Actor.capability, Actor.link, Actor.move, Actor.node,
    Actor.time,
]  # fmt: skip


def test_d25_a_diff_over_ten_thousand_random_trees(
    memory: Path, say: Callable[[str], None], pytestconfig: pytest.Config
) -> None:
    """Each tree is a directory of one overlay: three times changed at random, the last time being what is diffed."""
    given = pytestconfig.getoption("--fuzz-seed")
    seed = random.SystemRandom().randrange(1 << 32) if given is None else given
    began, entries = time.perf_counter(), 0
    for batch in range(TREES // BATCH):
        place = memory / str(batch)
        entries += _batch(place, f"{seed}-{batch}", seed * 1000 + batch)
        shutil.rmtree(place)
    say(f"diff of random trees: {TREES:,} trees, {entries:,} entries, {time.perf_counter() - began:.0f} s, seed {seed}")


def _batch(place: Path, name: str, seed: int) -> int:
    directories = {what: place / what for what in ("lowest", "lower", "upper", "work", "root", "layer", "again")}
    for directory in directories.values():
        directory.mkdir(parents=True, mode=0o755)
    lowest, lower, upper, layer = (directories[what] for what in ("lowest", "lower", "upper", "layer"))
    root, work, again = directories["root"], directories["work"], directories["again"]
    actor = Actor(seed)
    trees = [b"/%d" % number for number in range(BATCH)]
    for tree in trees:
        os.mkdir(os.fsencode(lowest) + tree)
        actor.change(os.fsencode(lowest) + tree, 5)
    for lowers, top in (((lowest,), lower), ((lower, lowest), upper)):
        mounts.mount(mounts.Overlay(lowers, top, work, root))
        for tree in trees:
            actor.change(os.fsencode(root) + tree, 5)
        mounts.unmount(root)
        shutil.rmtree(work / "work")
    out = io.BytesIO()
    committed = commit_layer(upper, (lower, lowest), out.write)
    extract(iter([gzip.decompress(out.getvalue())]), layer, lambda: LowerLayers((lower, lowest)))
    mounts.mount(mounts.Overlay((lower, lowest), upper, work, root))
    mounts.mount(mounts.Overlay((layer, lower, lowest), None, None, again))
    try:
        wanted, got = _rounded(root), _rounded(again)
    finally:
        mounts.unmount(again)
        mounts.unmount(root)
    if wanted != got:
        path = min(path for path in wanted.keys() | got.keys() if wanted.get(path) != got.get(path))
        pytest.fail(f"seed {name}: {path!r} should be {wanted.get(path)}, is {got.get(path)}")
    return committed.entries


def _rounded(root: Path) -> dict[bytes, Seen]:
    """A tree without the root's own time, and fractions of seconds, which layers do not keep (case D19)."""
    tree = found(os.fsencode(root))
    return {path: seen._replace(mtime=seen.mtime // 10**9 if path else 0) for path, seen in tree.items()}
