"""``repair_root`` on damaged roots: what can be had again is made good, what cannot is kept and named."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reconciler.engine.embedded.engine import EmbeddedEngine
from reconciler.engine.embedded.state import open_reader
from reconciler.engine.embedded.upkeep.collect import Collection
from reconciler.engine.embedded.upkeep.rebuild import RECOVERED
from reconciler.engine.embedded.upkeep.repair import repair_root
from reconciler.engine.port import Generation
from reconciler.errors import HostError
from reconciler.linux import watch
from reconciler.oci.digest import Digest
from reconciler.store.check.damage import Repaired, Report
from reconciler.testing.faults import FaultAt

if TYPE_CHECKING:
    from .conftest import Scene

pytestmark = pytest.mark.root


def repair(scene: Scene, *, layers: bool = False) -> tuple[list[Repaired], Report]:
    with EmbeddedEngine(scene.root) as engine:
        _, repaired, after = repair_root(engine, layers=layers, timeout=5)
    return repaired, after


def names(scene: Scene) -> set[str]:
    state = open_reader(scene.root)
    try:
        return {name.name for name in state.names.list()}
    finally:
        state.close()


def quarantined(scene: Scene) -> list[str]:
    directory = scene.root / "quarantine"
    return sorted(path.name.split("-")[0] for path in directory.iterdir()) if directory.is_dir() else []


def test_there_is_nothing_to_repair_in_a_root_in_order(scene: Scene) -> None:
    repaired, after = repair(scene, layers=True)
    assert repaired == [] and after.is_clean
    assert quarantined(scene) == []


def test_s41_a_blob_of_an_image_that_came_from_no_registry_is_kept_aside_and_its_image_lacks_it(scene: Scene) -> None:
    digest = scene.image.layers[0].digest
    scene.flip(scene.blob(digest))
    repaired, after = repair(scene)
    assert [(item.id, item.done) for item in repaired] == [(digest, False)]
    assert "no registry is known" in repaired[0].text
    assert [(item.code, item.needed_by) for item in after.damage] == [("missing", (scene.name, "container shop/web"))]
    assert quarantined(scene) == ["blob"]
    assert repair(scene)[1].damage == after.damage  # again: the same, and nothing more
    assert quarantined(scene) == ["blob"]


def test_a_blob_that_nothing_needs_is_put_aside(scene: Scene) -> None:
    stray = scene.blob(Digest.of(b"stray"))
    stray.write_bytes(b"something else")
    assert repair(scene)[1].is_clean
    assert quarantined(scene) == ["blob"]


def test_gc_frees_what_was_put_aside_of_the_store_and_nothing_that_is_somebodys(scene: Scene) -> None:
    scene.blob(Digest.of(b"stray")).write_bytes(b"something else")
    scene.execute("UPDATE containers SET settings = '{'")
    assert repair(scene)[1].is_clean
    assert quarantined(scene) == ["blob", "container"]
    with EmbeddedEngine(scene.root) as engine, engine.turn(5):
        collection = Collection(engine.writer())
        freed = list(collection.collect([item for item in collection.plan() if item.kind == "quarantine"]))
    assert len(freed) == 1 and freed[0].size > 0
    assert quarantined(scene) == ["container"]


def test_a_fifo_a_directory_and_a_link_in_the_place_of_blobs_are_put_aside(scene: Scene) -> None:
    for number, make in enumerate((os.mkfifo, os.mkdir, lambda path: path.symlink_to("/etc/passwd"))):
        make(scene.blob(Digest.of(b"%d" % number)))
    assert repair(scene)[1].is_clean
    assert quarantined(scene) == ["blob"] * 3


@pytest.mark.parametrize("ruin", ["changed", "lost", "link", "list", "no list"])
def test_a_layer_is_unpacked_again_from_its_blob(scene: Scene, ruin: str) -> None:
    chain_id = scene.image.chain_ids[0]
    layer, files = scene.layer(chain_id), scene.layer(chain_id).with_suffix(".files")
    match ruin:
        case "changed":
            scene.flip(layer / "etc" / "app")
            (layer / "bin" / "sh").unlink()
            (layer / "etc" / "passwd").chmod(0o777)
        case "lost":
            layer.rename(scene.place / "lost")
        case "link":
            layer.rename(scene.place / "lost")
            layer.symlink_to(scene.place / "lost")
        case "list":
            files.write_bytes(files.read_bytes()[:-20])
        case "no list":
            files.unlink()
    repaired, after = repair(scene, layers=True)
    assert after.is_clean, after.lines()
    if ruin != "no list":
        assert any(item.done and item.id == chain_id for item in repaired)
    assert (layer / "etc" / "app").read_text() == "app" and not layer.is_symlink()
    assert scene.verify(layers=True).is_clean


def test_a_damaged_layer_stays_when_its_blob_cannot_be_had(scene: Scene) -> None:
    """What is damaged in one file may still run; nothing at all does not."""
    chain_id = scene.image.chain_ids[0]
    scene.flip(scene.layer(chain_id) / "etc" / "app")
    scene.blob(scene.image.layers[0].digest).unlink()
    repaired, after = repair(scene, layers=True)
    assert [item.done for item in repaired] == [False, False]
    assert {item.code for item in after.damage} == {"missing", "changed-files"}
    assert (scene.layer(chain_id) / "etc" / "app").exists()


def test_a_damaged_layer_is_put_back_when_it_cannot_be_unpacked(scene: Scene) -> None:
    chain_id = scene.image.chain_ids[0]
    scene.flip(scene.layer(chain_id) / "etc" / "app")
    failed: list[str] = []

    def fail(phase: watch.Phase, operation: watch.Operation) -> None:
        if operation.kind == "syncfs" and phase == "before":
            failed.append(operation.name)
            raise OSError(errno.EIO, "injected")

    with watch.observed(fail):
        repaired, _ = repair(scene, layers=True)
    assert failed and [item.done for item in repaired] == [False]
    assert (scene.layer(chain_id) / "etc" / "app").exists()
    assert [item.details for item in scene.verify(layers=True).damage] == [("etc/app: content",)]


@pytest.mark.parametrize(
    ("sql", "lost"),
    [
        ("UPDATE images SET config_digest = 'sha256:xyz' WHERE digest = '{other}'", ""),
        ("UPDATE images SET layers = '[[1' WHERE digest = '{other}'", ""),
        ("UPDATE images SET config_size = 7 WHERE digest = '{other}'", ""),
        ("DELETE FROM images WHERE digest = '{other}'", ""),
        ("UPDATE names SET name = '::' WHERE digest = '{other}'", "docker.io/library/other:1"),
        ("UPDATE images SET digest = 'x' WHERE digest = '{other}'", ""),
        ("DELETE FROM layers", ""),
        ("UPDATE layers SET parent = '{other}'", ""),
        ("UPDATE layers SET diff_id = X'00'", ""),
        ("INSERT INTO lease_items VALUES ('a', 'x')", ""),
        ("INSERT INTO leases VALUES ('a', 'p', '{boot}', 1, 1, 1e12)", ""),
    ],
)
def test_rows_are_written_again_from_what_is_on_disk(scene: Scene, sql: str, lost: str) -> None:
    before = names(scene)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    scene.execute(sql.format(other=scene.other.digest, boot=boot))
    _, after = repair(scene)
    assert after.is_clean, after.lines()
    assert names(scene) == before - {lost}
    assert scene.verify(layers=True).is_clean


def test_a_container_whose_row_makes_no_sense_is_forgotten_and_its_files_are_kept(scene: Scene) -> None:
    (scene.root / "containers" / scene.container / "upper" / "mine").write_text("precious")
    scene.execute("UPDATE containers SET settings = '{'")
    repaired, after = repair(scene)
    assert after.is_clean, after.lines()
    (aside,) = (scene.root / "quarantine").iterdir()
    assert (aside / "upper" / "mine").read_text() == "precious"
    assert str(aside) in repaired[0].text


@pytest.mark.parametrize("ruin", ["garbage", "zero bytes", "truncated", "one page", "missing"])
def test_s35_a_lost_database_is_made_again_from_what_is_on_disk(scene: Scene, ruin: str) -> None:
    before, database = names(scene), scene.root / "state.db"
    whole = database.read_bytes()
    match ruin:
        case "missing":
            database.unlink()
        case "one page":
            scene.flip(database, 8192)
        case _:
            database.write_bytes({"garbage": os.urandom(9000), "zero bytes": b"", "truncated": whole[:20000]}[ruin])
    with EmbeddedEngine(scene.root) as engine, pytest.raises(HostError), engine.turn(5):
        pass
    repaired, after = repair(scene)
    assert after.is_clean, after.lines()
    assert (after.checked.images, after.checked.containers, after.checked.layers) == (2, 1, 2)
    with EmbeddedEngine(scene.root) as engine:
        (row,) = engine.view().state.containers.all()
        assert (row.id, row.name, row.image) == (scene.container, "shop/web", scene.image.digest)
    # Names survive where their table could be read; each image that lost its own has another, so that gc keeps it.
    now = names(scene)
    assert now == before or all(name.startswith(f"{RECOVERED}:") for name in now - before)
    assert len(now) == 2
    assert quarantined(scene) == ([] if ruin == "missing" else ["database"])
    assert any(item.kind == "database" and item.done for item in repaired)
    assert scene.verify(layers=True).is_clean


def test_s35_what_cannot_be_read_comes_from_the_backup_of_the_last_recorded_apply(scene: Scene) -> None:
    with EmbeddedEngine(scene.root) as engine:
        with engine.turn(5):
            engine.record(Generation(frozenset({"shop"}), "specs", "", {}))
        with engine.turn(5):  # after the backup: what it still names is gone by now
            engine.writer().state.names.remove(scene.tag)
            engine.writer().state.images.remove(scene.other.digest)
            list(Collection(engine.writer()).collect(Collection(engine.writer()).plan()))
    (scene.root / "state.db").write_bytes(os.urandom(9000))
    _, after = repair(scene)
    assert after.is_clean, after.lines()
    assert names(scene) == {scene.name}
    with EmbeddedEngine(scene.root) as engine:
        assert [generation.number for generation in engine.generations()] == [1]
        assert [row.name for row in engine.view().state.containers.all()] == ["shop/web"]


def test_a_database_of_a_newer_version_is_not_made_again(scene: Scene) -> None:
    scene.execute("UPDATE schema_versions SET version = 99")
    before = (scene.root / "state.db").read_bytes()
    assert [item.code for item in scene.verify().damage] == ["unreadable"]
    with pytest.raises(HostError, match="newer version"):
        repair(scene)
    assert (scene.root / "state.db").read_bytes() == before


def test_s35_a_container_of_an_older_version_is_adopted_as_nobodys(scene: Scene) -> None:
    spec = scene.root / "containers" / scene.container / "spec.json"
    document = json.loads(spec.read_text())
    del document["record"]
    spec.write_text(json.dumps(document))
    (scene.root / "state.db").unlink()
    assert repair(scene)[1].is_clean
    with EmbeddedEngine(scene.root) as engine:
        (row,) = engine.view().state.containers.all()
        assert (row.shown, row.address, row.image) == (f"recovered_{row.short_id}", None, scene.image.digest)
        assert row.settings.args == ("sleep", "3600")


def test_s35_a_rebuild_that_is_cut_off_anywhere_is_done_by_the_next(scene: Scene) -> None:
    """Killed before each durable step; the database is whole, damaged or missing in between, but never empty."""
    database = scene.root / "state.db"
    step = 0
    while True:
        step += 11
        database.write_bytes(os.urandom(9000))
        (scene.root / "state.db-wal").write_bytes(os.urandom(500))
        pid = os.fork()
        if pid == 0:
            with watch.observed(FaultAt(step)):
                repair(scene)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        _, after = repair(scene)
        assert after.is_clean, (step, after.lines())
        assert (after.checked.images, after.checked.containers) == (2, 1)
        if os.waitstatus_to_exitcode(status) == 0:
            return


def test_an_immutable_blob_is_said_to_be_so_and_the_rest_is_repaired(scene: Scene) -> None:
    first, second = scene.blob(Digest.of(b"1")), scene.blob(Digest.of(b"2"))
    for path in (first, second):
        path.write_bytes(b"wrong")
    subprocess.run(["chattr", "+i", first], check=True)
    try:
        repaired, after = repair(scene)
        assert [item.id for item in after.damage] == [f"sha256:{first.name}"]
        assert any("chattr -i" in item.text for item in repaired if not item.done)
    finally:
        subprocess.run(["chattr", "-i", first], check=True)
    assert repair(scene)[1].is_clean


def test_modes_are_closed_and_a_root_that_others_can_write_is_left_to_its_owner(scene: Scene) -> None:
    scene.root.chmod(0o755)
    (scene.root / "key").chmod(0o644)
    assert repair(scene)[1].is_clean
    assert (scene.root.stat().st_mode & 0o777, (scene.root / "key").stat().st_mode & 0o777) == (0o700, 0o600)
    scene.root.chmod(0o777)
    with pytest.raises(HostError, match="can be written by others"):
        repair(scene)
    scene.root.chmod(0o700)
