"""``verify_root`` on real roots: what is damaged is named with who needs it, and what is at work is left in peace."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reconciler.engine.embedded.engine import EmbeddedEngine
from reconciler.engine.embedded.upkeep.verify import verify_root
from reconciler.linux import mounts
from reconciler.oci.digest import Digest
from reconciler.store.check.damage import Report

if TYPE_CHECKING:
    from .conftest import Scene

pytestmark = pytest.mark.root


def found(report: Report) -> set[tuple[str, str, str]]:
    return {item.key for item in report.damage}


def test_a_root_in_order_is_clean_and_is_not_written_to(scene: Scene) -> None:
    before = {path: path.lstat().st_ctime_ns for path in scene.root.rglob("*")}
    report = scene.verify()
    assert report.is_clean and not report.leftovers, report.lines()
    assert (report.checked.images, report.checked.containers, report.checked.blobs) == (2, 1, 6)
    assert {path: path.lstat().st_ctime_ns for path in scene.root.rglob("*")} == before


def test_a_root_that_is_not_there_has_no_damage(tmp_path: Path) -> None:
    assert verify_root(tmp_path / "none").is_clean
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("part", ["manifest", "config", "layer"])
def test_s41_a_flipped_bit_in_any_blob_is_found_and_named_with_who_needs_it(scene: Scene, part: str) -> None:
    image = scene.image
    digest = {"manifest": image.digest, "config": image.config.digest, "layer": image.layers[0].digest}[part]
    scene.flip(scene.blob(digest))
    report = scene.verify()
    assert found(report) == {("blob", digest, "wrong-bytes")}
    assert report.damage[0].needed_by == (scene.name, "container shop/web")


def as_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def truncated(path: Path) -> None:
    os.truncate(path, 10)


@pytest.mark.parametrize(
    ("ruin", "code"),
    [(as_directory, "not-a-file"), (as_fifo, "not-a-file"), (as_link, "not-a-file"), (truncated, "wrong-bytes")],
)
def test_a_blob_that_is_something_else_is_damage_and_does_not_stop_the_check(
    scene: Scene, ruin: Callable[[Path], None], code: str
) -> None:
    digest = scene.image.layers[0].digest
    ruin(scene.blob(digest))
    assert ("blob", digest, code) in found(scene.verify())


def test_a_missing_blob_is_named_with_who_needs_it(scene: Scene) -> None:
    scene.blob(scene.other.config.digest).unlink()
    report = scene.verify()
    assert found(report) == {("blob", scene.other.config.digest, "missing")}
    assert report.damage[0].needed_by == (f"tag {scene.tag}",)


def test_layers_lost_or_replaced_are_damage(scene: Scene) -> None:
    first, second = scene.layer(scene.image.chain_ids[0]), scene.layer(scene.other.chain_ids[0])
    first.rename(scene.place / "lost")
    second.rename(scene.place / "moved")
    second.symlink_to(scene.place / "moved")
    assert found(scene.verify()) == {
        ("layer", scene.image.chain_ids[0], "no-directory"),
        ("layer", scene.other.chain_ids[0], "no-directory"),
    }


@pytest.mark.parametrize(
    ("sql", "damage"),
    [
        ("UPDATE images SET config_digest = 'sha256:xyz' WHERE digest = '{other}'", ("image", "{other}", "malformed")),
        ("UPDATE images SET layers = '[[1' WHERE digest = '{other}'", ("image", "{other}", "malformed")),
        ("UPDATE images SET layers = '[]' WHERE digest = '{other}'", ("image", "{other}", "wrong-row")),
        ("UPDATE images SET config_size = 7 WHERE digest = '{other}'", ("image", "{other}", "wrong-size")),
        ("UPDATE names SET name = '::' WHERE digest = '{other}'", ("name", "::", "malformed")),
        ("DELETE FROM images WHERE digest = '{other}'", ("name", "tag docker.io/library/other:1", "dangling")),
        ("DELETE FROM layers WHERE chain_id = '{base}'", ("layer", "{base}", "not-unpacked")),
        ("UPDATE layers SET parent = '{other}' WHERE chain_id = '{chain}'", ("layer", "{chain}", "wrong-row")),
        ("UPDATE layers SET diff_id = X'00' WHERE chain_id = '{chain}'", ("layer", "{chain}", "malformed")),
        ("UPDATE containers SET settings = '{{'", ("container", "{container}", "malformed")),
        ("UPDATE containers SET image = '{none}'", ("container", "{container}", "no-image")),
        ("INSERT INTO leases VALUES ('a', 'p', '{boot}', 1, 1, 1e12)", None),
        ("INSERT INTO lease_items VALUES ('a', 'x')", ("database", "lease_items", "dangling-row")),
        ("INSERT INTO volumes VALUES ('shop/data', '{{}}', '', 'shop/data', 0)", ("volume", "shop/data", "no-data")),
    ],
)
def test_rows_that_make_no_sense_are_damage(scene: Scene, sql: str, damage: tuple[str, str, str] | None) -> None:
    values = {
        "other": scene.other.digest,
        "chain": scene.other.chain_ids[0],
        "used": scene.image.chain_ids[0],
        "base": scene.image.chain_ids[0],
        "container": scene.container,
        "none": Digest.of(b"none"),
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
    }
    scene.execute(sql.format(**values))
    report = scene.verify()
    if damage is None:
        assert report.is_clean, report.lines()
    else:
        assert tuple(part.format(**values) for part in damage) in found(report), report.lines()


@pytest.mark.parametrize("ruin", ["one page", "garbage"])
def test_s35_a_damaged_database_is_damage_and_blobs_are_checked_all_the_same(scene: Scene, ruin: str) -> None:
    if ruin == "garbage":
        (scene.root / "state.db").write_bytes(b"\xff" * 9000)
    else:
        scene.flip(scene.root / "state.db", 8192)
    scene.flip(scene.blob(scene.image.digest))
    report = scene.verify()
    assert {"database", "blob"} <= {item.kind for item in report.damage}, report.lines()


@pytest.mark.parametrize("part", ["upper", "work", "layers", "spec.json"])
def test_a_container_that_lost_a_part_is_damage(scene: Scene, part: str) -> None:
    path = scene.root / "containers" / scene.container / part
    path.rename(scene.place / "lost")
    assert [item.id for item in scene.verify().damage] == [scene.container]


def test_what_nothing_claims_is_left_over_and_no_damage(scene: Scene) -> None:
    stray = b"stray"
    scene.blob(Digest.of(stray)).write_bytes(stray)
    (scene.root / "ingest" / ("0" * 64)).write_bytes(b"half")
    (scene.root / "layers" / ("1" * 64 + ".unpacking")).mkdir()
    (scene.root / "containers" / ("2" * 64)).mkdir()
    (scene.root / ".key.1234.tmp").write_bytes(b"")
    (scene.run / "rootfs" / ("3" * 64)).mkdir(parents=True)
    report = scene.verify()
    assert report.is_clean, report.lines()
    kinds = {item.kind for item in report.leftovers}
    assert kinds == {"blob", "partial", "layer", "container", "temporary", "runtime"}, report.lines()


def test_s25_a_mount_that_nobody_claims_is_left_over(scene: Scene) -> None:
    target = scene.root / "containers" / scene.container / "upper" / "mnt"
    target.mkdir()
    mounts.mount(mounts.Bind(scene.place, target))
    try:
        assert ("mount", str(target)) in {item.key for item in scene.verify().leftovers}
    finally:
        mounts.unmount(target)


def test_what_a_lease_protects_is_not_left_over(scene: Scene) -> None:
    stray = b"stray"
    with EmbeddedEngine(scene.root) as engine, engine.turn(5):
        state = engine.writer().state
        with state.leases.take("pull", [Digest.of(stray)]):
            state.content.put(stray)
            report = verify_root(scene.root, state=state)
    assert report.is_clean and not report.leftovers, report.lines()


def test_s46_a_root_that_others_can_read_is_damage(scene: Scene) -> None:
    scene.root.chmod(0o755)
    assert found(scene.verify()) == {("root", str(scene.root), "open-to-others")}
    scene.root.chmod(0o777)
    assert ("root", str(scene.root), "untrusted") in found(scene.verify())
    scene.root.chmod(0o700)


def test_layers_are_compared_with_their_lists_when_asked(scene: Scene) -> None:
    report = scene.verify(layers=True)
    assert report.is_clean and report.checked.files > 100, report.lines()
    chain_id = scene.image.chain_ids[0]
    scene.flip(scene.layer(chain_id) / "etc" / "app")
    assert scene.verify().is_clean
    report = scene.verify(layers=True)
    assert found(report) == {("layer", chain_id, "changed-files")}
    assert report.damage[0].details == ("etc/app: content",)
    assert report.damage[0].needed_by == (scene.name, "container shop/web")


def test_a_layer_without_a_list_cannot_be_compared_and_is_no_damage(scene: Scene) -> None:
    scene.layer(scene.image.chain_ids[0]).with_suffix(".files").unlink()
    report = scene.verify(layers=True)
    assert report.is_clean, report.lines()
    assert scene.image.chain_ids[0].short in report.notes[0]


def test_a_store_at_work_raises_no_false_alarm(scene: Scene) -> None:
    """Another process imports, removes and collects images all the while."""
    writer = subprocess.Popen([sys.executable, "-c", _AT_WORK, scene.root, scene.place])
    looks = 0
    try:
        while writer.poll() is None:
            report = scene.verify(layers=True)
            assert report.is_clean, report.lines()
            looks += 1
    finally:
        writer.kill() if writer.poll() is None else None
        writer.wait()
    assert writer.returncode == 0 and looks > 2


_AT_WORK = """
import sys
from pathlib import Path
from reconciler.engine.embedded.upkeep.collect import Collection
from reconciler.engine.embedded.engine import EmbeddedEngine
from reconciler.engine.embedded.perform import opener
from reconciler.model.resources import FileContent, Import
from reconciler.oci.digest import Digest
from reconciler.testing.images import archive, _file

