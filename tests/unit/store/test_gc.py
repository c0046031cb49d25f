"""What collection frees, and what it must never free."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.errors import HostError, IntegrityError
from reconciler.linux import watch
from reconciler.linux.lock import DirectoryLock
from reconciler.linux.tree import disk_usage
from reconciler.oci import media
from reconciler.oci.digest import Digest
from reconciler.oci.layers import chain_ids
from reconciler.store.collection.gc import Garbage, GcPlan
from reconciler.store.collection.marks import Marker, Root
from reconciler.store.collection.removal import Removal
from reconciler.store.images import Name
from reconciler.testing.faults import FaultAt

from .conftest import Store


def kinds(plan) -> dict[str, int]:
    found: dict[str, int] = {}
    for item in plan.garbage:
        found[item.kind] = found.get(item.kind, 0) + 1
    return found


def litter(store: Store, count: int) -> None:
    """Blobs that nothing needs, not synced one by one."""
    store.content.put(b"")
    for number in range(1, count):
        store.content.path(Digest.of(b"%d" % number)).write_bytes(b"%d" % number)


def everything(root: Path) -> dict[str, str]:
    """Every file below a root but the database's, with the hash of its bytes."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.startswith("state.db")
    }


class _FailAt:
    """Fails at every step of one name."""

    def __init__(self, step: str) -> None:
        self._step = step

    def __call__(self, phase: watch.Phase, operation: watch.Operation) -> None:
        if (phase, operation.name) == ("before", self._step):
            raise OSError(errno.EIO, "injected")


def test_an_empty_store_has_no_garbage(store: Store) -> None:
    assert store.gc.plan(()).garbage == ()


def test_s19_a_desired_image_without_a_container_stays(store: Store) -> None:
    image = store.add_image(b"one", b"two")
    before = everything(store.root)
    plan = store.gc.plan([Root("image", image.digest, "desired by shop")])
    assert plan.garbage == ()
    assert store.collect(plan, [Root("image", image.digest, "desired by shop")]).garbage == ()
    assert everything(store.root) == before


def test_s20_an_image_of_a_kept_generation_stays_and_one_before_it_goes(store: Store) -> None:
    old = store.add_image(b"shared", b"old")
    kept = store.add_image(b"shared", b"kept")
    roots = [Root("image", kept.digest, "generation 7")]
    plan = store.gc.plan(roots)
    # The manifest, the config and the top layer; the layer that both have stays, as blob and as directory.
    assert kinds(plan) == {"image": 1, "blob": 3, "layer": 1}
    store.collect(plan, roots)
    assert store.images.list() == (kept,)
    assert set(store.content.digests()) == set(kept.blobs)
    assert store.layers() == {chain.hex for chain in kept.chain_ids}
    assert not store.content.has(old.digest)


def test_collection_frees_exactly_what_was_listed_and_nothing_is_left(store: Store) -> None:
    store.add_image(b"one", b"two")
    (store.root / "layers" / ("ab" * 32)).mkdir()
    (store.root / "layers" / ("cd" * 32 + ".unpacking")).mkdir()
    (store.root / "ingest" / ("ef" * 32)).write_bytes(b"half a blob")
    plan = store.gc.plan(())
    assert kinds(plan) == {"image": 1, "layer": 4, "blob": 4, "partial": 1}
    late = store.content.put(b"written after the plan")
    assert store.collect(plan, ()) == plan
    assert set(store.content.digests()) == {late}
    assert store.layers() == set()
    assert list(store.content.partials()) == []
    assert store.database.query("SELECT * FROM layers") == []


def test_s52_collecting_twice_is_a_success_that_frees_nothing(store: Store) -> None:
    store.add_image(b"one")
    plan = store.gc.plan(())
    assert store.collect(plan, ()) == plan
    assert store.collect(plan, ()).garbage == ()
    assert store.gc.plan(()).garbage == ()


def test_what_came_into_use_after_the_plan_stays(store: Store) -> None:
    image = store.add_image(b"one", b"two")
    plan = store.gc.plan(())
    before = everything(store.root)
    assert store.collect(plan, [Root("image", image.digest, "a container was made")]).garbage == ()
    assert everything(store.root) == before


