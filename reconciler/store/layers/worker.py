"""A process that unpacks layers, one after the other, each with the layer's directory as its root.

It has no other files than those it is handed over its socket, few capabilities, and nothing to execute or import: what
an archive gets wrong in here stays in its layer. It ends when the socket's other end closes. ``workers`` starts it and
speaks with it (``worker_messages``).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import resource
import select
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import zstandard

from reconciler import log
from reconciler.errors import ReconcilerError
from reconciler.linux import confine
from reconciler.store.archive.compression import GzipWriter
from reconciler.store.archive.limits import Limits
from reconciler.store.layers.job import unpack
from reconciler.store.layers.lower import LowerLayers
from reconciler.store.layers.worker_messages import MESSAGE, Descriptors, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_MAX_LOGGED = 100  # of one layer: an archive must not fill the log

# What chown, chmod, mknod, security.capability and trusted.* need, whoever owns what; and chroot.
_CAPABILITIES = (
    confine.CHOWN,
    confine.DAC_OVERRIDE,
    confine.DAC_READ_SEARCH,
    confine.FOWNER,
    confine.FSETID,
    confine.SYS_CHROOT,
    confine.SYS_ADMIN,
    confine.MKNOD,
    confine.SETFCAP,
)


def main(descriptors: Sequence[int]) -> None:
    """Serves the sockets with these descriptors, each in a process of its own."""
    _prepare()
    mine, *others = descriptors
    children: list[int] = []
    for number, descriptor in enumerate(others):
        child = os.fork()
        if child == 0:
            for foreign in (mine, *others[number + 1 :]):
                os.close(foreign)
            mine, children = descriptor, []
            break
        os.close(descriptor)
        children.append(child)
    channel = socket.socket(fileno=mine)
    threading.Thread(target=_end_with, args=(channel, children), daemon=True).start()
    while _serve(channel):
        pass
    threading.Event().wait()


def _prepare() -> None:
    """Loads what is loaded late elsewhere: once the root is a layer, a library or module would come from that."""
    os.umask(0)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with suppress(OSError):
        ctypes.CDLL("libgcc_s.so.1")  # glibc wants it when a thread ends
    hashlib.sha256(b"").hexdigest()
    zstandard.ZstdDecompressor().decompressobj()
    GzipWriter().finish()
    if os.geteuid() == 0:
        confine.keep_only(_CAPABILITIES)


def _end_with(channel: socket.socket, children: Sequence[int]) -> None:
    """Ends this process, whatever it is doing, when the other end hangs up; it has hung up on the children too."""
    poller = select.poll()
    poller.register(channel, select.POLLRDHUP)
    poller.poll()
    for child in children:
        os.waitpid(child, 0)
    os._exit(0)


def _serve(channel: socket.socket) -> bool:
    message, descriptors, _, _ = socket.recv_fds(channel, MESSAGE, 4)
    if not message:
        return False
    _, target, threshold, *bounds = decode(message)
    fetched = _Lowers(channel)
    log.forward(_forwarder(channel), threshold=int(threshold))
    try:
        job = Descriptors(*descriptors)
        confine.enter_root(job.directory)
        confine.import_no_more()
        done = unpack(job, Path(target), lambda: fetched.layers, Limits(*map(int, bounds)), is_confined=True)
        answer = encode("done", *done)
    except ReconcilerError as error:
        answer = encode("error", type(error).__name__, error, error.hint)
    except Exception as error:  # noqa: BLE001  the other side says so
        answer = encode("error", ReconcilerError.__name__, f"cannot unpack {target}: {error!r}", "")
    finally:
        fetched.close()
        for descriptor in descriptors:
            os.close(descriptor)
    channel.send(answer)
    return True


class _Lowers:
    """The lower layers, top first: each fetched when somebody looks that far down, and waited for."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._open: list[int] = []
        self._is_all = False
        self.layers = LowerLayers(self)

    def __iter__(self) -> Iterator[int]:
        at = 0
        while at < len(self._open) or self._fetch():
            yield self._open[at]
            at += 1

    def close(self) -> None:
        while self._open:
            os.close(self._open.pop())

    def _fetch(self) -> bool:
        if not self._is_all:
            self._channel.send(b"lower")
            message, descriptors, _, _ = socket.recv_fds(self._channel, MESSAGE, 1)
            if message not in (b"lower", b"end"):
                raise ReconcilerError("a lower layer of the image could not be unpacked")
            self._open += descriptors
            self._is_all = not descriptors
        return not self._is_all


def _forwarder(channel: socket.socket) -> Callable[..., None]:
    left = _MAX_LOGGED

    def emit(level: str, event: str, **fields: object) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            channel.send(encode("log", level, event, *(f"{key}={value}" for key, value in fields.items())))

    return emit
