"""Dumps and refusals, against the kernel (reading needs no root) and against a scripted kernel."""

from __future__ import annotations

import errno
import functools
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Interface
from pathlib import Path

import pyroute2
import pytest

from reconciler.network.rtnetlink import Rtnetlink

_HEADER = struct.Struct("=IHHII")
_MULTIPART, _INTERRUPTED = 0x2, 0x10
_ERROR, _DONE, _NEW_ADDRESS = 2, 3, 20
_IFA_LOCAL = 2
Answer = tuple[int, int, bytes]


def test_the_kernel_tells_of_loopback() -> None:
    with Rtnetlink() as kernel:
        assert kernel.aliases()["lo"] == ""
        assert IPv4Interface("127.0.0.1/8") in kernel.addresses()


def test_threads_leave_no_socket_open() -> None:
    def use() -> None:
        with Rtnetlink() as kernel:
            assert "lo" in kernel.aliases()

    use()
    before = descriptors()
    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert descriptors() == before


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_pyroute2_is_imported_only_when_it_is_used() -> None:
    code = """
import sys
from ipaddress import IPv4Address
from reconciler.network import conntrack, firewall, links, sweep
from reconciler.network.iproute import find_link
from reconciler.network.spec import PortMapping
assert find_link("lo")
assert links.Links("r").inherited_mtu()
assert conntrack.forget([PortMapping("", 80, IPv4Address("10.0.0.2"), 80, "tcp")]) == 0
assert "pyroute2" not in sys.modules
links.Links("r").host_routes()
assert "pyroute2" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@contextmanager
def scripted(monkeypatch: pytest.MonkeyPatch, *scripts: list[Answer]) -> Iterator[Rtnetlink]:
    """A socket whose kernel answers each request by the next script: messages of type, flags and body."""
    ours, kernels = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    def answer() -> None:
        for script in scripts:
            request = kernels.recv(1000)
            if not request:
                return
            sequence = _HEADER.unpack_from(request)[3]
            for kind, flags, body in script:
                kernels.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body)

    thread = threading.Thread(target=answer)
    thread.start()
    monkeypatch.setattr(pyroute2, "IPRoute", functools.partial(pyroute2.IPRoute, use_socket=ours))
    try:
        with Rtnetlink() as kernel:
            yield kernel
    finally:
        kernels.shutdown(socket.SHUT_RD)
        thread.join()
        ours.close()
        kernels.close()


def failed(number: int) -> list[Answer]:
    request = _HEADER.pack(_HEADER.size, 0, 0, 0, 0)
    return [(_ERROR, 0, struct.pack("=i", -number) + request)]


def address(last: int, flags: int = 0) -> Answer:
    body = struct.pack("=BBBBI", socket.AF_INET, 24, 0, 0, 1)
    body += struct.pack("=HH4B", 8, _IFA_LOCAL, 10, 0, 0, last)
    return (_NEW_ADDRESS, _MULTIPART | flags, body)


DONE: Answer = (_DONE, _MULTIPART, struct.pack("=i", 0))


def test_n17_a_dump_is_repeated_until_it_is_consistent(monkeypatch: pytest.MonkeyPatch) -> None:
    torn = [address(1), address(2, _INTERRUPTED), DONE]
    whole = [address(3), address(4), DONE]
    with scripted(monkeypatch, torn, failed(errno.ENOBUFS), failed(errno.EINTR), whole) as kernel:
        assert kernel.addresses() == [IPv4Interface("10.0.0.3/24"), IPv4Interface("10.0.0.4/24")]


def test_n17_a_table_that_never_rests_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(monkeypatch, *[failed(errno.EINTR)] * 20) as kernel, pytest.raises(OSError, match="too fast"):
        kernel.addresses()


def test_a_refusal_carries_the_kernels_errno(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(monkeypatch, failed(errno.EPERM)) as kernel, pytest.raises(PermissionError):
        kernel.aliases()