root, place = Path(sys.argv[1]), Path(sys.argv[2])
for number in range(6):
    data = archive([_file("file", b"%d" % number * 300_000, 0o644)])
    path = place / "work.tar.gz"
    path.write_bytes(data)
    content = FileContent(str(path), Digest.of(data).hex, len(data))
    with EmbeddedEngine(root) as engine, engine.turn(60):
        engine.writer().images.import_archive(Import(content), opener(content))
    with EmbeddedEngine(root) as engine, engine.turn(60):
        collection = Collection(engine.writer())
        list(collection.collect(collection.plan()))
"""


# What a flipped bit in these does is no promise of the store: what a container wrote, and a lock or a log.
_NOT_OURS = ("upper/", "work/", "log", "exit/")


def test_a_flipped_bit_in_any_file_is_found_or_harmless_and_never_ends_the_check(scene: Scene) -> None:
    files = [path for path in sorted(scene.root.rglob("*")) if path.is_file() and not path.is_symlink()]
    kinds: dict[str, Path] = {}
    for path in files:
        inside = path.relative_to(scene.root)
        kind = "/".join(part for part in inside.parts[:-1] if len(part) < 64) + "/" + inside.suffix
        kinds.setdefault(kind if inside.parts[0] == "layers" else str(inside), path)
    assert len(kinds) > 12
    for path in kinds.values():
        inside = str(path.relative_to(scene.root))
        if path.stat().st_size == 0 or any(part in inside for part in _NOT_OURS):
            continue
        whole, status = path.read_bytes(), path.stat()
        scene.flip(path, len(whole) // 2)
        report = scene.verify(layers=True)
        path.write_bytes(whole)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        if path.name not in _HARMLESS:
            assert report.damage, f"a flipped bit in {inside} was not found"
    assert scene.verify(layers=True).is_clean


_HARMLESS = {"state.db", "key", "id", "hosts", "hostname", "resolv.conf", "spec.json", "config.json"}
"""Half of these cannot be told from what might have been there; none of them may end the check."""