def test_a_name_protects_its_image_and_the_index_it_came_from(store: Store) -> None:
    index = store.content.put(b'{"manifests": []}')
    image = store.add_image(b"one", index=index)
    store.names.set(Name("docker.io/library/one:latest", image.digest, "", "tag"))
    assert store.gc.plan(()).garbage == ()
    store.names.remove("docker.io/library/one:latest")
    assert index in {item.id for item in store.gc.plan(()).garbage}


def test_an_image_named_by_its_index_protects_the_manifests_that_are_here(store: Store) -> None:
    image = store.add_image(b"one")
    index = store.content.put(
        b'{"schemaVersion":2,"mediaType":"%s","manifests":[{"mediaType":"%s","digest":"%s","size":1},'
        b'{"mediaType":"%s","digest":"%s","size":1}]}'
        % (
            media.OCI_INDEX.encode(),
            media.OCI_MANIFEST.encode(),
            image.digest.encode(),
            media.OCI_MANIFEST.encode(),
            Digest.of(b"another platform, not fetched").encode(),
        )
    )
    assert store.gc.plan([Root("image", index, "pinned")]).garbage == ()


def test_a_container_on_a_layer_protects_the_layers_below_it_but_no_others(store: Store) -> None:
    image = store.add_image(b"one", b"two", b"three")
    middle = image.chain_ids[1]
    roots = [Root("layer", middle, "container shop/web")]
    store.collect(store.gc.plan(roots), roots)
    assert store.layers() == {chain.hex for chain in image.chain_ids[:2]}


def test_s14_s18_a_lease_protects_what_is_on_its_way(store: Store) -> None:
    diffs = (Digest.of(b"tar one"), Digest.of(b"tar two"))
    chains = chain_ids(diffs)
    with store.leases.take("pull") as lease:
        lease.add([Digest.of(b"layer one"), Digest.of(b"layer two"), *chains])
        store.content.put(b"layer one")
        store.add_layer(chains[0], None, diffs[0])
        with store.content.ingest(Digest.of(b"layer two"), 9) as ingest:
            ingest.write(b"layer")
        (store.root / "layers" / f"{chains[1].hex}.unpacking").mkdir()
        plan = store.gc.plan(())
        assert plan.garbage == ()
    after = store.gc.plan(())
    assert kinds(after) == {"blob": 1, "layer": 2, "partial": 1}


def test_s21_a_lease_taken_after_the_plan_protects(store: Store) -> None:
    blob = store.content.put(b"a layer that two images share")
    plan = store.gc.plan(())
    with store.leases.take("pull", [blob]):
        assert store.collect(plan, ()).garbage == ()
        assert store.content.has(blob)


def test_s14_s21_pulls_beside_collections_lose_nothing(store: Store) -> None:
    """Four threads make images that share layers and drop them again, while the fifth collects all the time."""
    failures: list[Exception] = []

    def pull(thread: int) -> None:
        try:
            for turn in range(12):
                layers = (b"base", b"shared %d" % (turn % 3), b"own %d" % thread)
                diffs = tuple(Digest.of(b"tar " + layer) for layer in layers)
                with store.leases.take("pull", [Digest.of(layer) for layer in layers]) as lease:
                    lease.add(chain_ids(diffs))
                    missing = [layer for layer in layers if not store.content.has(Digest.of(layer))]
                    for layer in missing:
                        store.content.put(layer)
                    assert all(store.content.has(Digest.of(layer)) for layer in layers)
                    with store.database.transaction():
                        # The manifest and the config are written in here, so no lease on them is needed.
                        image = store.add_image(*layers)
                        store.names.set(Name(f"name/{thread}", image.digest, "", "tag"))
                assert all(store.content.has(blob) for blob in image.blobs)
                assert all((store.root / "layers" / chain.hex / "etc").is_dir() for chain in image.chain_ids)
                if turn % 2:
                    store.names.remove(f"name/{thread}")
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=pull, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    collections = 0
    while any(thread.is_alive() for thread in threads):
        store.collect(store.gc.plan(()), ())
        collections += 1
    assert failures == []
    assert collections > 1
    store.collect(store.gc.plan(()), ())
    assert store.layers() == set()
    assert list(store.content.digests()) == []


