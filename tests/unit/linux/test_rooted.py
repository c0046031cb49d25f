"""Paths inside a root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.linux.rooted import Rooted


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/tool").write_text("inside")
    (root / "bin").symlink_to("usr/bin")
    (root / "up").symlink_to("../../../../../..")
    (root / "loop").symlink_to("loop")
    (root / "abs").symlink_to("/usr/bin/tool")
    (tmp_path / "secret").write_text("outside")
    return root


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/bin/tool", "/usr/bin/tool"),
        ("abs", "/usr/bin/tool"),
        ("/up/usr/./bin//tool", "/usr/bin/tool"),
        ("/../../usr/bin/../bin/tool", "/usr/bin/tool"),
        ("/", "/"),
        ("", "/"),
        ("/bin/../..", "/"),
    ],
)
def test_resolve(tree, path, expected):
    with Rooted(tree) as root:
        assert root.resolve(path) == expected


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/secret", FileNotFoundError),
        ("/up/secret", FileNotFoundError),
        ("/../secret", FileNotFoundError),
        ("/loop", OSError),
        ("/usr/bin/tool/x", NotADirectoryError),
        ("/usr/bin/tool/..", NotADirectoryError),
        ("/usr/bin/tool/", NotADirectoryError),
    ],
)
def test_nothing_outside_is_reached(tree, path, error):
    with Rooted(tree) as root, pytest.raises(error):
        root.resolve(path)


_STEP = st.sampled_from(["..", ".", "", "a", "b", "out", "rel", "abs", "secret"])


@given(st.lists(_STEP, max_size=8))
def test_no_path_leads_outside(tmp_path_factory, steps):
    base = tmp_path_factory.mktemp("law")
    (base / "secret").write_text("outside")
    top = base / "root"
    (top / "a/b").mkdir(parents=True)
    (top / "out").symlink_to("../" * 9 + str(base)[1:])
    (top / "a/rel").symlink_to("../../..")
    (top / "a/b/abs").symlink_to(base)
    with Rooted(top) as root:
        try:
            content = root.read("/".join(steps), 100)
        except OSError:
            return
    assert content != b"outside"


def test_read_has_a_limit(tree):
    with Rooted(tree) as root:
        assert root.read("/bin/tool", 6) == b"inside"
        with pytest.raises(OSError, match="Larger"):
            root.read("/bin/tool", 5)


@pytest.mark.timeout(5)
def test_only_regular_files_are_opened(tree):
    os.mkfifo(tree / "fifo")
    with Rooted(tree) as root:
        with pytest.raises(OSError, match="Not a regular file"):
            root.open_file("/fifo")
        with pytest.raises(IsADirectoryError):
            root.open_file("/usr")


def test_makedirs_follows_links_inside_and_ignores_the_umask(tree):
    (tree / "var").symlink_to("/data/var")
    before = os.umask(0o077)
    try:
        with Rooted(tree) as root:
            assert root.makedirs("/var/../lib/x") == "/data/lib/x"
            assert root.makedirs("/data/lib/x") == "/data/lib/x"
            with pytest.raises(NotADirectoryError):
                root.makedirs("/bin/tool")
    finally:
        os.umask(before)
    assert (tree / "data/lib/x").stat().st_mode & 0o777 == 0o755


def test_mounts_are_seen_where_they_will_be(tree, tmp_path):
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "run").write_text("mounted")
    (volume / "back").symlink_to("/usr/bin/tool")
    (tree / "opt").symlink_to("usr/opt")
    with Rooted(tree, [("/opt/app", volume), ("/usr/bin", None)]) as root:
        assert root.read("/opt/app/run", 100) == b"mounted"
        assert root.resolve("/opt/app/run") == "/usr/opt/app/run"
        with pytest.raises(FileNotFoundError):
            root.resolve("/opt/app/back")
        assert root.resolve("/opt/app/../../bin/..") == "/usr"
        assert root.makedirs("/opt/app/new") == "/usr/opt/app/new"
    assert sorted(path.name for path in volume.iterdir()) == ["back", "run"]


def test_no_descriptor_is_left(tree):
    before = len(list(Path("/proc/self/fd").iterdir()))
    with Rooted(tree) as root:
        for path in ("/bin/tool", "/loop", "/none", "/usr/bin/tool/x"):
            try:
                root.stat(path)
            except OSError:
                continue
    assert len(list(Path("/proc/self/fd").iterdir())) == before
