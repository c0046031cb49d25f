"""What others see of the daemon, and that there is one (S38)."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from reconciler.daemon.conditions import BadRevision, Board, Conditions, Failure, read_status
from reconciler.errors import LockedError

_SHOWN = Conditions(
    "git:/srv#",
    revision="abc",
    bad=BadRevision("def", "does not parse", "mend it", False, "2026-01-01T00:00:00Z"),
    result="failed",
    since="2026-01-01T00:00:00Z",
    failures=(Failure("container/shop/web", "create", "no", "do", 2, "2026-01-01T00:00:10Z"),),
)


def test_what_is_shown_is_what_is_read(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert read_status(run) is None
    with Board(run) as board:
        assert read_status(run) is None
        board.show(_SHOWN)
        status = read_status(run)
        assert status is not None
        assert status.alive
        assert status.conditions == _SHOWN
    assert read_status(run) is None


def test_g20_nothing_is_written_when_nothing_changed(tmp_path: Path) -> None:
    with Board(tmp_path) as board:
        board.show(_SHOWN)
        before = (tmp_path / "daemon.json").stat()
        board.show(Conditions(**{name: getattr(_SHOWN, name) for name in Conditions.__dataclass_fields__}))
        assert (tmp_path / "daemon.json").stat() == before


def test_s38_a_second_daemon_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    with Board(tmp_path) as board:
        board.show(_SHOWN)
        with pytest.raises(LockedError, match="another daemon runs on this root") as caught, Board(tmp_path):
            pass
        assert caught.value.exit_code == 5
        assert read_status(tmp_path) is not None
    with Board(tmp_path):
        pass


def _die_holding(directory: Path) -> None:
    Board(directory).__enter__().show(_SHOWN)
    import os

    os._exit(9)


def test_s38_a_dead_daemon_is_recognised_and_its_file_is_no_lock(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_die_holding, args=(tmp_path,))
    process.start()
    process.join()
    status = read_status(tmp_path)
    assert status is not None
    assert not status.alive
    assert status.pid == process.pid
    with Board(tmp_path) as board:
        board.show(_SHOWN)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"format": 2}', "\xff", "[" * 100_000])
def test_a_file_that_cannot_be_understood_is_no_daemon(tmp_path: Path, text: str) -> None:
    (tmp_path / "daemon.json").write_text(text, encoding="latin-1")
    assert read_status(tmp_path) is None


def test_a_file_with_fields_we_do_not_know_is_no_daemon(tmp_path: Path) -> None:
    with Board(tmp_path) as board:
        board.show(_SHOWN)
        document = json.loads((tmp_path / "daemon.json").read_text())
        document["conditions"]["novel"] = 1
        (tmp_path / "daemon.json").write_text(json.dumps(document))
        assert read_status(tmp_path) is None
