"""What the embedded engine keeps beside the kernel: rows, directories, name files. No root needed."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.engine.embedded.containers import volumes
from reconciler.engine.embedded.containers.mounts import ContainerMounts
from reconciler.engine.embedded.containers.name_files import NameFiles
from reconciler.engine.embedded.containers.rows import ContainerRow, Settings
from reconciler.engine.embedded.state import SCHEMAS, WriterState, was_cut_off
from reconciler.engine.embedded.upkeep.recovery import Recovery
from reconciler.errors import HostError
from reconciler.linux import watch
from reconciler.model.address import Address
from reconciler.model.resources import Container, Mount
from reconciler.oci.config import ImageConfig
from reconciler.oci.digest import Digest
from reconciler.store.database import WritableDatabase
from reconciler.store.identity import claim_identity

IMAGE = Digest.of(b"image")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[WriterState]:
    root = tmp_path / "root"
    root.mkdir(0o700)
    opened = WriterState(claim_identity(root, run=tmp_path / "run"), WritableDatabase(root, SCHEMAS))
    yield opened
    opened.close()


def container(state: WriterState, number: int, *, network: str = "network/shop/front", **settings: object) -> str:
    """A container that runs on one network, as far as rows and directories tell."""
    id_ = f"{number:064x}"
    row = ContainerRow(
        id_,
        f"shop/c{number}",
        Address("container", f"shop/c{number}"),
        {},
        Settings(hostname=id_[:12], **settings),  # type: ignore[arg-type]
        IMAGE,
        float(number),
    )
    state.containers.add(row)
    with state.database.transaction() as connection:
        connection.execute(
            "INSERT OR IGNORE INTO networks VALUES (?, '{}', ?, ?, '')", (network, "10.0.0.0/8", f"b-{network}")
        )
        connection.execute("INSERT INTO endpoints VALUES (?, ?, ?, 'eth0')", (id_, network, f"10.0.0.{number}"))
    (state.container_dir(id_) / "names").mkdir(parents=True)
    return id_


def hosts(state: WriterState, id_: str) -> str:
    return (state.container_dir(id_) / "names" / "hosts").read_text()


# Name files


def test_peers_on_one_network_know_each_other_and_no_others(state: WriterState) -> None:
    first, second = container(state, 2), container(state, 3)
    other = container(state, 4, network="network/shop/back")
    NameFiles(state).refresh({"network/shop/front"})
    assert "10.0.0.3\tc3" in hosts(state, first)
    assert "10.0.0.2\tc2" in hosts(state, second)
    assert "10.0.0.4" not in hosts(state, first)
    assert not (state.container_dir(other) / "names" / "hosts").exists()


def test_hosts_files_end_up_right_when_many_containers_start_at_once(state: WriterState) -> None:
    files = NameFiles(state)
    ids: list[str] = []

    def start(number: int) -> None:
        ids.append(container(state, number))
        files.refresh({"network/shop/front"})

    threads = [threading.Thread(target=start, args=(number,)) for number in range(2, 22)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for id_ in ids:
        assert sum(line.startswith("10.0.0.") for line in hosts(state, id_).splitlines()) == 20


def test_name_files_can_be_read_by_everyone_whatever_the_umask(state: WriterState) -> None:
    row = state.containers.get(container(state, 2))
    before = os.umask(0o077)
    try:
        NameFiles(state).write(row, ())
    finally:
        os.umask(before)
    names = state.container_dir(row.id) / "names"
    assert {path.stat().st_mode & 0o777 for path in names.iterdir()} == {0o644}


def test_a_hosts_file_is_rewritten_in_place_and_cut_to_length(state: WriterState) -> None:
    row = state.containers.get(container(state, 2))
    path = state.container_dir(row.id) / "names" / "hosts"
    path.write_text("x" * 10_000)
    inode = path.stat().st_ino
    NameFiles(state).write(row, ())
    assert path.stat().st_ino == inode
    assert "x" not in path.read_text().replace("ip6", "")


# Volumes


def test_a_volume_that_was_deleted_begins_empty(state: WriterState) -> None:
    row = volumes.ensure(state.root, state.volumes, "shop/data", form={}, owner="volume/shop/data")
    (row.path(state.root) / "old").write_text("old")
    volumes.delete(state.root, state.volumes, "shop/data")
    row = volumes.ensure(state.root, state.volumes, "shop/data", form={}, owner="volume/shop/data")
    assert list(row.path(state.root).iterdir()) == []


@pytest.mark.parametrize("step", ["discard:rename", "discard:fsync-directory", "database:commit"])
def test_a_deletion_that_was_cut_off_leaves_no_old_data_and_no_leak(state: WriterState, step: str) -> None:
    row = volumes.ensure(state.root, state.volumes, "shop/data", form={}, owner="volume/shop/data")
    (row.path(state.root) / "old").write_text("old")
    state.discards.directory.mkdir()

    def cut(phase: watch.Phase, operation: watch.Operation) -> None:
        if (phase, operation.name) == ("before", step):
            raise KeyboardInterrupt

    with watch.observed(cut), pytest.raises(KeyboardInterrupt):
        volumes.delete(state.root, state.volumes, "shop/data")
    row = volumes.ensure(state.root, state.volumes, "shop/data", form={}, owner="volume/shop/data")
    left = [path.name for path in row.path(state.root).iterdir()]
    assert left == (["old"] if step == "discard:rename" else [])  # before that, nothing had happened yet
    assert [path.name for path in (state.root / "volumes").iterdir()] == ["shop"]
    state.discards.empty()
    assert list(state.discards.directory.iterdir()) == []


def test_x52_anonymous_volumes_of_a_container_that_could_not_be_made_go(state: WriterState) -> None:
    mounts = ContainerMounts(state)
    wanted = Container(Address("image", "shop/app"), mounts=(Mount("volume", "", "/data"),))
    made = mounts.anonymous(wanted, ImageConfig.parse(b'{"rootfs": {"type": "layers", "diff_ids": []}}'), None)
    assert len(state.volumes.all()) == 1
    mounts.drop_orphans(made.values())
    assert not state.volumes.all()
    assert list((state.root / "volumes" / "anonymous").iterdir()) == []


def test_an_inherited_anonymous_volume_stays_when_the_successor_cannot_be_made(state: WriterState) -> None:
    mounts = ContainerMounts(state)
    volumes.ensure(state.root, state.volumes, "a" * 32, form={}, owner="")
    old = state.containers.get(container(state, 2, anonymous=(("a" * 32, "/data"),)))
    wanted = Container(Address("image", "shop/app"), mounts=(Mount("volume", "", "/data"),))
    made = mounts.anonymous(wanted, ImageConfig.parse(b'{"rootfs": {"type": "layers", "diff_ids": []}}'), old)
    assert made == {"/data": "a" * 32}
    mounts.drop_orphans(made.values())
    assert "a" * 32 in state.volumes.all()


def test_volumes_named_by_people_are_not_anonymous(state: WriterState) -> None:
    declared = volumes.ensure(state.root, state.volumes, "shop/data", form={}, owner="volume/shop/data")
    volumes.disown(state.volumes, declared)
    by_hand = volumes.ensure(state.root, state.volumes, "data", form={}, owner="volume/data")
    made = volumes.ensure(state.root, state.volumes, "b" * 32, form={}, owner="")
    assert [row.anonymous for row in (state.volumes.get("shop/data"), by_hand, made)] == [False, False, True]


# Turns


def test_a_turn_that_ends_is_told_from_one_that_was_cut_off(state: WriterState) -> None:
    container(state, 2)
    assert was_cut_off(state.root)
    state.close_pass()
    assert not was_cut_off(state.root)
    assert not was_cut_off(state.root / "missing")


def test_what_cannot_be_cleared_away_does_not_end_a_turn(state: WriterState, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    class Stuck:
        """Containers and wiring that fail at everything."""

        def resume_left(self) -> None:
            raise HostError("the control group does not answer")

        def reap(self, rows: object) -> list[ContainerRow]:
            done.append("reap")
            return []

        def tasks(self) -> tuple[str, ...]:
            return ("f" * 64,)

        def discard(self, container_id: str) -> None:
            done.append(f"discard {container_id[:3]}")
            raise HostError("busy")

        def sweep(self, _rows: object) -> None:
            done.append("sweep")
            raise HostError("nft is not installed")

    stuck: Any = Stuck()
    Recovery(state, stuck, ContainerMounts(state), lambda: stuck).run(cut_off=True)
    assert done == ["reap", "discard fff", "sweep"]
