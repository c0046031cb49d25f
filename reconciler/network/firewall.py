"""One root's nftables table: masquerading, published ports and isolation, as kernel rules without a proxy process.

Published ports go on working while nothing of ours runs. Each change is one ``nft`` call, and nft applies a call
wholly or not at all.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

from reconciler.errors import ConflictError, HostError
from reconciler.network import conntrack, names, ruleset
from reconciler.network.spec import FirewallState, PortMapping

_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
_TIMEOUT = 30.0
_MISSING = "No such file or directory"
_EXISTS = "File exists"


class Firewall:
    """The rules of one root; those of others, and of other roots, are never touched."""

    def __init__(self, root_id: str) -> None:
        self._table = names.table(root_id)

    def apply(self, state: FirewallState) -> None:
        """Replaces everything by what ``state`` says, in one transaction. Idempotent; repairs any drift.

        Connections that are established stay. Raises ``ConflictError`` when two mappings claim one port,
        ``InvalidError`` when a host address is not IPv4, ``HostError`` when nft fails.
        """
        claimed: dict[str, PortMapping] = {}
        for port in state.ports:
            other = claimed.setdefault(ruleset.key(port), port)
            if other != port:
                raise ConflictError(f"{other} and {port} publish the same port", hint="publish one of them elsewhere")
        self._change(ruleset.render(self._table, state))

    def publish(self, ports: Sequence[PortMapping]) -> None:
        """Adds the mappings, all or none; those that are there already are left alone.

        UDP flows that the kernel remembers from before are forgotten, so that the next packet of each finds the
        container. Raises ``ConflictError`` when a port is mapped elsewhere; ``HostError``, also when the table is gone
        (then ``apply`` rebuilds it).
        """
        if ports:
            self._change(ruleset.change("add", self._table, ports))
            conntrack.forget(ports)

    def unpublish(self, ports: Sequence[PortMapping]) -> None:
        """Removes those of the mappings that are there, and forgets their UDP flows. Raises ``HostError``."""
        if not ports:
            return
        # The kernel deletes by key alone: a port that went to somebody else meanwhile must stay.
        live = self._live()
        present = [port for port in ports if ruleset.element(port) in live.elements(port)]
        if present:
            self._change(ruleset.change("delete", self._table, present))
        conntrack.forget(ports)

    def observe(self, wanted: FirewallState) -> tuple[str, ...]:
        """How the live table differs from ``wanted``, one short sentence each; empty when it does not.

        Writes nothing. A rule is known by its place and its comment; that somebody changed the inside of one while
        keeping its comment is not seen. Raises ``HostError`` when nft cannot be asked.
        """
        return self._live().drift(self._table, wanted)

    def destroy(self) -> None:
        """Removes the table. It is no error when there is none. Raises ``HostError``."""
        self._change(f"add table ip {self._table}\ndelete table ip {self._table}\n")

    def _change(self, script: str) -> None:
        result = _nft("-f", "-", script=script)
        if result.returncode == 0:
            return
        if _EXISTS in result.stderr:
            raise ConflictError(
                f"a port is already published by another container: {_first_line(result.stderr)}",
                hint="publish one of the two on another port or address",
            )
        raise _failed(result)

    def _live(self) -> _Live:
        result = _nft("-j", "list", "table", "ip", self._table)
        if result.returncode == 0:
            return _Live([item for item in json.loads(result.stdout)["nftables"] if "metainfo" not in item])
        if _MISSING in result.stderr:
            return _Live([])
        raise _failed(result)


class _Live:
    """What ``nft -j list table`` said."""

    def __init__(self, items: list[dict[str, Any]]) -> None:
        self._present = bool(items)
        self._chains = {item["chain"]["name"]: item["chain"] for item in items if "chain" in item}
        self._rules = [(item["rule"]["chain"], item["rule"].get("comment", "")) for item in items if "rule" in item]
        named = [item[kind] for item in items for kind in ("set", "map") if kind in item]
        self._sets = {entry["name"]: frozenset(map(_text, entry.get("elem", ()))) for entry in named}

    def elements(self, port: PortMapping) -> frozenset[str]:
        return self._sets.get(ruleset.map_of(port), frozenset())

    def drift(self, table: str, wanted: FirewallState) -> tuple[str, ...]:
        if not self._present:
            return (f"the table ip {table} is gone",)
        found = []
        for chain in ruleset.CHAINS:
            live = self._chains.get(chain.name)
            hooked = live is not None and (not chain.hook or f"hook {live.get('hook')} " in chain.hook)
            comments = [comment for name, comment in self._rules if name == chain.name]
            if not hooked or comments != [comment for comment, _ in chain.rules]:
                found.append(f"the rules of chain {chain.name} were changed")
        for name, expected in ruleset.contents(wanted).items():
            live_elements = self._sets.get(name, frozenset())
            found += [f"{name} lacks {text}" for text in sorted(expected - live_elements)]
            found += [f"{name} has {text} too many" for text in sorted(live_elements - expected)]
        return tuple(found)


def foreign_drops() -> tuple[str, ...]:
    """Forward chains of other tools that drop what they do not know, as ``family table chain``.

    nftables asks every chain: none of our rules can overrule a drop there, so whoever owns that chain has to let the
    containers' packets through. Writes nothing. Raises ``HostError``.
    """
    result = _nft("-j", "list", "chains")
    if result.returncode:
        raise _failed(result)
    chains = [item["chain"] for item in json.loads(result.stdout)["nftables"] if "chain" in item]
    return tuple(
        f"{chain['family']} {chain['table']} {chain['name']}"
        for chain in chains
        if chain.get("hook") == "forward" and chain.get("policy") == "drop" and chain["family"] in ("ip", "inet")
    )


def _text(entry: Any) -> str:
    """An element of nft's JSON in the words of the rule text."""
    if isinstance(entry, list):
        return " : ".join(map(_text, entry))
    if isinstance(entry, dict):
        if "concat" in entry:
            return " . ".join(map(_text, entry["concat"]))
        if "prefix" in entry:
            return f"{entry['prefix']['addr']}/{entry['prefix']['len']}"
    return str(entry)


def _nft(*arguments: str, script: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["nft", *arguments],
            input=script,
            capture_output=True,
            text=True,
            env=_ENVIRONMENT,
            timeout=_TIMEOUT,
            check=False,
        )
    except FileNotFoundError as error:
        raise HostError("nft is not installed", hint="install the package nftables") from error
    except subprocess.TimeoutExpired as error:
        raise HostError(f"nft did not answer within {_TIMEOUT:.0f} s", hint="try again") from error


def _failed(result: subprocess.CompletedProcess[str]) -> HostError:
    return HostError(
        f"nft failed: {_first_line(result.stderr)}", hint="run as root, on a kernel with nf_tables and NAT"
    )


def _first_line(text: str) -> str:
    return next((line for line in text.splitlines() if line), "no message")
