"""Collecting on a whole root: what stays, who keeps it, and that nobody waits for it."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.cli.main import main
from reconciler.engine.embedded.containers import volumes
from reconciler.engine.embedded.containers.rows import ContainerRow, Settings
from reconciler.engine.embedded.engine import EmbeddedEngine
from reconciler.engine.embedded.state import SCHEMAS, WriterState
from reconciler.engine.embedded.upkeep.ages import Moment
from reconciler.engine.embedded.upkeep.collect import Collection, collect
from reconciler.engine.port import Generation, GenerationEntry
from reconciler.errors import HostError
from reconciler.linux import mounts, watch
from reconciler.linux.lock import DirectoryLock
from reconciler.linux.tree import disk_usage
from reconciler.model.address import Address
from reconciler.oci.digest import Digest
from reconciler.store.database import WritableDatabase
from reconciler.store.identity import RUN
from reconciler.store.images import Name
from reconciler.testing import history
from reconciler.testing.big_store import build

from .conftest import Scene

pytestmark = pytest.mark.root

RETENTION = Address("retention", "shop")
YEAR = 365 * 86400.0


@pytest.fixture
def engine(scene: Scene) -> Iterator[EmbeddedEngine]:
    with EmbeddedEngine(scene.root) as engine, engine.turn(5):
        pass
    with EmbeddedEngine(scene.root) as engine:
        yield engine


def keep(engine: EmbeddedEngine, **rules: object) -> WriterState:
    """Records a retention rule; the state to write to, in the turn."""
    state = engine.writer().state
    state.facts.set(RETENTION, {**rules}, ["shop"])
    assert isinstance(state, WriterState)
    return state


def listed(engine: EmbeddedEngine) -> dict[str, str]:
    """What gc would free: ids and kinds. (The digest of an image is that of its manifest's blob, too.)"""
    return {item.id: item.kind for item in reversed(Collection(engine.view()).plan())}


def ended(state: WriterState, image: Digest, seconds_ago: float) -> str:
    """A container by hand that ended a while ago."""
    id_ = os.urandom(32).hex()
    now = time.time()
    row = ContainerRow(id_, None, None, {}, Settings(), image, now)
    state.containers.add(row)
    state.containers.update(id_, started_at=now - seconds_ago - 5, finished_at=now - seconds_ago, exit_code=0)
    (state.container_dir(id_) / "upper").mkdir(parents=True)
    return id_


def command(scene: Scene, capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(["--root", str(scene.root), *arguments]) == code
    captured = capsys.readouterr()
    return captured.out if code == 0 else captured.err


# What stays


def test_containers_go_by_the_rule_and_only_by_it(engine: EmbeddedEngine, scene: Scene) -> None:
    with engine.turn(5):
        state = engine.writer().state
        assert isinstance(state, WriterState)
        old, young = ended(state, scene.other.digest, 7200), ended(state, scene.other.digest, 60)
        assert listed(engine) == {}
        keep(engine, containers_exited_for=3600.0)
        assert listed(engine) == {old: "container"}
        keep(engine, containers_exited_for=9000.0)
        assert listed(engine) == {}
        keep(engine, containers_exited_for=0.0)
        assert listed(engine) == {old: "container", young: "container"}
        # One that is declared goes with its stack, never by a rule; and of several rules the longest counts.
        state.containers.update(scene.container, finished_at=time.time() - YEAR, started_at=1.0)
        state.facts.set(Address("retention", "other"), {"containers_exited_for": 3600.0}, ["other"])
        assert listed(engine) == {old: "container"}
        assert [item.id for item in Collection(engine.writer()).collect(Collection(engine.writer()).plan())] == [old]
        assert not state.container_dir(old).exists()
        assert [row.id for row in state.containers.all()] == [scene.container, young]


@pytest.mark.parametrize("jump", [10 * YEAR, -YEAR])
def test_s23_a_clock_that_jumps_makes_no_container_and_no_image_old(
    engine: EmbeddedEngine, scene: Scene, jump: float
) -> None:
    with engine.turn(5):
        state = keep(engine, containers_exited_for=3600.0, images_unused_for=3600.0, keep_generations=0)
        state.names.remove(scene.tag)
        now = Moment.now()
        # Until a minute ago this clock showed another date, by which things were dated.
        state.database.query("SELECT * FROM clock")
        with state.database.transaction() as connection:
            connection.execute("DELETE FROM clock")
            connection.execute("UPDATE images SET fetched_at = ?", (_date(now.wall - jump - 90),))
        state.clock.note(Moment(now.wall - jump - 7200, now.boot_time - 7200, now.boot))
        state.clock.note(Moment(now.wall - 60, now.boot_time - 60, now.boot))
        young, old = ended(state, scene.image.digest, jump + 90), ended(state, scene.image.digest, jump + 5000)
        assert listed(engine) == {old: "container"}
        assert young in {row.id for row in state.containers.all()}


def test_images_are_kept_until_they_were_unused_for_as_long_as_the_rule_says(
    engine: EmbeddedEngine, scene: Scene
) -> None:
    with engine.turn(5):
        state = keep(engine, images_unused_for=3600.0, keep_generations=0)
        state.names.remove(scene.tag)
        assert listed(engine) == {}
        with state.database.transaction() as connection:
            connection.execute("UPDATE images SET fetched_at = '2020-01-01T00:00:00Z'")
            connection.execute("UPDATE clock SET wall = wall - 7200, boot_time = boot_time - 7200")
        assert listed(engine)[scene.other.digest] == "image"
        state.generations.add(_generation(scene.other.digest), time.time())
        assert listed(engine) == {}
        keep(engine, images_unused_for=0.0, keep_generations=0)
        assert listed(engine)[scene.other.digest] == "image"
        keep(engine, keep_generations=1)
        assert listed(engine) == {}


def test_a_container_whose_image_lost_its_record_keeps_its_layers(engine: EmbeddedEngine, scene: Scene) -> None:
    with engine.turn(5):
        state = engine.writer().state
        state.images.remove(scene.image.digest)
        found = listed(engine)
        assert scene.image.digest in found
        assert not {chain.hex for chain in scene.image.chain_ids} & found.keys()


def test_s22_an_unreadable_manifest_stops_the_command_and_nothing_is_deleted(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.execute("DELETE FROM names WHERE name = ?", scene.tag)
    scene.blob(scene.image.digest).write_bytes(b"{}")
    before = sorted(path for path in scene.root.rglob("*") if "state.db" not in path.name)
    for arguments in (("gc",), ("gc", "--plan")):
        assert "nothing was collected" in command(scene, capsys, *arguments, code=1)
    assert sorted(path for path in scene.root.rglob("*") if "state.db" not in path.name) == before


# Mounts


@pytest.mark.parametrize("elsewhere", [False, True])
def test_s26_layers_that_an_overlay_shows_stay_until_it_is_gone(
    engine: EmbeddedEngine, scene: Scene, tmp_path: Path, elsewhere: bool
) -> None:
    """``elsewhere``: the mount lives on in a namespace that was copied before it was unmounted here."""
    target, empty = tmp_path / "shown", tmp_path / "empty"
    target.mkdir()
    empty.mkdir()
    with engine.turn(5):
        state = engine.writer().state
        mounts.mount(mounts.Overlay((*state.lowers(scene.other), empty), None, None, target))
        state.names.remove(scene.tag)
        layers = {chain.hex for chain in scene.other.chain_ids}
        holder = None
        try:
            if elsewhere:
                holder = subprocess.Popen(
                    ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 100"],
                    stdout=subprocess.PIPE,
                )
                assert holder.stdout is not None
                holder.stdout.readline()
                mounts.unmount(target)
            found = listed(engine)
            assert found[scene.other.digest] == "image"
            assert not layers & found.keys()
            list(Collection(engine.writer()).collect(Collection(engine.writer()).plan()))
            assert all((scene.root / "layers" / name).is_dir() for name in layers)
        finally:
            if holder is not None:
                holder.kill()
                holder.communicate()
            mounts.unmount(target)
        assert listed(engine) == dict.fromkeys(layers, "layer")


def test_s25_s26_a_busy_container_is_left_whole_and_goes_when_it_is_free(
    engine: EmbeddedEngine, scene: Scene, tmp_path: Path
) -> None:
    """A user's data is mounted in its directory, and somebody is in there."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "precious").write_text("precious")
    with engine.turn(5):
        state = keep(engine, containers_exited_for=60.0)
        busy, free = ended(state, scene.other.digest, 3600), ended(state, scene.other.digest, 3600)
        inside = state.container_dir(busy) / "upper" / "mnt"
        inside.mkdir()
        mounts.mount(mounts.Bind(data, inside))
        plan = Collection(engine.writer()).plan()
        holder = subprocess.Popen(["sleep", "100"], cwd=inside)
        try:
            with pytest.raises(HostError, match="in use"):
                list(Collection(engine.writer()).collect(plan))
            assert (inside / "precious").read_text() == "precious"
            assert not state.container_dir(free).exists()
        finally:
            holder.kill()
            holder.wait()
    with engine.turn(5):
        assert not state.container_dir(busy).exists()
        assert listed(engine) == {}
    assert (data / "precious").read_text() == "precious"


# Nobody waits


def test_others_write_while_a_big_collection_deletes_bytes(scene: Scene) -> None:
    """Whenever a layer's bytes go, another process could take the turn at once, and pulls, names and collects."""
    build(scene.root, images=20, layers=400, named=False)
    engine, other = EmbeddedEngine(scene.root), EmbeddedEngine(scene.root)
    sample = history.samples()[0]
    done: list[str] = []

    def write(number: int) -> None:
        with other.turn(0):
            state = other.writer().state
            if number % 5 == 0:
                history.store_image(state, sample, f"docker.io/library/new:{number}")
            else:
                state.names.set(Name(f"docker.io/library/new:{number}", scene.image.digest, "", "tag"))
        done.append(f"docker.io/library/new:{number}")

    def meanwhile(phase: watch.Phase, operation: watch.Operation) -> None:
        nonlocal seen
        if (phase, operation.name) == ("before", "layer.remove:remove-tree"):
            seen += 1
            if seen % 30 == 0:
                thread = threading.Thread(target=write, args=(len(done),))
                thread.start()
                thread.join(30)

    seen = 0
    with engine, other:
        plan = Collection(engine.view()).plan()
        with watch.observed(meanwhile):
            freed = list(collect(engine, plan, 5))
        assert seen == 400
        assert len(done) >= 10
        assert freed == plan
        names = {name.name for name in other.view().state.names.list()}
        assert names >= set(done)
        history.check_image(other.view().state, sample)
        assert listed(engine) == {}


def test_bytes_are_deleted_while_others_may_have_their_turn(engine: EmbeddedEngine, scene: Scene) -> None:
    aside = scene.root / "quarantine" / "layer-x"
    aside.mkdir(parents=True)
    (aside / "file").write_bytes(bytes(5000))
    with engine.turn(5):
        state = engine.writer().state
        row = volumes.ensure(state.root, state.volumes, "shop/data", form={}, owner="volume/shop/data")
        (row.path(state.root) / "file").write_bytes(bytes(5000))
        ended(keep(engine, containers_exited_for=1.0), scene.image.digest, YEAR)
    deleted = []

    def free(phase: watch.Phase, operation: watch.Operation) -> None:
        if (phase, operation.name) == ("before", "discard:remove-tree"):
            with DirectoryLock(scene.root).acquire(0):
                deleted.append(operation.path)

    with watch.observed(free):
        plan = [item for item in Collection(engine.view()).plan() if item.kind in ("container", "quarantine")]
        assert sorted(item.kind for item in plan) == ["container", "quarantine"]
        assert list(collect(engine, plan, 5)) == plan
        with engine.turn(5):
            volumes.delete(state.root, state.volumes, "shop/data")
            assert len(deleted) == 2, "a volume was deleted within the turn"
    assert len(deleted) == 3
    assert list(state.discards.directory.iterdir()) == []


# The peak that the system counts for a child begins with that of its parent, until it runs a program of its own.
_TELL_PEAK = """
import sys
from pathlib import Path
from reconciler.cli.main import main
code = main(sys.argv[1:])
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0], file=sys.stderr)
sys.exit(code)
"""


def test_a_store_of_thousands_opens_and_collects_in_time(tmp_path: Path, long_run: bool) -> None:
    """2,000 images of 20,000 layers: open in 2 s, collected in 30 s, in bounded memory. In processor time, which does
    not depend on who else is at work; in a short run, a fortieth of it all."""
    part = 1 if long_run else 40
    root = tmp_path / "root"
    names = build(root, images=2000 // part, layers=20_000 // part)

    def run(*arguments: str) -> tuple[float, float]:
        """Seconds of processor time and MiB at the most."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-c", _TELL_PEAK, "--root", root, *arguments]
        ended = subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return seconds, int(ended.stderr.split()[-1]) / 1024

    try:
        opened, _ = run("image", "tag", names[0], "big/more")
        removed, _ = run("image", "rm", *names[: len(names) // 2])
        with WritableDatabase(root, SCHEMAS).transaction() as connection:
            connection.execute("DELETE FROM names WHERE name != 'docker.io/big/more:latest'")
        collected, memory = run("gc")
    finally:
        shutil.rmtree(RUN / (root / "id").read_text().strip(), ignore_errors=True)
    started = 1.0  # an interpreter, on a busy machine
    assert opened < 2 / part + started
    assert removed < 30 / part + started
    assert collected < 30 / part + started
    assert memory < 200
    assert len(list((root / "layers").iterdir())) < 50


def test_the_command_tells_what_came_into_use_after_the_list(
    scene: Scene, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.execute("DELETE FROM names WHERE name = ?", scene.tag)
    plan = Collection.plan

    def then_named(self: Collection) -> list[object]:
        found = plan(self)
        scene.execute("INSERT INTO names VALUES (?, ?, '', 'tag')", scene.tag, scene.other.digest)
        return list(found)

    monkeypatch.setattr(Collection, "plan", then_named)
    assert main(["--root", str(scene.root), "gc"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "0 things, 0B freed.\n"
    assert "stay: they came into use" in captured.err
    monkeypatch.undo()
    assert json.loads(command(scene, capsys, "gc", "--plan", "-o", "json"))["items"] == []


def test_the_command_frees_exactly_what_it_listed_and_counts_the_bytes_of_the_disk(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.execute("DELETE FROM names WHERE name = ?", scene.tag)
    plan = json.loads(command(scene, capsys, "gc", "--plan", "-o", "json"))
    before = disk_usage(scene.root / "blobs") + disk_usage(scene.root / "layers")
    freed = json.loads(command(scene, capsys, "gc", "-o", "json"))
    assert freed == {**plan, "kept": 0}
    assert before - disk_usage(scene.root / "blobs") - disk_usage(scene.root / "layers") == plan["bytes"] > 0
    assert {kind: total["count"] for kind, total in plan["totals"].items()} == {"image": 1, "layer": 1, "blob": 3}
    assert "0 things, 0B freed." in command(scene, capsys, "gc")


def test_a_root_that_is_not_there_is_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(tmp_path / "none"), "gc"]) == 0
    assert capsys.readouterr().out == "0 things, 0B freed.\n"
    assert not (tmp_path / "none").exists()


# Why


def test_why_names_every_reason_with_the_way_to_it(
    engine: EmbeddedEngine, scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    with engine.turn(5):
        state = keep(engine, images_unused_for=1e9)
        state.entries.set(Address.parse(scene.name), {}, None)
        number = state.generations.add(_generation(scene.image.digest), time.time())
        state.close_pass()
    engine.close()
    layer = scene.image.chain_ids[0]
    document = json.loads(command(scene, capsys, "why", layer.hex[:12], "-o", "json"))
    assert (document["kind"], document["digest"], document["kept"]) == ("layer", layer, True)
    keepers = {(chain["keeper"]["kind"], chain["keeper"]["name"]) for chain in document["chains"]}
    wanted = {
        ("entry", "shop/app"),
        ("container", "shop/web"),
        ("generation", str(number)),
        ("retention", "unused_for"),
    }
    assert keepers == wanted
    assert {chain["things"][1]["part"] for chain in document["chains"]} == {"layer 1 of 1"}
    text = command(scene, capsys, "why", "shop/app")
    assert "kept by image shop/app: declared by stack shop" in text
    assert f"kept by generation {number}: image/shop/app of dir:/specs" in text
    assert "kept by name other:1: made by hand" in command(scene, capsys, "why", "other:1")


def test_why_tells_of_leases_and_of_what_nothing_keeps(
    scene: Scene, capsys: pytest.CaptureFixture[str], engine: EmbeddedEngine
) -> None:
    blob = scene.other.layers[0].digest
    with engine.turn(5):
        state = engine.writer().state
        state.names.remove(scene.tag)
        lease = state.leases.take("pull somewhere/else", [blob])
    engine.close()
    text = command(scene, capsys, "why", blob)
    assert "kept by lease pull somewhere/else: process" in text
    with engine_of(scene) as again, again.turn(5):
        again.writer().state.database.query("SELECT 1")
        with again.writer().state.database.transaction() as connection:
            connection.execute("DELETE FROM leases")
    del lease
    before = {path: path.stat().st_mtime_ns for path in scene.root.rglob("*")}
    text = command(scene, capsys, "why", blob[:20])
    assert "nothing keeps it: gc frees" in text
    assert "(no image refers to it)" in text
    document = json.loads(command(scene, capsys, "why", scene.other.digest, "-o", "json"))
    assert not document["kept"]
    assert document["chains"] == []
    assert {path: path.stat().st_mtime_ns for path in scene.root.rglob("*")} == before


def test_why_of_what_is_not_there_and_of_what_could_be_many(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing called 'nothere'" in command(scene, capsys, "why", "nothere", code=1)
    assert "begins with 0123456789" in command(scene, capsys, "why", "0123456789", code=1)
    digits = [digest.hex[0] for digest in (*scene.image.blobs, *scene.other.blobs)]
    shared = next(digit for digit in "0123456789abcdef" if digits.count(digit) > 1)
    told = command(scene, capsys, "why", shared, code=1)
    assert told.count("sha256:") >= 2
    assert "write more of the digest" in told
    assert command(scene, capsys, "why", scene.image.index_digest or scene.image.digest)


def engine_of(scene: Scene) -> EmbeddedEngine:
    return EmbeddedEngine(scene.root)


def _generation(image: Digest) -> Generation:
    entries = {Address("image", "shop/app"): GenerationEntry({}, image)}
    return Generation(frozenset({"shop"}), "dir:/specs", "", entries)


def _date(wall: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall))
