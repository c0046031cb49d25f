"""A root is only used when it is the one it claims to be."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from reconciler.errors import HostError
from reconciler.linux import watch
from reconciler.linux.configured_mounts import unmounted_above
from reconciler.store import identity as identity_module
from reconciler.store.identity import claim_identity, prepare_root, read_identity
from reconciler.testing.faults import FaultAt


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def test_a_new_root_gets_an_identity_once(root: Path, run: Path) -> None:
    first = claim_identity(root, run)
    assert first.exists
    assert first.run == run / first.id
    assert claim_identity(root, run) == first == read_identity(root, run)
    assert (root / "key").stat().st_mode & 0o777 == 0o600
    assert len((root / "key").read_bytes()) == 32


def test_prepare_makes_a_closed_directory_once(tmp_path: Path) -> None:
    root = tmp_path / "new"
    prepare_root(root)
    prepare_root(root)
    assert root.stat().st_mode & 0o777 == 0o700


def test_a_reader_writes_nothing(root: Path, run: Path) -> None:
    for path in (root, root / "not-there"):
        identity = read_identity(path, run)
        assert not identity.exists
        assert identity.seal(b"secret") == identity.seal(b"secret")
    assert list(root.iterdir()) == []
    assert not run.exists()


def test_a_seal_tells_equal_values_and_nothing_else(root: Path, run: Path, tmp_path: Path) -> None:
    ours = claim_identity(root, run)
    other_root = tmp_path / "other"
    prepare_root(other_root)
    other = claim_identity(other_root, run)
    assert ours.seal(b"secret") == claim_identity(root, run).seal(b"secret")
    assert ours.seal(b"secret") != ours.seal(b"Secret")
    assert ours.seal(b"secret") != other.seal(b"secret")
    assert ours.id != other.id
    assert "secret" not in repr(ours)
    assert str(ours.key) not in repr(ours)


def test_s46_a_symbolic_link_is_refused(root: Path, run: Path, tmp_path: Path) -> None:
    claim_identity(root, run)
    link = tmp_path / "link"
    link.symlink_to(root)
    for use in (claim_identity, read_identity):
        with pytest.raises(HostError, match="symbolic link"):
            use(link, run)
    with pytest.raises(HostError, match="symbolic link"):
        prepare_root(link)


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_s46_a_directory_that_others_can_write_is_refused(root: Path, run: Path, mode: int) -> None:
    root.chmod(mode)
    for use in (claim_identity, read_identity):
        with pytest.raises(HostError, match=f"{mode:04o}"):
            use(root, run)
    assert list(root.iterdir()) == []


def test_s46_a_writer_closes_the_directory_to_others(root: Path, run: Path) -> None:
    root.chmod(0o755)
    read_identity(root, run)
    assert root.stat().st_mode & 0o777 == 0o755
    claim_identity(root, run)
    assert root.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("state", ["state.db", "blobs", "layers", "containers"])
def test_s47_a_root_that_lost_its_id_is_not_started_afresh(root: Path, run: Path, state: str) -> None:
    (root / state).mkdir()
    for use in (claim_identity, read_identity):
        with pytest.raises(HostError, match="id is missing"):
            use(root, run)
    assert [path.name for path in root.iterdir()] == [state]


def test_s47_an_empty_mount_point_is_not_started_afresh(
    root: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fstab").write_text(f"/dev/vdb {root.resolve()} ext4 defaults 0 2\n")
    monkeypatch.setattr(identity_module, "unmounted_above", partial(unmounted_above, etc=tmp_path))
    for use in (read_identity, claim_identity, prepare_root):
        if use is prepare_root:
            root.rmdir()
        with pytest.raises(HostError, match="nothing is mounted at"):
            use(root, run)
    assert not root.exists() and not run.exists()


def test_s47_a_disk_that_was_taken_away_in_use_is_not_started_afresh(root: Path, run: Path) -> None:
    (claim_identity(root, run).run / "tasks").mkdir()
    root.rename(root.with_name("unmounted"))
    root.mkdir(0o700)
    with pytest.raises(HostError, match="a root of that name is in use"):
        claim_identity(root, run)
    assert list(root.iterdir()) == []


@pytest.mark.parametrize(("name", "content"), [("id", b"zz"), ("id", b""), ("key", b"short"), ("key", None)], ids=repr)
def test_a_damaged_identity_is_an_error(root: Path, run: Path, name: str, content: bytes | None) -> None:
    claim_identity(root, run)
    (root / name).unlink()
    if content is not None:
        (root / name).write_bytes(content)
    for use in (claim_identity, read_identity):
        with pytest.raises(HostError, match=name):
            use(root, run)


def test_an_identity_whose_making_was_cut_short_is_made_at_the_next_try(tmp_path: Path) -> None:
    for step in range(1, 20):
        root, run = tmp_path / f"root-{step}", tmp_path / f"run-{step}"
        root.mkdir(0o700)
        try:
            with watch.observed(FaultAt(step, 28)):
                claim_identity(root, run)
        except HostError:
            assert claim_identity(root, run) == read_identity(root, run)
        else:
            break
    assert step > 8


def test_what_a_killed_writer_left_is_swept(root: Path, run: Path) -> None:
    (root / ".id.0123.tmp").write_bytes(b"half")
    claim_identity(root, run)
    assert {path.name for path in root.iterdir()} == {"id", "key"}


def test_a_root_that_moved_while_nothing_was_mounted_is_taken_as_it_is(root: Path, run: Path, tmp_path: Path) -> None:
    before = claim_identity(root, run)
    moved = tmp_path / "moved"
    root.rename(moved)
    assert claim_identity(moved, run).id == before.id


def test_a_root_that_was_copied_or_moved_while_active_is_refused(
    root: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = claim_identity(root, run)
    moved = tmp_path / "moved"
    os.rename(root, moved)  # noqa: PTH104
    mounted = identity.run / "mounts" / "web"
    monkeypatch.setattr(identity_module, "mount_points_below", lambda top: (mounted,) if top == identity.run else ())
    with pytest.raises(HostError, match="copied or moved while in use"):
        claim_identity(moved, run)
    moved.rename(root)
    assert claim_identity(root, run) == identity
