"""What a worker makes of an archive is what the same code makes of it anywhere, though it takes fewer steps."""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.errors import ReconcilerError
from reconciler.linux.tree import remove_tree
from reconciler.store.archive.limits import DEFAULTS
from reconciler.store.archive.reader import Entry, Kind
from reconciler.store.archive.writer import archive
from reconciler.store.arrival import Arrival
from reconciler.store.layers.extract import extract
from reconciler.store.layers.lower import LowerLayers
from reconciler.store.layers.worker_messages import Descriptors
from reconciler.store.layers.workers import Workers
from tests.integration.store.test_file_list import members, on_disk

pytestmark = pytest.mark.root

Members = list[tuple[Entry, bytes]]


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(1) as started:
        yield started.start()


def in_worker(workers: Workers, entries: Members, target: Path, lowers: tuple[Path, ...]) -> str:
    """Unpacks in the worker; the error it says, or nothing."""
    with Arrival() as arrival, tempfile.TemporaryFile() as blob, tempfile.TemporaryFile() as files:
        blob.write(b"".join(archive(entries)))
        blob.flush()
        arrival.complete(blob.fileno())
        attempt = arrival.attempt()
        directory = os.open(target, os.O_RDONLY)
        try:
            job = Descriptors(directory, files.fileno(), attempt.blob, attempt.signal)
            workers.run(0, job, target, lowers, DEFAULTS)
        except ReconcilerError as error:
            return str(error)
        finally:
            os.close(directory)
            attempt.close()
    return ""


def here(entries: Members, target: Path, lowers: tuple[Path, ...]) -> str:
    """Unpacks in this process; the error it says, or nothing."""
    try:
        extract(archive(entries), target, lambda: LowerLayers(lowers))
    except ReconcilerError as error:
        return str(error)
    return ""


def both(workers: Workers, place: Path, entries: Members, lowers: tuple[Path, ...] = ()) -> None:
    one, other = place / "one", place / "other"
    for path in (one, other):
        remove_tree(path, point="test")
        path.mkdir(mode=0o700)
    said = in_worker(workers, entries, one, lowers), here(entries, other, lowers)
    assert said[0] == said[1]
    if not said[0]:
        assert on_disk(one) == on_disk(other)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(members(), max_size=12), st.lists(members(), max_size=6))
def test_any_archive_over_any_layer(workers: Workers, tmp_path: Path, entries: Members, below: Members) -> None:
    lower = tmp_path / "lower"
    remove_tree(lower, point="test")
    lower.mkdir()
    if here(below, lower, ()):
        return
    both(workers, tmp_path, entries, (lower,))


# linux/posix_acl_xattr.h: version 2; tag, permissions, id. Owner, a user, group, mask, others.
_NOBODY = 2**32 - 1
_ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permissions, who)
    for tag, permissions, who in ((1, 7, _NOBODY), (2, 7, 5), (4, 5, _NOBODY), (16, 7, _NOBODY), (32, 0, _NOBODY))
)


@pytest.mark.parametrize(
    "directory",
    [
        Entry(b"d", Kind.DIRECTORY, 0o2775, 0, 7),
        Entry(b"d", Kind.DIRECTORY, 0o755, 3, 4, xattrs=((b"system.posix_acl_default", _ACL),)),
        Entry(b"d", Kind.DIRECTORY, 0o1777),
        Entry(b".", Kind.DIRECTORY, 0o2777, 0, 9),
    ],
    ids=["set-group-id", "default access list", "sticky", "root"],
)
def test_a_directory_has_no_say_in_what_is_made_in_it(workers: Workers, tmp_path: Path, directory: Entry) -> None:
    within = b"" if directory.name == b"." else b"d/"
    inside = [
        (Entry(within + b"f%o-%d" % (mode, owner), Kind.FILE, mode, owner, owner, size=1), b"x")
        for mode in (0, 0o644, 0o777, 0o4755, 0o2755)
        for owner in (0, 5)
    ]
    others = [(Entry(within + b"sub", Kind.DIRECTORY, 0o700), b""), (Entry(within + b"p", Kind.FIFO, 0o666), b"")]
    both(workers, tmp_path, [(directory, b""), *inside, *others])
