"""The store on filesystems that are full, read-only, or mounted where they should not be."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reconciler.errors import HostError
from reconciler.linux.tree import mount_points_below, remove_tree
from reconciler.oci.digest import Digest
from reconciler.store.collection.gc import GarbageCollector
from reconciler.store.collection.leases import LeaseTable
from reconciler.store.content import ContentStore
from reconciler.store.database import Schema, WritableDatabase
from reconciler.store.identity import claim_identity, read_identity
from reconciler.store.readonly import ReadOnlyDatabase
from reconciler.store.schema import STORE

pytestmark = pytest.mark.root

NOTES = Schema("notes", ("CREATE TABLE notes (text TEXT);",))
Mount = Callable[..., None]

CRASHING_WRITER = """
import os, signal, sys
from pathlib import Path
from reconciler.store.database import Schema, WritableDatabase
database = WritableDatabase(Path(sys.argv[1]), (Schema("notes", ("CREATE TABLE notes (text TEXT);",)),))
with database.transaction() as connection:
    connection.execute("INSERT INTO notes VALUES ('committed')")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Runs mount(8); everything below the test's directory is unmounted at the end."""

    def run(*arguments: object) -> None:
        subprocess.run(["mount", *map(str, arguments)], check=True)

    yield run
    for point in reversed(mount_points_below(tmp_path)):
        subprocess.run(["umount", str(point)], check=True)


@pytest.fixture
def disk(tmp_path: Path, mount: Mount) -> Path:
    """A filesystem of its own with 4 MiB."""
    path = tmp_path / "disk"
    path.mkdir(0o700)
    mount("-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", path)
    return path


def notes(root: Path) -> list[str]:
    reader = ReadOnlyDatabase(root, (NOTES,))
    try:
        return [row["text"] for row in reader.query("SELECT text FROM notes")]
    finally:
        reader.close()


def test_a_clean_root_is_read_on_a_read_only_filesystem(disk: Path, mount: Mount) -> None:
    writer = WritableDatabase(disk, (NOTES,))
    with writer.transaction() as connection:
        connection.execute("INSERT INTO notes VALUES ('committed')")
    writer.close_pass()
    writer.close()
    mount("-o", "remount,ro", disk)
    assert notes(disk) == ["committed"]


@pytest.mark.parametrize("rebooted", [False, True])
def test_s34_a_crashed_root_is_read_on_a_read_only_filesystem(disk: Path, mount: Mount, rebooted: bool) -> None:
    subprocess.run([sys.executable, "-c", CRASHING_WRITER, str(disk)], timeout=30)
    assert (disk / "state.db-wal").stat().st_size > 0
    if rebooted:
        (disk / "state.db-shm").unlink()
    mount("-o", "remount,ro", disk)
    assert notes(disk) == ["committed"]


