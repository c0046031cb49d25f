"""Names of kernel objects, derived from who owns them, so that two roots on one machine never meet.

An interface name has at most 15 bytes (IFNAMSIZ - 1): ``rc``, 5 characters for the root, ``b`` or ``v``, 7 for the
object. In base 32 that is 25 bits for the root and 35 for the object; ownership is settled by the link's alias, which
holds the root's whole identity, and the name only has to be unlikely to clash.
"""

from __future__ import annotations

import base64
import hashlib

TABLE_PREFIX = "reconciler_"
"""What the nftables tables of all roots begin with."""


def root_prefix(root_id: str) -> str:
    """What the names of all interfaces of this root begin with."""
    return "rc" + _hash(root_id)[:5]


def bridge(root_id: str, network_id: str) -> str:
    """The bridge of one network."""
    return f"{root_prefix(root_id)}b{_hash(network_id)[:7]}"


def endpoint(root_id: str, network_id: str, container_id: str) -> str:
    """The host's end of the veth pair that joins a container to a network."""
    return f"{root_prefix(root_id)}v{_hash(f'{network_id} {container_id}')[:7]}"


def table(root_id: str) -> str:
    """The nftables table that holds all rules of this root."""
    return TABLE_PREFIX + _hash(root_id)[:12]


def alias(root_id: str) -> str:
    """What marks an interface as made by this root (``ip link`` shows it)."""
    return f"reconciler {root_id}"


def _hash(text: str) -> str:
    return base64.b32encode(hashlib.sha256(text.encode()).digest()).decode().lower()
