"""Stacks to resources: what is shared by all sections, and the sections that are facts of the host or the stack."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import field
from ipaddress import IPv4Network

from reconciler.errors import ReconcilerError
from reconciler.model.address import Address, in_stack
from reconciler.model.desired import Location, Unsupported
from reconciler.model.resources import (
    Auth,
    Endpoint,
    Mirror,
    Network,
    Registry,
    Resource,
    Retention,
    Text,
    Volume,
)
from reconciler.oci.reference import parse_registry
from reconciler.spec import schema
from reconciler.spec.errors import Problems, field_name, shown
from reconciler.spec.schema_mirrors import FROM_HOST, mirror_host
from reconciler.spec.stacks import Entry, Stack
from reconciler.spec.tree import LocalTree, Tree
from reconciler.value import dataclass

# What else a name that is not declared may have been meant to be.
_ELSE = {"volumes": ", or begin a path with ./ or /"}


@dataclass(slots=True, eq=False)
class Build:
    """What is being built. ``secrets`` False leaves secrets unread, as validation on another machine must."""

    tree: Tree
    environment: Mapping[str, str]
    secrets: bool
    problems: Problems
    resources: dict[Address, Resource] = field(default_factory=dict)
    locations: dict[Address, Location] = field(default_factory=dict)
    owners: dict[Address, frozenset[str]] = field(default_factory=dict)
    from_host: dict[str, Location] = field(default_factory=dict)
    unsupported: list[Unsupported] = field(default_factory=list)
    warnings: set[str] = field(default_factory=set)
    contents: dict[tuple[str, str, str], Text] = field(default_factory=dict)
    host: Tree = field(default_factory=LocalTree)

    def put(self, address: Address, resource: Resource, stack: str, location: Location) -> None:
        """Records a resource; one that is there already must be equal, or both places are a problem."""
        present = self.resources.setdefault(address, resource)
        self.locations.setdefault(address, location)
        if present != resource:
            others = ", ".join(sorted(self.owners[address] - {stack}))
            self.problems.add(
                location,
                f"{address} differs from the one at {self.locations[address]}" + f" (stack {others})" * bool(others),
                "make them equal, or declare it once",
            )
        self.owners[address] = self.owners.get(address, frozenset()) | {stack}

    def note_unsupported(self, address: Address | str, entry: Entry) -> None:
        """Records every field of the entry that this version cannot honour."""
        for path, rule in entry.model.unsupported():
            self.refuse(address, field_name(path), entry.at(*path, key=True), rule)

    def refuse(self, address: Address | str, name: str, location: Location, rule: str = "") -> None:
        self.unsupported.append(Unsupported(str(address), name, location, rule))

    def miss(self, stack: Stack, section: str, name: str, location: Location, field: str = "") -> None:
        """Records that a section declares no such name, unless what declares it may be among what cannot be read."""
        if not self.problems.names_known:
            return
        guess = self.problems.guess(name, stack.names(section))
        message = f"no {section[:-1]} {shown(name)} in stack {stack.name}"
        hint = f"did you mean {guess}?" if guess else f"declare it under {section}{_ELSE.get(section, '')}"
        self.problems.add(location, f"{field}: {message}" if field else message, hint)

    def path(self, entry: Entry, field_path: tuple[str | int, ...], path: str) -> str:
        """The absolute path of a file that is used later, such as a certificate."""
        if os.path.isabs(path):  # noqa: PTH117
            return path
        try:
            return self.tree.export(entry.document.file.directory, path)[0]
        except ReconcilerError as error:
            self.problems.add(entry.at(*field_path), str(error), error.hint)
            return path

    def source(self, entry: Entry, field_path: tuple[str | int, ...], path: str) -> Tree | None:
        """The tree that a named file is read from: absolute paths are the host's, where the tree allows them."""
        if not os.path.isabs(path):  # noqa: PTH117
            return self.tree
        if self.tree.confined:
            self.problems.add(entry.at(*field_path), f"{shown(path)} is absolute", "name a file of the repository")
            return None
        return self.host