def test_s01_an_ingest_in_progress_is_not_garbage(store: Store) -> None:
    with store.content.ingest(Digest.of(b"0123456789"), 10) as ingest:
        ingest.write(b"01234")
        assert store.gc.plan(()).garbage == ()
        ingest.write(b"56789")
        ingest.commit()


def test_s08_a_layer_without_a_row_goes_unless_somebody_is_making_it(store: Store) -> None:
    finished, busy = "ab" * 32, "cd" * 32 + ".unpacking"
    for name in (finished, busy):
        (store.root / "layers" / name).mkdir(parents=True)
    with DirectoryLock(store.root / "layers" / busy).acquire(0):
        plan = store.gc.plan(())
        assert [item.id for item in plan.garbage] == [finished]
        store.collect(plan, ())
    assert store.layers() == {busy}
    assert [item.id for item in store.gc.plan(()).garbage] == [busy]


def test_a_row_whose_layer_vanished_is_freed_as_listed(store: Store) -> None:
    image = store.add_image(b"one")
    shutil.rmtree(store.root / "layers" / image.chain_ids[0].hex)
    plan = store.gc.plan(())
    assert kinds(plan)["layer"] == 1
    assert store.collect(plan, ()) == plan
    assert store.gc.plan(()).garbage == ()


def test_an_interrupted_removal_is_listed_and_ended(store: Store) -> None:
    image = store.add_image(b"one")
    with watch.observed(_FailAt("layer.remove:remove-tree")), pytest.raises(HostError):
        store.collect(store.gc.plan(()), ())
    (left,) = store.layers()
    assert left.startswith(f"{image.chain_ids[0].hex}.removed-")
    store.collect(store.gc.plan(()), ())
    assert store.layers() == set()


@pytest.mark.parametrize("damage", ["missing", "garbage"])
def test_s22_one_unreadable_manifest_stops_the_sweep(store: Store, damage: str) -> None:
    kept, gone = store.add_image(b"kept"), store.add_image(b"gone")
    roots = [Root("image", kept.digest, "desired")]
    plan = store.gc.plan(roots)
    path = store.content.path(kept.digest)
    path.unlink()
    if damage == "garbage":
        path.write_bytes(b"{}")
    before = everything(store.root)
    for attempt in (lambda: store.gc.plan(roots), lambda: store.collect(plan, roots)):
        with pytest.raises(IntegrityError, match="nothing was collected"):
            attempt()
    assert everything(store.root) == before
    assert store.images.get(gone.digest) == gone


def test_planning_writes_nothing(store: Store) -> None:
    store.add_image(b"one")
    (store.root / "ingest" / ("ef" * 32)).write_bytes(b"half a blob")
    store.database.close_pass()
    before = {path: path.stat() for path in store.root.rglob("*")}
    store.gc.plan(())
    after = {path: path.stat() for path in store.root.rglob("*")}
    assert {path: (s.st_mtime_ns, s.st_size) for path, s in before.items()} == {
        path: (s.st_mtime_ns, s.st_size) for path, s in after.items()
    }


def test_s13_no_row_is_left_without_its_bytes_wherever_collection_fails(store: Store) -> None:
    """Fails at every step in turn: each time the rows that are left have their files, and the next run ends it."""
    steps = 0
    while True:
        store.add_image(b"one", b"two")
        plan = store.gc.plan(())
        try:
            with watch.observed(FaultAt(steps + 1, errno.ENOSPC)):
                store.collect(plan, ())
        except HostError as error:
            assert "No space left" in str(error)
        else:
            break
        for image in store.images.list():
            assert all(store.content.has(blob) for blob in image.blobs)
        for row in store.database.query("SELECT chain_id FROM layers"):
            assert (store.root / "layers" / Digest(row["chain_id"]).hex / "etc" / "file").exists()
        store.collect(store.gc.plan(()), ())
        assert store.layers() == set()
        assert list(store.content.digests()) == []
        steps += 1
    assert steps > 10


def test_an_image_that_stays_keeps_what_it_shares_with_one_that_goes(store: Store) -> None:
    """Neither has a name, but only one is to go: the row of the other must not outlive its parts."""
    gone, stays = store.add_image(b"shared", b"one"), store.add_image(b"shared", b"two")
    plan = store.gc.plan((), among=[gone.digest])
    assert kinds(plan) == {"image": 1, "layer": 1, "blob": 3}
    assert store.collect(plan).garbage == plan.garbage
    assert store.images.list() == (stays,)
    assert all(store.content.has(blob) for blob in stays.blobs)
    assert store.layers() == {chain.hex for chain in stays.chain_ids}


