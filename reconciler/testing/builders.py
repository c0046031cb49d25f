"""Builders: desired resources in few words, for tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from reconciler.model.address import Address, in_stack
from reconciler.model.desired import Desired, Location
from reconciler.model.resources import (
    Commit,
    Container,
    Dependency,
    FileContent,
    Image,
    Import,
    Mount,
    Network,
    Port,
    Pull,
    PullPolicy,
    PushRule,
    Resource,
    Restart,
    Sync,
    Tag,
    Volume,
)
from reconciler.model.selection import TagSelection
from reconciler.oci.digest import Digest
from reconciler.oci.reference import Reference


def digest(seed: str) -> Digest:
    """A digest that is the same for the same seed."""
    return Digest.of(seed.encode())


class Stack:
    """Collects the resources of one stack by their names, as a spec file does."""

    def __init__(self, name: str = "shop", *, source: str = "", revision: str = "") -> None:
        self.name = name
        self.source = source
        self.revision = revision
        self.resources: dict[Address, Resource] = {}
        self.owners: dict[Address, frozenset[str]] = {}

    def add(self, address: Address, resource: Resource) -> Address:
        self.resources[address] = resource
        self.owners[address] = frozenset({self.name})
        return address

    def pull(self, name: str, reference: str, policy: PullPolicy = "missing", **track: Any) -> Address:
        """With ``track``, fields of a ``TagSelection``, the tag of the repository ``reference`` is picked."""
        parsed = Reference.parse(reference)
        if track and parsed.digest is None:
            parsed = parsed.repository_only()
        source = Pull(parsed, policy, track=TagSelection(**track) if track else None)
        return self.add(in_stack("image", self.name, name), Image(source))

    def import_(self, name: str, content: str) -> Address:
        data = content.encode()
        archive = FileContent(f"/specs/{name}.tar", Digest.of(data).hex, len(data))
        return self.add(in_stack("image", self.name, name), Image(Import(archive)))

    def commit(self, name: str, container: str, author: str = "", message: str = "") -> Address:
        source = Commit(in_stack("container", self.name, container), author, message)
        return self.add(in_stack("image", self.name, name), Image(source))

    def tag(self, reference: str, image: str, push: PushRule | None = None) -> Address:
        parsed = Reference.parse(reference)
        return self.add(Address("tag", str(parsed)), Tag(parsed, in_stack("image", self.name, image), push))

    def sync(self, target: str, source: str, **fields: Any) -> Address:
        """``target`` and ``source`` are repositories, in short or in full."""
        full = Reference.parse(target).name
        return self.add(Address("sync", full), Sync(full, Reference.parse(source).name, **fields))

    def network(self, name: str, **fields: Any) -> Address:
        return self.add(in_stack("network", self.name, name), Network(**fields))

    def volume(self, name: str, **fields: Any) -> Address:
        return self.add(in_stack("volume", self.name, name), Volume(**fields))

    def container(
        self,
        name: str,
        image: str,
        *,
        restart: str = "unless-stopped",
        environment: Mapping[str, Any] | None = None,
        ports: Iterable[tuple[int, int]] = (),
        volumes: Mapping[str, str] | None = None,
        networks: Iterable[str] = (),
        after: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> Address:
        """``ports`` are (host, container); ``volumes`` name to target; ``after`` container to condition."""
        conditions = {"started": "service_started", "completed": "service_completed_successfully"}
        policy, _, attempts = restart.partition(":")
        built = Container(
            image=in_stack("image", self.name, image),
            restart=Restart(policy, int(attempts) if attempts else None),  # type: ignore[arg-type]
            environment=tuple((environment or {}).items()),
            ports=tuple(Port(inside, outside) for outside, inside in ports),
            mounts=tuple(
                Mount("volume", str(in_stack("volume", self.name, volume)), target)
                for volume, target in (volumes or {}).items()
            ),
            networks=tuple(in_stack("network", self.name, network) for network in networks),
            depends_on=tuple(
                Dependency(in_stack("container", self.name, other), conditions[condition])  # type: ignore[arg-type]
                for other, condition in (after or {}).items()
            ),
        )
        return self.add(in_stack("container", self.name, name), replace(built, **fields))

    def desired(self) -> Desired:
        """What was collected, with a made-up place in a spec file for each resource."""
        return together(self)


def together(*stacks: Stack) -> Desired:
    """One desired value of several stacks; a fact that several declare belongs to all of them."""
    resources: dict[Address, Resource] = {}
    owners: dict[Address, frozenset[str]] = {}
    locations: dict[Address, Location] = {}
    for stack in stacks:
        for line, (address, resource) in enumerate(stack.resources.items(), start=1):
            resources[address] = resource
            owners[address] = owners.get(address, frozenset()) | stack.owners[address]
            locations[address] = Location(f"{stack.name}.yaml", line * 10, 3)
    return Desired(
        resources,
        frozenset(stack.name for stack in stacks),
        source=stacks[0].source if stacks else "",
        revision=stacks[0].revision if stacks else "",
        locations=locations,
        owners=owners,
    )
