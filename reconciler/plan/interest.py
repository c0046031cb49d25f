"""What an observation must be asked for, so that a plan can be made of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from reconciler.model.address import Address
from reconciler.model.desired import Desired, Pin
from reconciler.model.observed import Interest
from reconciler.model.resources import Commit, Image, Mirror, Pull, Registry, Sync, Tag


def interest_of(desired: Desired) -> Interest:
    """The facts that ``desired`` (pinned) depends on: its stacks, pushed tags, syncs, committed containers, pinned
    blobs."""
    resources = desired.resources
    sources = [item.source for item in resources.values() if isinstance(item, Image)]
    pins = [pin for pin in desired.pins.values() if isinstance(pin, Pin)]
    return Interest(
        stacks=desired.stacks,
        source=desired.source,
        addresses=frozenset(resources),
        remote_tags=frozenset(a for a, item in resources.items() if isinstance(item, Tag) and item.push is not None),
        syncs={address: item for address, item in resources.items() if isinstance(item, Sync)},
        fingerprints=frozenset(source.container for source in sources if isinstance(source, Commit)),
        blobs=frozenset(blob.digest for pin in pins for blob in pin.blobs),
    )


def pulls_of(desired: Desired) -> Mapping[Address, Pull]:
    """The images whose tags must be pinned to digests before planning."""
    images = {address: item for address, item in desired.resources.items() if isinstance(item, Image)}
    return {address: item.source for address, item in images.items() if isinstance(item.source, Pull)}


def host_facts(desired: Desired) -> tuple[tuple[Registry, ...], tuple[Mirror, ...], bool]:
    """The registries and the mirrors that ``desired`` declares, by host; and whether it has read the host's files."""
    found = desired.resources.values()
    registries = sorted((item for item in found if isinstance(item, Registry)), key=lambda item: item.host)
    mirrors = sorted((item for item in found if isinstance(item, Mirror)), key=lambda item: item.host)
    return tuple(registries), tuple(mirrors), bool(desired.from_host)