def test_a_plan_without_its_images_frees_nothing_of_them(store: Store) -> None:
    store.add_image(b"one", b"two")
    whole = store.gc.plan(())
    before = everything(store.root)
    assert store.collect(GcPlan(tuple(item for item in whole.garbage if item.kind != "image"))).garbage == ()
    assert everything(store.root) == before


def test_a_layer_goes_with_its_list_of_files_and_both_count(store: Store) -> None:
    image = store.add_image(b"one")
    listed = store.root / "layers" / f"{image.chain_ids[0].hex}.files"
    listed.write_bytes(b"x" * 5000)
    (layer,) = (item for item in store.gc.plan(()).garbage if item.kind == "layer")
    assert layer.size == 8192 + disk_usage(store.root / "layers" / image.chain_ids[0].hex)
    store.collect(store.gc.plan(()))
    assert store.layers() == set()


def test_a_list_of_files_without_a_layer_is_garbage_unless_the_layer_is_in_the_making(store: Store) -> None:
    name = "ab" * 32
    (store.root / "layers" / f"{name}.unpacking").mkdir(parents=True)
    (store.root / "layers" / f"{name}.files").write_bytes(b"half")
    with DirectoryLock(store.root / "layers" / f"{name}.unpacking").acquire(0):
        assert store.gc.plan(()).garbage == ()
    assert kinds(store.gc.plan(())) == {"layer": 2}
    store.collect(store.gc.plan(()))
    assert store.layers() == set()


def test_bytes_freed_are_those_of_the_disk(store: Store) -> None:
    (store.root / "layers").mkdir()
    blob = store.content.put(os.urandom(100_000))
    holes = store.root / "layers" / ("ab" * 32)
    holes.mkdir()
    with (holes / "sparse").open("wb") as sparse:
        sparse.truncate(1 << 30)
        sparse.write(b"content")
    (holes / "link").hardlink_to(holes / "sparse")
    before = disk_usage(store.root / "blobs") + disk_usage(store.root / "layers")
    plan = store.gc.plan(())
    assert {item.id for item in plan.garbage} == {blob, holes.name}
    store.collect(plan)
    assert before - disk_usage(store.root / "blobs") - disk_usage(store.root / "layers") == plan.size


def test_what_is_not_ours_in_the_store_stands_in_nobodys_way(store: Store) -> None:
    store.add_image(b"one")
    name = "ef" * 32
    (store.root / "blobs" / "sha256" / name).mkdir()
    (store.root / "ingest" / name).mkdir()
    (store.root / "layers" / "lost+found").mkdir()
    (store.root / "blobs" / "sha256" / "note").write_bytes(b"")
    os.mkfifo(store.root / "layers" / f"{name}.unpacking")
    (store.root / "layers" / name).symlink_to("/etc")
    assert store.collect(store.gc.plan(())).garbage != ()
    assert store.gc.plan(()).garbage == ()
    assert store.layers() == {"lost+found"}
    assert Path("/etc/passwd").exists()


def test_layers_that_are_their_own_parents_end_no_collection(store: Store) -> None:
    image = store.add_image(b"one", b"two")
    with store.database.transaction() as connection:
        connection.execute("UPDATE layers SET parent = ? WHERE parent IS NULL", (image.chain_ids[1],))
    roots = [Root("layer", image.chain_ids[0], "damaged")]
    assert "layer" not in kinds(store.gc.plan(roots))


def test_one_layer_that_cannot_be_removed_holds_up_no_other(store: Store) -> None:
    images = [store.add_image(b"%d" % number) for number in range(3)]
    stuck = images[1].chain_ids[0].hex
    plan = store.gc.plan(())
    freed: list[Garbage] = []

    def fail(phase: watch.Phase, operation: watch.Operation) -> None:
        if (phase, operation.name) == ("before", "layer.remove:remove-tree") and stuck in str(operation.path):
            raise OSError(errno.EBUSY, "injected")

    with watch.observed(fail), pytest.raises(HostError, match="busy"):
        freed.extend(store.gc.collect(plan, tuple))
    assert {item.key for item in plan.garbage} - {item.key for item in freed} == {("layer", stuck)}
    assert [name[:64] for name in store.layers()] == [stuck]
    store.collect(store.gc.plan(()))
    assert store.layers() == set()


