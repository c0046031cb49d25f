"""The ip command: what it says of an interface, and what it refuses. No change here would be allowed to anybody."""

from __future__ import annotations

from ipaddress import IPv4Interface

import pytest

from reconciler.errors import HostError
from reconciler.network import iproute, program


def test_ip_tells_of_loopback() -> None:
    loopback = iproute.find_link("lo")
    assert loopback is not None
    assert (loopback.index, loopback.up, loopback.alias, loopback.master, loopback.peer) == (1, True, "", "", 0)
    assert IPv4Interface("127.0.0.1/8") in loopback.addresses


def test_an_interface_that_is_not_there_is_none() -> None:
    assert iproute.find_link("there-is-none") is None


def test_a_batch_ends_at_its_first_refusal_with_the_words_for_it() -> None:
    with pytest.raises(OSError, match=r'^Cannot find device "none1"$'):
        iproute.change("link set dev none1 up", "link set dev none2 up")


def test_deleting_what_is_not_there_is_fine() -> None:
    iproute.delete(["none1", "none2"])


def test_a_refusal_to_delete_is_told_whatever_else_is_not_there() -> None:
    with pytest.raises(OSError, match="Operation not"):
        iproute.delete(["none1", "lo", "none2"])


def test_without_ip_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "_ENVIRONMENT", {"PATH": "/nowhere"})
    with pytest.raises(HostError) as caught:
        iproute.change("link set dev none1 up")
    assert "iproute2" in str(caught.value.hint)
