"""Messages and dumps, against the kernel (reading needs no root) and against a scripted kernel."""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.network import rtnetlink
from reconciler.network.netlink import Netlink, attribute, attributes, nested

_HEADER = struct.Struct("=IHHII")
_INTERRUPTED, _DONE, _ERROR = 0x10, 3, 2


@given(st.dictionaries(st.integers(0, 0x3FFF), st.binary(max_size=40)))
def test_attributes_come_back_as_they_went(values: dict[int, bytes]) -> None:
    packed = b"".join(attribute(kind, value) for kind, value in values.items())
    assert len(packed) % 4 == 0
    assert attributes(packed) == values
    assert attributes(attributes(nested(7, packed))[7]) == values


@given(st.binary(max_size=100))
def test_attributes_of_any_bytes_end(data: bytes) -> None:
    attributes(data)


def test_the_kernel_tells_of_loopback() -> None:
    with Netlink() as netlink:
        loopback = next(link for link in rtnetlink.links(netlink) if link.name == "lo")
        assert rtnetlink.find_link(netlink, "lo") == loopback
        assert rtnetlink.link_at(netlink, loopback.index) == loopback
        assert rtnetlink.find_link(netlink, "rcnothing") is None


@contextmanager
def scripted(*answers: list[tuple[int, int, int, bytes]]) -> Iterator[Netlink]:
    """A netlink whose kernel gives these answers to one request each: (sequence shift, type, flags, body)."""
    ours, kernels = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    netlink = Netlink()
    netlink.close()
    netlink._socket = ours

    def kernel() -> None:
        for answer in answers:
            sequence = _HEADER.unpack_from(kernels.recv(1000))[3]
            for shift, kind, flags, body in answer:
                kernels.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, sequence + shift, 0) + body)

    thread = threading.Thread(target=kernel)
    thread.start()
    try:
        yield netlink
    finally:
        thread.join()
        ours.close()
        kernels.close()


def failed(number: int) -> tuple[int, int, int, bytes]:
    return (0, _ERROR, 0, struct.pack("=i", -number))


DONE = (0, _DONE, 0, struct.pack("=i", 0))


def test_n17_a_dump_is_repeated_until_it_is_consistent() -> None:
    torn = [(0, 16, _INTERRUPTED, b"old!"), DONE]
    whole = [(-1, 16, 0, b"late"), (0, 16, 0, b"new1"), (0, 16, 0, b"new2"), DONE]
    with scripted(torn, [failed(errno.ENOBUFS)], [failed(errno.EINTR)], whole) as netlink:
        assert netlink.dump(18, b"") == [b"new1", b"new2"]


def test_n17_a_table_that_never_rests_is_an_error() -> None:
    with scripted(*[[failed(errno.EINTR)]] * 20) as netlink, pytest.raises(OSError, match="too fast"):
        netlink.dump(18, b"")


def test_a_refusal_carries_the_kernels_errno() -> None:
    with scripted([failed(errno.EPERM)]) as netlink, pytest.raises(PermissionError):
        netlink.request(16, b"")
