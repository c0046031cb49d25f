"""What people do by hand, beside the plans: containers of no stack, and images pulled for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from reconciler.engine.embedded import volumes
from reconciler.engine.embedded.container_rows import ContainerRow
from reconciler.engine.embedded.names import check_name, random_name
from reconciler.engine.embedded.wiring import ADHOC_NETWORK
from reconciler.errors import ConflictError, NotFoundError, RegistryError
from reconciler.model.address import Address
from reconciler.model.canonical import form
from reconciler.model.resources import Container, Network, Pull, Registry
from reconciler.oci.digest import Digest
from reconciler.oci.reference import Reference
from reconciler.store.images import ImageRecord, Name

if TYPE_CHECKING:
    from reconciler.engine.embedded.engine import EmbeddedEngine
    from reconciler.engine.embedded.machinery import Machinery
    from reconciler.engine.embedded.state import State
    from reconciler.engine.port import HostFacts

ItemProgress = Callable[[str, str, int, int | None], None]


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


def pull_image(
    engine: EmbeddedEngine, pull: Pull, progress: ItemProgress, *, plain_http: bool = False
) -> tuple[ImageRecord, int]:
    """The image that ``pull`` means by its policy, made complete on this host and named; and the bytes fetched.

    Needs the turn. The tag's owner stays who it was. Raises ``NotFoundError``, ``RegistryError``, ``ConflictError``.
    """
    from reconciler.engine.port import HostFacts
    from reconciler.model.facts import Absent, Unknown

    machinery = engine.writer()
    hosts = plain_hosts(machinery.state, pull.reference.registry) if plain_http else HostFacts()
    address = Address("image", pull.reference.familiar)
    found = engine.resolve({address: pull}, hosts)[address]
    attempt = f"pull {pull.reference.familiar}"
    if isinstance(found, Absent):
        raise NotFoundError(found.reason, attempt=attempt, hint="check the name and the tag")
    if isinstance(found, Unknown):
        raise RegistryError(found.reason, attempt=attempt, hint=found.hint)
    known = machinery.state.names.lookup(str(pull.reference))
    check_movable(machinery.state, pull.reference, found.digest, pulled=True)
    record, fetched = machinery.images.pull(
        engine.client(hosts), pull.reference, found.digest, found.index, progress, pull.platform
    )
    machinery.state.names.set(Name(str(pull.reference), record.digest, known.stack if known else "", "tag"))
    return record, fetched


def check_movable(state: State, reference: Reference, digest: Digest, *, pulled: bool = False) -> None:
    """Raises ``ConflictError`` when naming ``digest`` so by hand would move a tag that a stack owns.

    What a stack only pulls may be ``pulled`` anew.
    """
    known = state.names.lookup(str(reference))
    if known is None or known.digest == digest or not known.stack:
        return
    if pulled and Address("tag", str(reference)) not in state.tags.all():
        return
    raise ConflictError(
        f"the tag {reference.familiar} belongs to stack {known.stack}",
        hint="change it in the specs, or choose another tag",
    )


def plain_hosts(state: State, host: str) -> HostFacts:
    """``host`` as it was recorded, but over plain HTTP."""
    from reconciler.engine.embedded.registries import recorded_facts
    from reconciler.engine.port import HostFacts

    recorded = {registry.host: registry for registry in recorded_facts(state.facts.all()).registries}
    return HostFacts((dataclasses.replace(recorded.get(host, Registry(host)), plain_http=True),))


def _ensure_volume(state: State, address: Address) -> None:
    name = address.name
    if "/" in name:
        state.volumes.get(name)
    elif name not in state.volumes.all():
        volumes.ensure(state.root, state.volumes, name, form={}, owner=str(address))
