"""Blobs: nothing is visible before it is verified and on disk."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.errors import HostError, IntegrityError, InvalidError, NotFoundError
from reconciler.linux import watch
from reconciler.oci.digest import Digest
from reconciler.store.content import ContentStore
from reconciler.testing.faults import FaultAt

DATA = b"0123456789" * 100
DIGEST = Digest.of(DATA)


@pytest.fixture
def content(root: Path) -> ContentStore:
    return ContentStore(root)


def test_asking_a_store_that_does_not_exist_makes_nothing(content: ContentStore, root: Path) -> None:
    assert not content.has(DIGEST)
    assert list(content.digests()) == []
    assert list(content.partials()) == []
    assert content.sweep() == 0
    for ask in (lambda: content.size(DIGEST), lambda: content.open(DIGEST), lambda: content.read(DIGEST, 1)):
        with pytest.raises(NotFoundError, match=DIGEST):
            ask()
    assert not content.remove(DIGEST)
    content.sync_removals()
    assert list(root.iterdir()) == []


def test_what_is_put_is_read(content: ContentStore) -> None:
    assert content.put(DATA) == DIGEST
    assert content.put(DATA) == DIGEST
    assert content.has(DIGEST)
    assert content.size(DIGEST) == len(DATA)
    assert content.read(DIGEST, len(DATA)) == DATA
    assert list(content.digests()) == [DIGEST]
    assert list(content.partials()) == []
    assert content.remove(DIGEST)
    assert not content.has(DIGEST)


def test_a_read_is_bounded(content: ContentStore) -> None:
    content.put(DATA)
    with pytest.raises(InvalidError, match="more than the 999 bytes"):
        content.read(DIGEST, 999)


def test_s41_a_flipped_bit_is_found_on_read(content: ContentStore) -> None:
    content.put(DATA)
    path = content.path(DIGEST)
    path.write_bytes(DATA[:-1] + b"8")
    with pytest.raises(IntegrityError, match="damaged"):
        content.read(DIGEST, 10_000)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(0, 8))
def test_s01_an_interrupted_ingest_goes_on_where_it_stopped(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes], stop: int
) -> None:
    content = ContentStore(tmp_path_factory.mktemp("root"))
    data = b"".join(chunks)
    digest = Digest.of(data)
    with content.ingest(digest, len(data)) as ingest:
        for chunk in chunks[:stop]:
            ingest.write(chunk)
    assert not content.has(digest)
    with content.ingest(digest, len(data)) as ingest:
        assert ingest.offset == len(b"".join(chunks[:stop]))
        ingest.write(data[ingest.offset :])
        ingest.commit()
    assert content.read(digest, len(data)) == data


def test_s02_a_complete_file_that_was_not_committed_is_a_partial(content: ContentStore) -> None:
    with content.ingest(DIGEST, len(DATA)) as ingest:
        ingest.write(DATA)
    assert not content.has(DIGEST)
    assert len(list(content.partials())) == 1
    with content.ingest(DIGEST, len(DATA)) as ingest:
        assert ingest.offset == len(DATA)
        ingest.commit()
    assert content.has(DIGEST)


def test_wrong_bytes_are_discarded(content: ContentStore) -> None:
    with content.ingest(DIGEST, len(DATA)) as ingest:
        ingest.write(b"x" * len(DATA))
        with pytest.raises(IntegrityError, match=hashlib.sha256(b"x" * len(DATA)).hexdigest()):
            ingest.commit()
    assert not content.has(DIGEST)
    assert list(content.partials()) == []


def test_a_byte_too_many_is_refused_before_it_is_written(content: ContentStore) -> None:
    with content.ingest(DIGEST, len(DATA)) as ingest:
        ingest.write(DATA)
        with pytest.raises(IntegrityError, match="longer than the 1000 bytes"):
            ingest.write(b"!")
    assert list(content.partials()) == []


def test_missing_bytes_are_an_error_and_the_rest_is_kept(content: ContentStore) -> None:
    with content.ingest(DIGEST, len(DATA)) as ingest:
        ingest.write(DATA[:400])
        with pytest.raises(IntegrityError, match="400 of 1000"):
            ingest.commit()
    with content.ingest(DIGEST, len(DATA)) as ingest:
        assert ingest.offset == 400


def test_a_prefix_that_a_power_loss_damaged_costs_one_attempt(content: ContentStore) -> None:
    with content.ingest(DIGEST, len(DATA)) as ingest:
        ingest.write(DATA[:400])
    (partial,) = content.partials()
    partial.write_bytes(b"\0" * 400)
    with content.ingest(DIGEST, len(DATA)) as ingest:
        ingest.write(DATA[ingest.offset :])
        with pytest.raises(IntegrityError):
            ingest.commit()
    with content.ingest(DIGEST, len(DATA)) as ingest:
        assert ingest.offset == 0
        ingest.write(DATA)
        ingest.commit()


def test_a_server_without_ranges_starts_over(content: ContentStore) -> None:
    with content.ingest(DIGEST, len(DATA)) as ingest:
        ingest.write(DATA[:400])
    with content.ingest(DIGEST, len(DATA)) as ingest:
        ingest.restart()
        ingest.write(DATA)
        ingest.commit()
    assert content.read(DIGEST, len(DATA)) == DATA


def test_a_new_blob_is_known_by_its_digest_at_the_end(content: ContentStore) -> None:
    with content.new_blob() as blob:
        blob.write(DATA[:500])
        blob.write(memoryview(DATA)[500:])
        assert blob.digest() == DIGEST
        assert blob.commit() == DIGEST
        assert blob.offset == len(DATA)
    assert content.read(DIGEST, len(DATA)) == DATA
    assert list(content.partials()) == []


def test_a_new_blob_that_is_there_already_changes_nothing(content: ContentStore) -> None:
    content.put(DATA)
    before = content.path(DIGEST).stat()
    with content.new_blob() as blob:
        blob.write(DATA)
        assert blob.commit() == DIGEST
    assert content.path(DIGEST).stat() == before
    assert list(content.partials()) == []


def test_a_new_blob_that_is_not_committed_is_discarded(content: ContentStore) -> None:
    with pytest.raises(ZeroDivisionError), content.new_blob() as blob:
        blob.write(DATA)
        raise ZeroDivisionError
    assert list(content.partials()) == []


def test_s17_of_two_ingests_of_a_blob_one_writes_and_the_other_finds_it(content: ContentStore) -> None:
    results: list[str] = []
    entered = threading.Event()

    def second() -> None:
        entered.set()
        with content.ingest(DIGEST, len(DATA)) as ingest:
            results.append("present" if ingest.present else f"offset {ingest.offset}")

    with content.ingest(DIGEST, len(DATA)) as ingest:
        thread = threading.Thread(target=second)
        thread.start()
        assert entered.wait(10)
        ingest.write(DATA)
        results.append("first")
        ingest.commit()
    thread.join(10)
    assert results == ["first", "present"]
    assert list(content.partials()) == []


def test_s17_the_first_failing_does_not_fail_the_second(content: ContentStore) -> None:
    def second() -> None:
        with content.ingest(DIGEST, len(DATA)) as ingest:
            ingest.write(DATA[ingest.offset :])
            ingest.commit()

    thread = threading.Thread(target=second)
    with pytest.raises(ConnectionError), content.ingest(DIGEST, len(DATA)) as ingest:
        thread.start()
        ingest.write(DATA[:300])
        raise ConnectionError
    thread.join(10)
    assert content.read(DIGEST, len(DATA)) == DATA


def test_s16_the_cleanup_of_a_failed_pull_spares_its_retry(content: ContentStore) -> None:
    """Many threads write the same blob, some give up and discard: each of the others still succeeds."""
    failures: list[Exception] = []

    def work(number: int) -> None:
        try:
            with content.ingest(DIGEST, len(DATA)) as ingest:
                if ingest.present:
                    return
                ingest.write(DATA[ingest.offset : ingest.offset + 100])
                if number % 3 == 0:
                    ingest.discard()
                    return
                ingest.write(DATA[ingest.offset :])
                ingest.commit()
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert failures == []
    assert content.read(DIGEST, len(DATA)) == DATA
    assert list(content.partials()) == []


def test_a_start_sweeps_what_cannot_be_continued_and_keeps_the_rest(content: ContentStore, root: Path) -> None:
    with content.ingest(DIGEST, len(DATA)) as ingest:
        ingest.write(DATA[:400])
    done = content.put(b"done")
    (root / "ingest" / done.hex).write_bytes(b"do")
    (root / "ingest" / "new-0123").write_bytes(b"half a layer")
    with content.new_blob() as busy:
        assert content.sweep() == 2
        busy.write(b"still here")
        assert content.has(busy.commit())
    assert [path.name for path in content.partials()] == [DIGEST.hex]


KILLED = """
import sys
from pathlib import Path
from reconciler.linux import watch
from reconciler.oci.digest import Digest
from reconciler.store.content import ContentStore
from reconciler.testing.faults import FaultAt
data = b"0123456789" * 100
content = ContentStore(Path(sys.argv[1]))
with watch.observed(FaultAt(int(sys.argv[2]))), content.ingest(Digest.of(data), len(data)) as ingest:
    ingest.write(data[:500])
    ingest.write(data[500:])
    ingest.commit()
