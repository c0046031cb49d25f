"""Reading the logs that conmon writes, in the format of the Kubernetes CRI.

A line is ``TIME STREAM TAG TEXT``: the time in RFC 3339 with nanoseconds, ``stdout`` or ``stderr``, and ``F`` for the
end of a line of output or ``P`` for a part, whose rest follows. conmon starts the file anew when it reaches its limit.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Literal

from reconciler.linux.inotify import DirectoryWatch
from reconciler.value import dataclass

_BLOCK = 64 * 1024
_LONGEST = 1024 * 1024  # conmon writes lines of some 8 KiB; a file with longer ones is not its own


@dataclass(frozen=True, slots=True)
class LogLine:
    """A piece of output. ``text`` has no line end; ``partial`` says that the same line of output goes on."""

    time: str
    stream: Literal["stdout", "stderr"]
    partial: bool
    text: bytes

    @property
    def moment(self) -> datetime:
        """``time`` to the microsecond, which is all a datetime holds."""
        return datetime.fromisoformat(self.time)

    @property
    def output(self) -> bytes:
        """The bytes as the program wrote them."""
        return self.text if self.partial else self.text + b"\n"


def parse_line(line: bytes) -> LogLine | None:
    """One line of the file without its line end; None when it is not one, such as where a crash cut it."""
    parts = line.split(b" ", 3)
    if len(parts) != 4 or parts[1] not in (b"stdout", b"stderr") or parts[2] not in (b"F", b"P"):
        return None
    time = parts[0].decode(errors="replace")
    try:
        datetime.fromisoformat(time)
    except ValueError:
        return None
    return LogLine(time, "stdout" if parts[1] == b"stdout" else "stderr", parts[2] == b"P", parts[3])


def read_log(path: Path, *, tail: int | None = None, since: datetime | None = None) -> Iterator[LogLine]:
    """What the log holds now: the last ``tail`` lines of output (None: all), not older than ``since``."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        if tail is not None:
            file.seek(_tail_offset(file, tail))
        yield from _recent(_lines(file), since)


def follow_log(
    path: Path, ended: int | None, *, tail: int | None = None, since: datetime | None = None
) -> Iterator[LogLine]:
    """As ``read_log``, then what is added, until the descriptor ``ended`` is readable and all was given.

    ``ended`` is a pidfd of the container's conmon, or None when that is gone. When the log starts anew because it
    reached its limit, following goes on with the new file.
    """
    with DirectoryWatch(path.parent) as watch:
        poller = select.poll()
        poller.register(watch.descriptor, select.POLLIN)
        if ended is not None:
            poller.register(ended, select.POLLIN)
        file: BinaryIO | None = None
        rest = b""
        over = ended is None
        try:
            while True:
                watch.clear()
                if file is None and path.exists():
                    file = path.open("rb")
                    file.seek(0 if tail is None else _tail_offset(file, tail))
                    tail = None  # a later file is wanted from its beginning
                if file is not None:
                    replaced = _replaced(file, path)  # asked first: what is read after it is all there will be
                    while data := file.read(_BLOCK):
                        complete, rest = _split(rest + data)
                        yield from _recent(complete, since)
                    if replaced:
                        file.close()
                        file, rest = None, b""
                        continue
                if over:
                    return
                over = any(descriptor == ended for descriptor, _ in poller.poll())
        finally:
            if file is not None:
                file.close()


def _recent(lines: Iterator[LogLine], since: datetime | None) -> Iterator[LogLine]:
    return lines if since is None else (line for line in lines if line.moment >= since)


def _lines(file: BinaryIO) -> Iterator[LogLine]:
    while raw := file.readline(_LONGEST):
        line = parse_line(raw[:-1]) if raw.endswith(b"\n") else None
        if line is not None:
            yield line


def _split(data: bytes) -> tuple[Iterator[LogLine], bytes]:
    """The complete lines of ``data``, and what follows the last of them."""
    *whole, rest = data.split(b"\n")
    return (line for line in map(parse_line, whole) if line is not None), rest


def _replaced(file: BinaryIO, path: Path) -> bool:
    try:
        return not os.path.samestat(os.fstat(file.fileno()), path.stat()) or path.stat().st_size < file.tell()
    except FileNotFoundError:
        return False


def _tail_offset(file: BinaryIO, count: int) -> int:
    """Where the last ``count`` lines of output begin, read backwards in blocks. Parts belong to the line they begin."""
    end = file.seek(0, os.SEEK_END)
    if count <= 0:
        return end
    start, data = end, b""
    while True:
        # The line of output before the wanted ones ends with a line of the file that is whole: that is the border.
        pieces = data.split(b"\n")
        offset, seen = end - len(pieces.pop()), 0
        for line in reversed(pieces[1 if start else 0 :]):
            if line.split(b" ", 3)[2:3] == [b"F"]:
                if seen == count:
                    return offset
                seen += 1
            offset -= len(line) + 1
        if start == 0:
            return 0
        step = min(_BLOCK, start)
        start -= step
        file.seek(start)
        data = file.read(step) + data
