"""Reading conmon's logs."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.runtime.logs import follow_log, parse_line, read_log

_TIME = "2026-01-02T03:04:05.123456789+00:00"


def record(text: bytes, *, tag: str = "F", second: int = 5) -> bytes:
    return f"2026-01-02T03:04:{second:02}.123456789+00:00 stdout {tag} ".encode() + text + b"\n"


def test_fields():
    line = parse_line(f"{_TIME} stderr P a b  c".encode())
    assert line is not None
    assert (line.stream, line.partial, line.text, line.output) == ("stderr", True, b"a b  c", b"a b  c")
    assert line.moment == datetime(2026, 1, 2, 3, 4, 5, 123456, UTC)


@pytest.mark.parametrize(
    "line", ["", "x", f"{_TIME} stdout F", f"{_TIME} stdin F x", f"{_TIME} stdout X x", "z stdout F x"]
)
def test_what_is_no_record_is_none(line):
    assert parse_line(line.encode()) is None


@given(st.binary())
def test_any_bytes_are_read_without_an_error(data):
    parse_line(data)


def test_absent_log_is_empty(tmp_path):
    assert list(read_log(tmp_path / "log")) == []


def test_a_cut_last_record_is_left_out(tmp_path):
    (tmp_path / "log").write_bytes(record(b"one") + record(b"two")[:-4])
    assert [line.text for line in read_log(tmp_path / "log")] == [b"one"]


def test_since(tmp_path):
    (tmp_path / "log").write_bytes(record(b"old", second=1) + record(b"new", second=9))
    since = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert [line.text for line in read_log(tmp_path / "log", since=since)] == [b"new"]


@settings(max_examples=60)
@given(
    pieces=st.lists(st.tuples(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), st.booleans()), max_size=12),
    tail=st.integers(0, 8),
    long=st.booleans(),
)
def test_tail_is_the_end_of_the_whole(tmp_path_factory, pieces, tail, long):
    path = tmp_path_factory.mktemp("log") / "log"
    filler = b"x" * 40_000 if long else b""
    path.write_bytes(b"".join(record(text + filler, tag="P" if partial else "F") for text, partial in pieces))
    every = list(read_log(path))
    wanted = list(read_log(path, tail=tail))
    assert wanted == every[len(every) - len(wanted) :]
    if tail:
        assert sum(not line.partial for line in wanted) == min(tail, sum(not line.partial for line in every))
        assert len(wanted) == len(every) or not every[len(every) - len(wanted) - 1].partial
    else:
        assert wanted == []


def test_follow_over_a_new_file_until_the_end(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(record(b"one"))
    ended, end = os.pipe()
    lines = follow_log(path, ended)
    assert next(lines).text == b"one"

    def go_on() -> None:
        with path.open("ab") as log:
            log.write(record(b"two")[:20])
            log.flush()
            log.write(record(b"two")[20:])
        fresh = tmp_path / "log.tmp"
        fresh.write_bytes(record(b"three"))
        fresh.rename(path)
        os.close(end)

    writer = threading.Thread(target=go_on)
    writer.start()
    assert [line.text for line in lines] == [b"two", b"three"]
    writer.join()
    os.close(ended)
