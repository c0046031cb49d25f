"""The worker processes that unpack the layers of one image, seen from the process that starts them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Self

from reconciler import errors, log
from reconciler.errors import HostError, ReconcilerError
from reconciler.linux import durable
from reconciler.store.layers.worker_messages import MESSAGE, Unpacked, decode, encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

    from reconciler.store.archive.limits import Limits
    from reconciler.store.layers.worker_messages import Descriptors

_log = log.Logger("store")
_MOST = 4  # more would wait for the disk
# What keeps it from starting is one line beside our error, which knows no reason.
_CODE = """
import sys
sys.path[:] = {!r}
try:
    from reconciler.store.layers.worker import main
    main({!r})
except Exception as error:
    sys.exit(f"the process to unpack in failed: {{error}}")
"""
_KNOWN = ("InvalidError", "LimitError", "IntegrityError", "HostError", "ReconcilerError")
_TIMEOUT = 10  # seconds for a worker to end when nobody talks to it any more


class Workers:
    """As many worker processes as there are processors, from ``start`` to ``close``.

    Starting waits for nothing: the sooner it is done, the less of it there is to wait for later.
    """

    def __init__(self, most: int = _MOST) -> None:
        self.count = max(1, min(len(os.sched_getaffinity(0)), most))
        self._process: subprocess.Popen[bytes] | None = None
        self._channels: list[socket.socket] = []

    def start(self) -> Self:
        """No-op when they are started. Raises ``HostError``."""
        if self._process is not None:
            return self
        ends: list[socket.socket] = []
        try:
            for _ in range(self.count):
                mine, their = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                self._channels.append(mine)
                ends.append(their)
            theirs = [their.fileno() for their in ends]
            self._process = subprocess.Popen(
                # Lean: no site directory is looked through, and there is no environment.
                [sys.executable, "-I", "-S", "-c", _CODE.format(_library(), theirs)],
                pass_fds=theirs,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
                env={},
                start_new_session=True,
            )
        except OSError as error:
            for channel in self._channels:
                channel.close()
            self._channels = []
            raise durable.host_error(error, "start a process to unpack in with", Path(sys.executable)) from error
        finally:
            for their in ends:
                their.close()
        return self

    def run(self, number: int, job: Descriptors, target: Path, below: Iterable[Path], limits: Limits) -> Unpacked:
        """Lets worker ``number`` do a job. One job at a time for each worker.

        ``below`` are the lower layers from the top, each given when the worker wants it: that may take its time, and
        raise ``ReconcilerError``. Descriptors stay their owners'. Raises what ``unpack_job`` raises in the worker, and
        ``HostError`` when that ends before its job does.
        """
        channel = self._channels[number]
        lowers = iter(below)
        try:
            socket.send_fds(channel, [encode("job", target, log.threshold(), *astuple(limits))], job)
            while message := channel.recv(MESSAGE):
                kind, *fields = decode(message)
                match kind:
                    case "done":
                        return Unpacked(int(fields[0]), int(fields[1]), fields[2])
                    case "error":
                        raise _raised(*fields)
                    case "log":
                        _forwarded(*fields)
                    case "lower":
                        _send_lower(channel, lowers)
        except OSError as error:
            if not isinstance(error, (BrokenPipeError, ConnectionError)):
                raise durable.host_error(error, "unpack into", target) from error
        raise HostError(
            f"the process that unpacks {target} ended before it was done",
            hint="it may have run out of memory: the kernel log (dmesg) says so",
        )

    def close(self) -> None:
        """Ends them, whatever they are doing, and waits until nothing of them is left. No-op when not started."""
        process, self._process = self._process, None
        if process is None:
            return
        for channel in self._channels:
            with contextlib.suppress(OSError):  # it may have ended before
                channel.shutdown(socket.SHUT_WR)
        try:
            for channel in self._channels:
                channel.settimeout(_TIMEOUT)
                with contextlib.suppress(ConnectionError):
                    while channel.recv(MESSAGE):
                        pass
            process.wait(_TIMEOUT)
        except (TimeoutError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for channel in self._channels:
            channel.close()
        self._channels = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _library() -> list[str]:
    """Where this process imports from, wherever it was started."""
    return [str(Path(errors.__file__).parent.parent), *filter(None, sys.path)]


def _send_lower(channel: socket.socket, lowers: Iterator[Path]) -> None:
    try:
        path = next(lowers, None)
    except ReconcilerError:
        channel.send(b"gone")
        return
    if path is None:
        channel.send(b"end")
        return
    with durable.guarded("open", path):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        socket.send_fds(channel, [b"lower"], [descriptor])
    finally:
        os.close(descriptor)


def _raised(kind: str, message: str, hint: str = "") -> ReconcilerError:
    """The error of a worker, of a type that it may raise."""
    found = getattr(errors, kind) if kind in _KNOWN else ReconcilerError
    raised: ReconcilerError = found(message, hint=hint)
    return raised


def _forwarded(level: str, event: str, *fields: str) -> None:
    if level in ("debug", "info", "warning", "error"):
        pairs = (field.partition("=") for field in fields)
        getattr(_log, level)(event, **{key: value for key, _, value in pairs if key not in ("room", "level", "event")})