def test_two_collections_at_once_free_everything_once(store: Store) -> None:
    for number in range(8):
        store.add_image(b"shared", b"%d" % number)
    (store.root / "layers" / ("ab" * 32 + ".removed-00000000")).mkdir()
    plan = store.gc.plan(())
    other = Store.open(store.root)
    freed: list[Garbage] = []
    plans: list[GcPlan] = []

    def meanwhile(phase: watch.Phase, operation: watch.Operation) -> None:
        # In the middle of the first collection's removals: what it is at must not be taken for a leftover.
        if (phase, operation.name) == ("before", "layer.remove:remove-tree") and not plans:
            plans.append(GcPlan(()))
            plans.append(other.gc.plan(()))
            freed.extend(other.gc.collect(plan, tuple))

    with watch.observed(meanwhile):
        freed += store.gc.collect(plan, tuple)
    other.database.close()
    assert plans == [GcPlan(()), GcPlan(())]
    assert sorted(item.key for item in freed) == sorted(item.key for item in plan.garbage)
    assert store.layers() == set()


def test_a_lease_taken_between_the_rows_and_the_files_protects_the_files(store: Store) -> None:
    image = store.add_image(b"one")
    plan = store.gc.plan(())
    other = Store.open(store.root)
    leases = []

    def pull(phase: watch.Phase, operation: watch.Operation) -> None:
        rows = other.database.query("SELECT * FROM layers") if not leases else [True]
        if (phase, operation.name) == ("after", "database:commit") and not rows and not leases:
            leases.append(None)
            leases.append(other.leases.take("pull", [*image.blobs, *image.chain_ids]))

    with watch.observed(pull):
        freed = store.collect(plan)
    assert len(leases) == 2
    other.database.close()
    assert kinds(freed) == {"image": 1}  # the layer has lost its row, and whoever pulls unpacks it again
    assert all(store.content.has(blob) for blob in image.blobs)
    assert store.layers() == {image.chain_ids[0].hex}


def test_turns_are_short_and_bytes_go_outside_them(store: Store) -> None:
    litter(store, 500)
    layers = store.root / "layers"
    for number in range(500):
        (layers / f"{number:064x}").mkdir(parents=True)
    plan = store.gc.plan(())
    inside: list[list[str]] = []
    outside: list[str] = []
    turns = 0

    def note(phase: watch.Phase, operation: watch.Operation) -> None:
        if phase == "before":
            (inside[-1] if turns else outside).append(operation.name)

    @contextlib.contextmanager
    def turn() -> Iterator[None]:
        nonlocal turns
        inside.append([])
        turns += 1
        yield
        turns -= 1

    with watch.observed(note):
        assert len(list(store.gc.collect(plan, tuple, turn))) == 1000
    slow = {"layer.remove:remove-tree", "layer.remove:fsync-directory", "blob.remove:fsync-directory"}
    assert set(outside) == slow
    assert not any(slow & set(names) for names in inside)
    assert max(map(len, inside)) < 600


def test_marking_again_is_spared_when_nobody_wrote(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    litter(store, 300)
    store.names.set(Name("docker.io/library/kept:latest", store.add_image(b"kept").digest, "", "tag"))
    marked = []
    mark = Marker.mark
    monkeypatch.setattr(Marker, "mark", lambda *arguments: marked.append(1) or mark(*arguments))
    assert len(list(store.gc.collect(store.gc.plan(()), tuple))) == 300
    assert len(marked) == 1


def test_a_big_blob_is_out_of_sight_at_once_and_its_bytes_go_after_the_turn(store: Store) -> None:
    blob = store.content.put(bytes(3 << 20))
    removal = Removal(store.root / "layers", store.content)
    with removal:
        assert removal.take("blob", blob)
        assert not store.content.has(blob)
        assert any("(deleted)" in str(os.readlink(f"/proc/self/fd/{fd}")) for fd in removal._open)  # noqa: PTH115
    assert removal._open == []
    assert not removal.take("blob", blob)
