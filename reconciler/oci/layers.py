"""Diff IDs to chain IDs (OCI image-spec, config.md, "Layer ChainID")."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.oci.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Iterable


def chain_ids(diff_ids: Iterable[Digest]) -> tuple[Digest, ...]:
    """The chain ID of every prefix of ``diff_ids``, lowest first: one per layer, the last names the whole stack."""
    chains: list[Digest] = []
    for diff_id in diff_ids:
        chains.append(Digest.of(f"{chains[-1]} {diff_id}".encode()) if chains else diff_id)
    return tuple(chains)
