"""The ip command of iproute2: changes of interfaces, addresses and routes, and what it knows of one interface.

One batch is one process of some 4 ms, where pyroute2 costs a process 150 ms of CPU to import: that one is left to
whole tables and to conntrack. Everything here acts in the network namespace of the thread that calls it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from ipaddress import IPv4Interface

from reconciler.network.interfaces import find_interface
from reconciler.network.program import run
from reconciler.value import dataclass

_FAILED = "Command failed"
_MISSING = ("Cannot find device", "RTNETLINK answers: No such device")


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface. ``master`` is the bridge it is on, or empty; ``peer`` the other end's index, for a veth."""

    index: int
    name: str
    up: bool
    mac: str
    alias: str
    master: str
    peer: int
    addresses: tuple[IPv4Interface, ...]


def change(*commands: str) -> None:
    """Carries out commands of ip(8) one after the other, to the first that fails: each must bear to be repeated.

    Quote what may hold a blank; ``#`` begins a comment. Raises ``OSError`` with the kernel's words, ``HostError``
    without ip.
    """
    result = _run("-batch", "-", script=_lines(commands))
    if result.returncode != 0:
        raise _refusal(result.stderr.splitlines())


def delete(names: Iterable[str]) -> None:
    """Deletes interfaces by name; those that are not there are none to delete. Raises as ``change``."""
    result = _run("-force", "-batch", "-", script=_lines(f"link delete dev {name}" for name in names))
    refusals = [line for line in result.stderr.splitlines() if not line.startswith((*_MISSING, _FAILED))]
    if refusals:
        raise _refusal(refusals)


def find_link(name: str) -> Link | None:
    """One interface by name, or None. Raises as ``change``."""
    if find_interface(name) is None:
        return None
    result = _run("-json", "-details", "address", "show", "dev", name)  # details: the alias is one
    if result.returncode != 0:
        if find_interface(name) is None:
            return None  # it went meanwhile
        raise _refusal(result.stderr.splitlines())
    answer = json.loads(result.stdout)[0]
    return Link(
        index=answer["ifindex"],
        name=answer["ifname"],
        up="UP" in answer["flags"],
        mac=answer.get("address", ""),
        alias=answer.get("ifalias", ""),
        master=answer.get("master", ""),
        peer=answer.get("link_index", 0),
        addresses=tuple(
            IPv4Interface((address["local"], address["prefixlen"]))
            for address in answer["addr_info"]
            if address["family"] == "inet"
        ),
    )


def _lines(commands: Iterable[str]) -> str:
    return "".join(f"{command}\n" for command in commands)


def _refusal(lines: list[str]) -> OSError:
    words = next((line for line in lines if line and not line.startswith(_FAILED)), "ip gives no reason")
    return OSError(words.removeprefix("RTNETLINK answers: ").removeprefix("Error: "))


def _run(*arguments: str, script: str = "") -> subprocess.CompletedProcess[str]:
    return run("ip", "iproute2", *arguments, script=script)
