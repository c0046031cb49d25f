"""A changed file as a patch that ``git apply`` takes."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path


def patch(path: Path, before: bytes, after: bytes) -> bytes:
    """The unified diff of one file; empty when nothing changed.

    Its name is relative to the git repository that holds ``path`` (absolute, without links), else to the working
    directory, else to the root of all.
    """
    if before == after:
        return b""
    name = os.fsencode(os.path.relpath(path, _top(path)))
    old, new = _quoted(b"a/" + name), _quoted(b"b/" + name)
    end = b"\t" if b" " in name else b""
    return b"".join(
        (
            b"diff --git " + old + b" " + new + b"\n",
            b"--- " + old + end + b"\n",
            b"+++ " + new + end + b"\n",
            *_hunks(before, after),
        )
    )


def _top(path: Path) -> Path:
    here = Path.cwd()
    parents = path.parents
    return next((parent for parent in parents if (parent / ".git").exists()), here if here in parents else parents[-1])


def _hunks(before: bytes, after: bytes) -> Iterator[bytes]:
    # One byte a character, so that nothing but a line feed ends a line: others end those of difflib's own input.
    old, new = (data.decode("latin-1").split("\n") for data in (before, after))
    left, right = ([f"{line}\n" for line in lines[:-1]] + lines[-1:] * bool(lines[-1]) for lines in (old, new))
    for line in list(difflib.unified_diff(left, right))[2:]:
        yield line.encode("latin-1") + (b"" if line.endswith("\n") else b"\n\\ No newline at end of file\n")


def _quoted(name: bytes) -> bytes:
    """A name as git writes one that holds quotes, backslashes or control characters."""
    if not any(byte < 0x20 or byte in b'"\\\x7f' for byte in name):
        return name
    escaped = (
        b"\\" + bytes([byte]) if byte in b'"\\' else b"\\%03o" % byte if byte < 0x20 or byte == 0x7F else bytes([byte])
        for byte in name
    )
    return b'"' + b"".join(escaped) + b'"'