def test_what_a_plan_asks_of_the_store_works_on_a_read_only_filesystem(
    disk: Path, mount: Mount, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    claimed = claim_identity(disk, run)
    WritableDatabase(disk, (STORE,)).close()
    blob = ContentStore(disk).put(b"garbage")
    mount("-o", "remount,ro", disk)
    assert read_identity(disk, run) == claimed
    database, content = ReadOnlyDatabase(disk, (STORE,)), ContentStore(disk)
    plan = GarbageCollector(disk, database, content, LeaseTable(database)).plan(())
    database.close()
    assert [item.id for item in plan.garbage] == [blob]


def test_s31_writing_to_a_read_only_filesystem_is_a_typed_error(disk: Path, mount: Mount) -> None:
    WritableDatabase(disk, (NOTES,)).close()
    mount("-o", "remount,ro", disk)
    with pytest.raises(HostError) as caught:
        WritableDatabase(disk, (NOTES,))
    assert "read-write" in caught.value.hint
    with pytest.raises(HostError, match="Read-only file system") as caught:
        ContentStore(disk).put(b"x")
    assert "read-write" in caught.value.hint


def test_s29_a_full_disk_is_a_typed_error_and_gives_the_space_back(disk: Path) -> None:
    content = ContentStore(disk)
    content.put(b"small")
    free = shutil.disk_usage(disk).free
    with pytest.raises(HostError, match="No space left") as caught:
        content.put(b"x" * (8 << 20))
    assert "free space" in caught.value.hint
    assert shutil.disk_usage(disk).free == free
    assert content.read(Digest.of(b"small"), 10) == b"small"


def test_s29_the_database_survives_a_full_disk_and_goes_on_when_there_is_space(disk: Path) -> None:
    database = WritableDatabase(disk, (NOTES,))
    with database.transaction() as connection:
        connection.execute("INSERT INTO notes VALUES ('before')")
    ballast = disk / "ballast"
    with ballast.open("wb") as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(b"x" * 65536)
            file.flush()
    with pytest.raises(HostError) as caught, database.transaction() as connection:
        connection.executemany("INSERT INTO notes VALUES (?)", [("y" * 1000,)] * 1000)
    assert "free space" in caught.value.hint
    ballast.unlink()
    with database.transaction() as connection:
        connection.execute("INSERT INTO notes VALUES ('after')")
    assert [row["text"] for row in database.query("SELECT text FROM notes")] == ["before", "after"]
    database.close()


@pytest.mark.parametrize("looked", [True, False])
def test_s25_nothing_behind_a_mount_point_is_removed(
    tmp_path: Path, mount: Mount, monkeypatch: pytest.MonkeyPatch, looked: bool
) -> None:
    """A bind mount of the same filesystem, which no comparison of device numbers tells; also when it comes late."""
    user = tmp_path / "user"
    user.mkdir()
    (user / "precious").write_text("data")
    target = tmp_path / "container" / "rootfs" / "data"
    target.mkdir(parents=True)
    mount("--bind", user, target)
    if not looked:
        monkeypatch.setattr("reconciler.linux.tree.mount_points_below", lambda path: ())
    with pytest.raises(HostError):
        remove_tree(tmp_path / "container", point="container.remove")
    assert (user / "precious").read_text() == "data"
    assert len(mount_points_below(tmp_path)) == 1


def test_s25_a_file_mounted_over_is_not_removed(tmp_path: Path, mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hosts").write_text("data")
    (tmp_path / "container").mkdir()
    (tmp_path / "container" / "hosts").touch()
    mount("--bind", tmp_path / "hosts", tmp_path / "container" / "hosts")
    monkeypatch.setattr("reconciler.linux.tree.mount_points_below", lambda path: ())
    with pytest.raises(HostError, match="busy"):
        remove_tree(tmp_path / "container", point="container.remove")
    assert (tmp_path / "hosts").read_text() == "data"


def test_an_immutable_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    image, point = tmp_path / "image", tmp_path / "ext4"
    image.write_bytes(b"")
    subprocess.run(["truncate", "-s", "8M", str(image)], check=True)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    point.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(point)], check=True)
    try:
        (point / "layer").mkdir()
        (point / "layer" / "file").touch()
        subprocess.run(["chattr", "+i", str(point / "layer" / "file")], check=True)
        with pytest.raises(HostError) as caught:
            remove_tree(point / "layer", point="layer.remove")
        assert "chattr -i" in caught.value.hint
        subprocess.run(["chattr", "-i", str(point / "layer" / "file")], check=True)
        assert remove_tree(point / "layer", point="layer.remove")
    finally:
        subprocess.run(["umount", str(point)], check=True)


def test_a_root_copied_while_something_of_it_is_mounted_is_refused(tmp_path: Path, mount: Mount) -> None:
    root, copy, run = tmp_path / "root", tmp_path / "copy", tmp_path / "run"
    root.mkdir(0o700)
    identity = claim_identity(root, run)
    shutil.copytree(root, copy)
    mounted = identity.run / "mounts" / "web"
    mounted.mkdir(parents=True)
    mount("-t", "tmpfs", "tmpfs", mounted)
    with pytest.raises(HostError, match="copied or moved while in use"):
        claim_identity(copy, run)
    assert claim_identity(root, run) == identity
