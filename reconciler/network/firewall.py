"""One root's nftables table: masquerading, published ports and isolation, as kernel rules without a proxy process.

Published ports go on working while nothing of ours runs. Each change is one ``nft`` call, and nft applies a call
wholly or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reconciler.errors import ConflictError
from reconciler.network import conntrack, names, nft, ruleset
from reconciler.network.spec import FirewallState, PortMapping


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
        nft.change(ruleset.render(self._table, state))

    def publish(self, ports: Sequence[PortMapping]) -> None:
        """Adds the mappings, all or none; those that are there already are left alone.

        UDP flows that the kernel remembers from before are forgotten, so that the next packet of each finds the
        container. Raises ``ConflictError`` when a port is mapped elsewhere; ``HostError``, also when the table is gone
        (then ``apply`` rebuilds it).
        """
        if ports:
            nft.change(ruleset.change("add", self._table, ports))
            conntrack.forget(ports)

    def unpublish(self, ports: Sequence[PortMapping]) -> None:
        """Removes those of the mappings that are there, and forgets their UDP flows. Raises ``HostError``."""
        if not ports:
            return
        # The kernel deletes by key alone: a port that went to somebody else meanwhile must stay.
        live = _Live(nft.listing("table", "ip", self._table))
        present = [port for port in ports if ruleset.element(port) in live.elements(ruleset.map_of(port))]
        if present:
            nft.change(ruleset.change("delete", self._table, present))
        conntrack.forget(ports)

    def observe(self, wanted: FirewallState) -> tuple[str, ...]:
        """How the live table differs from ``wanted``, one short sentence each; empty when it does not.

        Writes nothing. A rule is known by its place and its comment; that somebody changed the inside of one while
        keeping its comment is not seen. Raises ``HostError`` when nft cannot be asked.
        """
        return _Live(nft.listing("table", "ip", self._table)).drift(self._table, wanted)

    def published_by_others(self, ports: Sequence[PortMapping]) -> tuple[PortMapping, ...]:
        """Those of ``ports`` that another root on this machine publishes: no socket shows them, and its rules may win.

        Writes nothing. Raises ``HostError``.
        """
        foreign: set[str] = set()
        for item in nft.listing("maps", "ip"):
            entry = item.get("map", {})
            if entry.get("table", "").startswith(names.TABLE_PREFIX) and entry["table"] != self._table:
                foreign |= {element.partition(" : ")[0] for element in nft.elements(entry)}
        return tuple(port for port in ports if any(ruleset.overlaps(port, key) for key in foreign))

    def destroy(self) -> None:
        """Removes the table. It is no error when there is none. Raises ``HostError``."""
        nft.change(f"add table ip {self._table}\ndelete table ip {self._table}\n")


class _Live:
    """What nft said of the table."""

    def __init__(self, items: list[dict[str, Any]]) -> None:
        self._present = bool(items)
        self._chains = {item["chain"]["name"]: item["chain"] for item in items if "chain" in item}
        self._rules = [(item["rule"]["chain"], item["rule"].get("comment", "")) for item in items if "rule" in item]
        named = [item[kind] for item in items for kind in ("set", "map") if kind in item]
        self._sets = {entry["name"]: nft.elements(entry) for entry in named}

    def elements(self, name: str) -> frozenset[str]:
        return self._sets.get(name, frozenset())

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
            found += [f"{name} lacks {text}" for text in sorted(expected - self.elements(name))]
            found += [f"{name} has {text} too many" for text in sorted(self.elements(name) - expected)]
        return tuple(found)


def foreign_drops() -> tuple[str, ...]:
    """Forward chains of other tools that drop what they do not know, as ``family table chain``.

    nftables asks every chain: none of our rules can overrule a drop there, so whoever owns that chain has to let the
    containers' packets through. Writes nothing. Raises ``HostError``.
    """
    chains = [item["chain"] for item in nft.listing("chains") if "chain" in item]
    return tuple(
        f"{chain['family']} {chain['table']} {chain['name']}"
        for chain in chains
        if chain.get("hook") == "forward" and chain.get("policy") == "drop" and chain["family"] in ("ip", "inet")
    )