def build_host(build: Build, stack: Stack) -> None:
    """The facts of the host that a stack states: registries and mirrors."""
    for host, entry in stack.sections["registries"].items():
        address = Address("registry", parse_registry(host))
        build.note_unsupported(address, entry)
        build.put(address, _registry(build, address.name, entry), stack.name, entry.location)
    for host, entry in stack.sections["mirrors"].items():
        if host == FROM_HOST:
            if entry.model:
                build.from_host[stack.name] = entry.location
            continue
        address = Address("mirror", mirror_host(host))
        endpoints = tuple(Endpoint(endpoint.url, endpoint.resolve) for endpoint in entry.model)
        if not endpoints:
            build.problems.add(entry.location, f"{host} has no mirrors", "list one, or remove the entry")
        if len({endpoint.url for endpoint in endpoints}) < len(endpoints):
            build.problems.add(entry.location, f"a mirror of {host} is listed twice", "keep one of them")
        build.put(address, Mirror(address.name, endpoints), stack.name, entry.location)


def _registry(build: Build, host: str, entry: Entry) -> Registry:
    model: schema.Registry = entry.model
    tls = model.tls or schema.Tls()
    if model.plain_http and model.tls is not None:
        build.problems.add(entry.at("tls", key=True), "tls and plain_http exclude each other", "remove one of them")
    if (tls.cert is None) != (tls.key is None):
        build.problems.add(entry.at("tls", key=True), "cert and key go together", "give both, or neither")
    return Registry(
        host,
        model.plain_http,
        _auth(build, model.auth, entry) if model.auth else None,
        build.path(entry, ("tls", "ca"), tls.ca) if tls.ca else "",
        build.path(entry, ("tls", "cert"), tls.cert) if tls.cert else "",
        build.path(entry, ("tls", "key"), tls.key) if tls.key else "",
    )


def _auth(build: Build, auth: schema.Auth, entry: Entry) -> Auth | None:
    location = entry.at("auth", key=True)
    if auth.helper:
        if auth.username or auth.password:
            build.problems.add(location, "helper excludes username and password", "remove one of them")
        return Auth(helper=auth.helper)
    if not auth.username or auth.password is None:
        build.problems.add(location, "auth needs a username and a password", "give both, or a helper")
        return None
    password = auth.password
    if (password.file is None) == (password.environment is None):
        build.problems.add(entry.at("auth", "password"), "password takes one of file and environment", "give one")
    file = build.path(entry, ("auth", "password", "file"), password.file) if password.file else ""
    return Auth(auth.username, file, password.environment or "")


def build_stack_facts(build: Build, stack: Stack) -> None:
    """Networks, volumes and retention of a stack."""
    for name, entry in stack.sections["networks"].items():
        address = in_stack("network", stack.name, name)
        network: schema.Network = entry.model
        build.note_unsupported(address, entry)
        resource = Network(_subnet(build, network, entry), network.external, pairs(network.labels))
        build.put(address, resource, stack.name, entry.location)
    _check_subnets(build, stack)
    for name, entry in stack.sections["volumes"].items():
        address = in_stack("volume", stack.name, name)
        build.note_unsupported(address, entry)
        volume = Volume(entry.model.external, pairs(entry.model.labels))
        build.put(address, volume, stack.name, entry.location)
    if stack.retention is not None:
        model: schema.Retention = stack.retention.model
        images, containers = model.images or schema.ImageRetention(), model.containers or schema.ContainerRetention()
        retention = Retention(images.keep_generations, images.unused_for, containers.exited_for)
        build.put(Address("retention", stack.name), retention, stack.name, stack.retention.location)


def _subnet(build: Build, network: schema.Network, entry: Entry) -> IPv4Network | None:
    """The subnet of a network, from whichever of the two places it is written in."""
    ipam = network.ipam.config if network.ipam else ()
    if network.external and (network.subnet or ipam):
        where = entry.at("subnet" if network.subnet else "ipam", key=True)
        build.problems.add(where, "an external network has its subnet already", "remove it")
        return None
    if len(ipam) + (network.subnet is not None) > 1:
        build.problems.add(entry.at("ipam", key=True), "a network takes one subnet", "keep one of them")
    return network.subnet or (ipam[0].subnet if ipam else None)


def _check_subnets(build: Build, stack: Stack) -> None:
    declared = [(a, r.subnet) for a, r in build.resources.items() if isinstance(r, Network) and r.subnet]
    for index, (address, subnet) in enumerate(declared):
        for other, taken in declared[:index]:
            if address.name.startswith(f"{stack.name}/") and subnet.overlaps(taken):
                build.problems.add(
                    build.locations[address],
                    f"subnet {subnet} of {address} overlaps {taken} of {other}",
                    "choose another subnet",
                )


def pairs(mapping: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """A mapping as a sorted tuple."""
    return tuple(sorted((key, str(value)) for key, value in mapping.items()))
