"""What a worker process and the process that started it say to each other.

Messages are fields separated by NUL bytes, each in one packet. A job is ``job``, the target's path for messages, from
which level on to log, and the bounds; it comes with its ``Descriptors``. The answer is ``done`` or ``error`` with their
fields, after any number of ``log`` and of ``lower``. The latter asks for the next lower layer from the top, and is
answered with ``lower`` and its descriptor, with ``end``, or with ``gone`` when it could not be unpacked.
"""

from __future__ import annotations

from typing import NamedTuple

MESSAGE = 1 << 16
"""Bytes of a message at most."""


class Descriptors(NamedTuple):
    """The open files of one job: the layer's empty directory, its empty list of files, the blob, and the pipe that
    tells how far that has arrived (``arrival``)."""

    directory: int
    files: int
    blob: int
    signal: int


class Unpacked(NamedTuple):
    """What was unpacked: entries, bytes on disk in whole blocks, and the SHA-256 of the archive in hexadecimal."""

    entries: int
    size: int
    diff_id: str


def encode(*fields: object) -> bytes:
    """A message, cut where it is too long."""
    texts = (str(field).replace("\0", "\\0") for field in fields)
    return "\0".join(texts).encode(errors="surrogateescape")[:MESSAGE]


def decode(message: bytes) -> list[str]:
    """The fields of a message."""
    return message.decode(errors="surrogateescape").split("\0")