"""


def test_s02_s04_s05_killed_at_any_step_the_blob_is_whole_or_absent(tmp_path: Path) -> None:
    step = 0
    while True:
        step += 1
        root = tmp_path / str(step)
        root.mkdir()
        code = subprocess.run([sys.executable, "-c", KILLED, str(root), str(step)], timeout=30).returncode
        if code == 0:
            break
        assert code == -signal.SIGKILL
        content = ContentStore(root)
        if content.has(DIGEST):
            assert content.read(DIGEST, len(DATA)) == DATA
        assert content.put(DATA) == DIGEST
        assert content.read(DIGEST, len(DATA)) == DATA
        content.sweep()
        assert list(content.partials()) == []
    assert step > 8


@pytest.mark.parametrize("number", [5, 12, 24, 28, 30, 122])
def test_s29_s31_s32_a_failing_disk_is_a_typed_error_and_nothing_is_kept(content: ContentStore, number: int) -> None:
    content.put(b"the directories are there")
    stop = 0
    while True:
        stop += 1
        fault = FaultAt(stop, number)
        try:
            with watch.observed(fault):
                content.put(DATA)
        except HostError as error:
            assert os.strerror(number) in str(error)
            assert str(content.path(DIGEST).parent.parent.parent) in str(error)
            assert error.hint
        else:
            break
        assert not content.has(DIGEST)
        assert list(content.partials()) == []
        assert content.put(DATA) == DIGEST
        content.remove(DIGEST)
    assert fault.seen == [
        f"blob:{kind}" for kind in ("create", "truncate", "write", "fsync", "rename", "fsync-directory")
    ]


def test_s32_after_a_failed_fsync_nothing_is_tried_again_on_that_file(content: ContentStore) -> None:
    content.put(b"the directories are there")
    synced: list[int] = []

    def fail_once(phase: watch.Phase, operation: watch.Operation) -> None:
        if (phase, operation.name) == ("before", "blob:fsync"):
            synced.append(operation.path.stat().st_ino)
            if len(synced) == 1:
                raise OSError(5, "Input/output error")

    with watch.observed(fail_once), content.ingest(DIGEST, len(DATA)) as ingest:
        ingest.write(DATA)
        held = ingest._path.open("rb")  # so that its inode is not used again
        with pytest.raises(HostError, match="Input/output error"):
            ingest.commit()
        for again in (ingest.commit, lambda: ingest.write(b""), ingest.discard):
            with pytest.raises(RuntimeError):
                again()
        assert not content.has(DIGEST)
        assert content.put(DATA) == DIGEST
        held.close()
    assert len(set(synced)) == len(synced) == 2
