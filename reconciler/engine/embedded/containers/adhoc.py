"""Containers that people make by hand, beside the plans: they belong to no stack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.engine.embedded.containers import volumes
from reconciler.engine.embedded.containers.names import check_name, random_name
from reconciler.engine.embedded.containers.rows import ContainerRow
from reconciler.engine.embedded.wiring import ADHOC_NETWORK
from reconciler.errors import ConflictError, NotFoundError
from reconciler.model.address import Address
from reconciler.model.canonical import form
from reconciler.model.resources import Container, Network
from reconciler.oci.digest import Digest

if TYPE_CHECKING:
    from reconciler.engine.embedded.machinery import Machinery
    from reconciler.engine.embedded.state import State


def create_adhoc(
    machinery: Machinery,
    container: Container,
    image: Digest,
    *,
    name: str | None,
    terminal: bool = False,
    stdin: bool = False,
) -> ContainerRow:
    """Makes a container that belongs to no stack, with the network and the volumes it asks for. Needs the turn.

    ``container.image`` is shown in listings. Without ``name`` it gets a random one. Raises as ``Containers.create``.
    """
    taken = {row.name for row in machinery.state.containers.all() if row.name}
    chosen = random_name(taken) if name is None else check_name(name)
    if chosen in taken:
        raise ConflictError(
            f"the name {chosen} is taken", hint=f"remove it first: reconciler container rm {chosen}, or choose another"
        )
    ensure_networks(machinery, container.networks)
    for mount in container.mounts:
        if mount.kind == "volume" and mount.source:
            _ensure_volume(machinery.state, Address.parse(mount.source))
    # The environment may hold what nobody should read in a listing: it is in the container's own directory alone.
    stored = {key: value for key, value in form(container).items() if key != "environment"}
    return machinery.containers.create(
        container,
        image,
        name=chosen,
        address=None,
        form={**stored, "image": container.image.name},
        terminal=terminal,
        stdin=stdin,
    )


def ensure_networks(machinery: Machinery, networks: tuple[Address, ...]) -> None:
    """Puts back what a reboot took of the networks, and makes the root's ``bridge`` at its first use.

    Raises ``NotFoundError`` for another network that is not there.
    """
    known = machinery.state.networks.all()
    for address in networks:
        row = known.get(address)
        if row is None and address != ADHOC_NETWORK:
            names = ", ".join(sorted(network.name for network in known)) or "none"
            raise NotFoundError(f"no network {address.name!a}", hint=f"the networks are: {names}; or use none")
        machinery.wiring.ensure(address, Network(), row.form if row else {})


def drop_network(machinery: Machinery) -> bool:
    """Takes the root's ``bridge`` away unless a container of no stack is left, which may want it again.

    False when there was none or it stays. Needs the turn.
    """
    if any(row.address is None for row in machinery.state.containers.all()):
        return False
    return machinery.wiring.remove(ADHOC_NETWORK)


def _ensure_volume(state: State, address: Address) -> None:
    name = address.name
    if "/" in name:
        state.volumes.get(name)
    elif name not in state.volumes.all():
        volumes.ensure(state.root, state.volumes, name, form={}, owner=str(address))
