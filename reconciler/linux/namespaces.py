"""Network namespaces that outlive the process which made them (namespaces(7), setns(2)).

Python 3.11 has neither ``setns`` nor ``unshare``. A namespace belongs to a thread, so everything here that enters one
does it in a thread that ends afterwards: no thread ever has to find its way back.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

from reconciler.errors import HostError
from reconciler.linux import durable, watch

T = TypeVar("T")

_POINT = "netns"  # the name of this call site in linux.durable
_CLONE_NEWNET = 0x40000000
_MS_BIND = 0x1000
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def create(path: Path) -> None:
    """Makes sure that ``path`` is a network namespace of its own, with the loopback device still down.

    Idempotent: a namespace that is already there stays, a plain file left by a crash is mounted over. Missing
    parents are made. Raises ``HostError``.
    """
    durable.make_directories(path.parent, point=_POINT)
    if exists(path):
        return
    if not path.exists():
        os.close(durable.create(path, point=_POINT, mode=0o400))

    def make() -> None:
        _call("unshare", _libc.unshare(_CLONE_NEWNET), path)
        source = b"/proc/thread-self/ns/net"
        with durable.guarded("mount", path), watch.operation(_POINT, "mount", path):
            _call("mount", _libc.mount(source, os.fsencode(path), None, ctypes.c_ulong(_MS_BIND), None), path)

    _in_thread(make)


def exists(path: Path) -> bool:
    """Whether a network namespace is mounted at ``path``."""
    try:
        # Namespaces live on one kernel-internal file system; a file left by a crash is on the file system around it.
        return path.stat().st_dev == Path("/proc/self/ns/net").stat().st_dev
    except FileNotFoundError:
        return False


def delete(path: Path) -> None:
    """Lets go of the namespace at ``path`` and removes the file. It is no error when there is none.

    The kernel destroys the namespace, and every veth pair with an end in it, a moment after its last process ends.
    """
    while exists(path):
        with durable.guarded("unmount", path), watch.operation(_POINT, "unmount", path):
            _call("umount", _libc.umount2(os.fsencode(path), _MNT_DETACH), path)
    durable.unlink(path, point=_POINT, sync=False)


def sweep(directory: Path, keep: Collection[str]) -> tuple[str, ...]:
    """Deletes every namespace in ``directory`` whose file name is not in ``keep``; returns the names it deleted."""
    if not directory.is_dir():
        return ()
    stale = tuple(sorted(entry.name for entry in directory.iterdir() if entry.name not in keep))
    for name in stale:
        delete(directory / name)
    return stale


def run(path: Path, function: Callable[[], T]) -> T:
    """Calls ``function`` inside the network namespace at ``path``, in a thread, and gives back what it gives or raises.

    Sockets that it opens stay in that namespace, and so do its reads and writes below /proc/sys/net. Raises
    ``HostError`` when there is no namespace at ``path``.
    """

    def enter() -> T:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise _failure("open", error.errno or 0, path) from error
        try:
            _call("setns", _libc.setns(descriptor, _CLONE_NEWNET), path)
        finally:
            os.close(descriptor)
        return function()

    return _in_thread(enter)


def _in_thread(function: Callable[[], T]) -> T:
    results: list[T] = []
    failures: list[BaseException] = []

    def body() -> None:
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001  it is raised again in the caller's thread
            failures.append(error)

    thread = threading.Thread(target=body, name="netns")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def _call(name: str, result: int, path: Path) -> None:
    if result != 0:
        raise _failure(name, ctypes.get_errno(), path)


def _failure(name: str, number: int, path: Path) -> HostError:
    return HostError(
        f"cannot {name} the network namespace {path}: {os.strerror(number)}",
        hint="run as root on a host whose kernel has network namespaces",
    )
