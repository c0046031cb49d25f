"""Being attached to a container's streams, from a terminal or from pipes, through conmon's socket.

conmon sends packets: one byte that names the stream (2 stdout, 3 stderr) and data. What we send is the container's
input. A container with a terminal has one output stream; its size is set through a FIFO beside the socket.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from reconciler.errors import NotFoundError

_STDOUT = 2
_PACKET = 32 * 1024 + 1
_DETACH = b"\x10\x11"  # ctrl-p ctrl-q, as Docker's


class DetachKeys:
    """Finds the detach sequence in typed bytes, which may be cut anywhere between reads."""

    def __init__(self, sequence: bytes = _DETACH) -> None:
        self._sequence = sequence
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """The bytes to pass on, and whether the sequence came. A beginning of it is held back until it is decided."""
        data = self._held + data
        place = data.find(self._sequence)
        if place >= 0:
            return data[:place], True
        held = next((n for n in range(len(self._sequence) - 1, 0, -1) if data.endswith(self._sequence[:n])), 0)
        self._held = data[len(data) - held :]
        return data[: len(data) - held], False


class Attachment:
    """A connection to the streams of one container. Close it, or use it as a context."""

    def __init__(self, bundle: Path) -> None:
        self._bundle = bundle
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # A socket's path has at most 107 bytes: it is reached through the directory's descriptor.
        directory = os.open(bundle, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._socket.connect(f"/proc/self/fd/{directory}/attach")
        except OSError as error:
            self._socket.close()
            raise NotFoundError(
                f"cannot attach: {bundle}/attach: {error.strerror}", hint="The container has ended."
            ) from None
        finally:
            os.close(directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def resize(self, rows: int, columns: int) -> None:
        """Sets the size of the container's terminal. Does nothing when conmon is gone."""
        with suppress(OSError):
            descriptor = os.open(self._bundle / "ctl", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                os.write(descriptor, b"1 %d %d\n" % (rows, columns))
            finally:
                os.close(descriptor)

    def relay(
        self, stdin: int | None, stdout: int, stderr: int, *, terminal: bool = False
    ) -> Literal["ended", "detached"]:
        """Passes bytes both ways until the container's streams end, or the detach keys are typed on a terminal.

        With ``terminal``, ``stdin`` is a terminal of ours: it is raw meanwhile, restored whatever happens, and the
        container's gets its size. The end of ``stdin`` is passed on as the end of the container's input.
        """
        if terminal and stdin is not None:
            with _raw(stdin), self._sized(stdin):
                return self._pump(stdin, stdout, stderr, DetachKeys())
        return self._pump(stdin, stdout, stderr, None)

    def _pump(
        self, stdin: int | None, stdout: int, stderr: int, keys: DetachKeys | None
    ) -> Literal["ended", "detached"]:
        """Input is read only when the last of it is sent, and sent only when there is room: we never stop reading
        output, or conmon and we could wait for each other."""
        pending = b""
        connection = self._socket
        while True:
            wanted = {connection.fileno(): select.POLLIN | (select.POLLOUT if pending else 0)}
            if stdin is not None and not pending:
                wanted[stdin] = select.POLLIN
            ready = _poll(wanted)
            if ready.get(connection.fileno(), 0) & ~select.POLLOUT:
                packet = _receive(connection)
                if not packet:
                    return "ended"
                _write_all(stdout if packet[0] == _STDOUT else stderr, packet[1:])
            if pending and ready.get(connection.fileno(), 0) & select.POLLOUT:
                with suppress(BlockingIOError, BrokenPipeError):  # its end will be read next
                    sent = connection.send(pending, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                    pending = pending[sent:]
            if stdin is not None and stdin in ready:
                typed = os.read(stdin, 4096)
                if not typed:
                    with suppress(OSError):  # the container may have ended at this moment
                        connection.shutdown(socket.SHUT_WR)
                    stdin = None
                    continue
                pending, detach = (typed, False) if keys is None else keys.feed(typed)
                if detach:
                    with suppress(OSError):  # what was typed before the keys; a container that reads it has room
                        connection.send(pending, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                    return "detached"

    @contextmanager
    def _sized(self, terminal: int) -> Iterator[None]:
        def follow(*_: object) -> None:
            size = os.get_terminal_size(terminal)
            self.resize(size.lines, size.columns)

        follow()
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may handle signals
            return
        previous = signal.signal(signal.SIGWINCH, follow)
        try:
            yield
        finally:
            signal.signal(signal.SIGWINCH, previous)


@contextmanager
def _raw(terminal: int) -> Iterator[None]:
    before = termios.tcgetattr(terminal)
    try:
        tty.setraw(terminal, termios.TCSANOW)  # what was typed ahead is kept
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSANOW, before)


def _poll(wanted: dict[int, int]) -> dict[int, int]:
    poller = select.poll()
    for descriptor, events in wanted.items():
        poller.register(descriptor, events)
    return dict(poller.poll())


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(_PACKET)
    except ConnectionResetError:  # conmon ended with input unread
        return b""


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
