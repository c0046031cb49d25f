"""``reconciler container logs``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from reconciler.cli.context import Context
from reconciler.engine.embedded.containers.rows import ContainerRow, find_container
from reconciler.engine.embedded.state import State, open_reader
from reconciler.errors import InvalidError, NotFoundError, UsageError
from reconciler.runtime.logs import LogLine, read_log
from reconciler.runtime.runtime import Runtime
from reconciler.spec.units import parse_duration


def run(context: Context, options: argparse.Namespace) -> int:
    """The container's output as it was written: its stdout on ours, its stderr on ours."""
    tail, since = _tail(options.tail), _since(options.since)
    state = open_reader(context.root)
    try:
        row = find_container(state.containers.all(), options.name)
    finally:
        state.close()
    context.stdout.flush()
    begins = {"stdout": True, "stderr": True}
    for line in _lines(state, row, follow=options.follow, tail=tail, since=since):
        stamp = f"{line.time} ".encode() if options.timestamps and begins[line.stream] else b""
        begins[line.stream] = not line.partial
        _write(1 if line.stream == "stdout" else 2, stamp + line.output)
    return 0


def _lines(
    state: State, row: ContainerRow, *, follow: bool, tail: int | None, since: datetime | None
) -> Iterator[LogLine]:
    if follow and row.finished_at is None:
        try:
            yield from Runtime(state.run).follow(row.id, tail=tail, since=since)
        except NotFoundError:
            pass  # it has no task: it was never started, or not since the host booted
        else:
            return
    yield from read_log(state.log_path(row.id), tail=tail, since=since)


def _tail(text: str | None) -> int | None:
    if text is None or text == "all":
        return None
    if not text.isdecimal() or len(text) > 12:
        raise UsageError(f"--tail {text[:40]!a} is neither a number nor all")
    return int(text)


def _since(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.now(UTC) - timedelta(seconds=parse_duration(text))
    except InvalidError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"--since {text[:40]!a} is neither a date such as 2026-01-31T08:00:00Z nor an age such as 10m"
        ) from None
    return moment.astimezone() if moment.tzinfo is None else moment


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
