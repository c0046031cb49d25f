"""Netlink messages (netlink(7), rtnetlink(7)): a socket, requests, dumps and attributes.

Written here rather than taken from a library because a dozen fixed messages are all we send, and importing pyroute2
takes longer than starting a container (140 ms against 60).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator

ROUTE = 0
NETFILTER = 12

REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
REPLACE, EXCLUSIVE, CREATE = 0x100, 0x200, 0x400

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR, _DONE = 2, 3
_DUMP_INTERRUPTED = 0x10
_NESTED = 0x8000
_TYPE_MASK = 0x3FFF
_RECEIVE_SIZE = 1 << 18
_DUMP_ATTEMPTS = 20


class Netlink:
    """One socket to one netlink family, in the network namespace of the thread that made it. Threads may share it."""

    def __init__(self, protocol: int = ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.bind((0, 0))
        self._lock = threading.Lock()
        self._sequence = 0

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def request(self, kind: int, payload: bytes, flags: int = 0) -> list[bytes]:
        """Sends one message and waits for its acknowledgement; returns the payloads of the answers before it.

        Raises ``OSError`` with the kernel's errno.
        """
        with self._lock:
            answers, _ = self._exchange(kind, payload, flags | ACK)
        return answers

    def dump(self, kind: int, payload: bytes) -> list[bytes]:
        """The payloads of a whole dump, taken again until nothing changed while the kernel wrote it."""
        for _ in range(_DUMP_ATTEMPTS):
            try:
                with self._lock:
                    answers, consistent = self._exchange(kind, payload, DUMP)
            except OSError as error:
                if error.errno in (errno.ENOBUFS, errno.EINTR):
                    continue
                raise
            if consistent:
                return answers
        raise OSError(errno.EBUSY, "the kernel's tables change too fast to be read")

    def _exchange(self, kind: int, payload: bytes, flags: int) -> tuple[list[bytes], bool]:
        self._sequence += 1
        header = _HEADER.pack(_HEADER.size + len(payload), kind, flags | REQUEST, self._sequence, 0)
        self._socket.send(header + payload)
        answers: list[bytes] = []
        consistent = True
        while True:
            for answer, answer_flags, body in self._receive():
                consistent = consistent and not answer_flags & _DUMP_INTERRUPTED
                if answer in (_ERROR, _DONE):
                    code = -struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
                    if code:
                        raise OSError(code, os.strerror(code))
                    return answers, consistent
                answers.append(body)

    def _receive(self) -> Iterator[tuple[int, int, bytes]]:
        data = self._socket.recv(_RECEIVE_SIZE)
        offset = 0
        while offset + _HEADER.size <= len(data):
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
            # Left over from an exchange that was cut short, by ENOBUFS for example.
            if sequence == self._sequence:
                yield kind, flags, data[offset + _HEADER.size : offset + length]
            offset += _aligned(length)


def attribute(kind: int, *parts: bytes) -> bytes:
    """One attribute: its length, its type, its value, padded to four bytes."""
    value = b"".join(parts)
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(_aligned(length) - length)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | _NESTED, *attributes)


def text(kind: int, value: str) -> bytes:
    """An attribute that holds a NUL-terminated string."""
    return attribute(kind, value.encode(), b"\0")


def number(kind: int, value: int) -> bytes:
    """An attribute that holds an unsigned 32-bit number in the host's byte order."""
    return attribute(kind, struct.pack("=I", value))


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """The attributes that begin at ``offset``, by type."""
    found: dict[int, bytes] = {}
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _TYPE_MASK] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += _aligned(length)
    return found


def _aligned(length: int) -> int:
    return (length + 3) & ~3
