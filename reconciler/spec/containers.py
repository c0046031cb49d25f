"""Containers: every field of the language to the resolved value that planner and engines share."""

from __future__ import annotations

import re
from typing import get_args

from reconciler.errors import InvalidError, ReconcilerError
from reconciler.model.address import Address, in_stack
from reconciler.model.resources import (
    Container,
    Dependency,
    Mount,
    Network,
    Port,
    PullPolicy,
    Restart,
)
from reconciler.spec import schema_container as schema
from reconciler.spec.build import Build, pairs
from reconciler.spec.container_files import environment, file_mounts
from reconciler.spec.errors import shown
from reconciler.spec.images import resolve_image
from reconciler.spec.nearest import nearest
from reconciler.spec.ports import expand_ports
from reconciler.spec.stacks import Entry, Stack

MIN_MEMORY = 6 * 2**20
MAX_ATTEMPTS = 1_000_000
DEFAULT_NETWORK = "default"

_RESTART = re.compile(r"(no|always|unless-stopped|on-failure)(?::([0-9]{1,7}))?", re.ASCII)
_LATER_POLICIES = re.compile(r"build|daily|weekly|refresh|every_.+")


def build_containers(build: Build, stack: Stack) -> None:
    """The containers of a stack; images, networks and volumes are built already.

    Those that set a pull policy come first: it then holds for everything that names the same reference.
    """
    entries = sorted(
        stack.sections["containers"].items(), key=lambda item: (item[1].model.pull_policy is None, item[0])
    )
    for name, entry in entries:
        address = in_stack("container", stack.name, name)
        build.note_unsupported(address, entry)
        build.put(address, _container(build, stack, address, entry), stack.name, entry.location)


def _container(build: Build, stack: Stack, address: Address, entry: Entry) -> Container:
    model: schema.Container = entry.model
    image = _image(build, stack, address, entry)
    secrets, configs = file_mounts(build, stack, entry)
    mounts = _mounts(build, stack, entry)
    _check_targets(build, entry, [m.target for m in mounts], [f.target for f in (*secrets, *configs)])
    if model.mem_limit is not None and model.mem_limit < MIN_MEMORY:
        build.problems.add(entry.at("mem_limit"), "mem_limit is below the minimum", "give at least 6m")
    ports = _ports(build, entry)
    networks = _networks(build, stack, entry)
    dependencies = _dependencies(build, stack, address, entry)
    restart = _restart(build, entry)
    return Container(
        image=image,
        command=model.command,
        entrypoint=model.entrypoint,
        environment=environment(build, entry),
        user=model.user,
        working_dir=model.working_dir or "",
        ports=ports,
        mounts=mounts,
        networks=networks,
        secrets=secrets,
        configs=configs,
        restart=restart,
        depends_on=dependencies,
        stop_signal=model.stop_signal,
        stop_grace_period=model.stop_grace_period,
        init=model.init,
        labels=pairs(model.labels),
        mem_limit=model.mem_limit,
        state=model.state,
    )


def _image(build: Build, stack: Stack, address: Address, entry: Entry) -> Address:
    """The image's address; where there is a problem a stand-in, so that ports and dependencies are still judged."""
    model: schema.Container = entry.model
    policy = _pull_policy(build, address, entry)
    found = None
    if model.image is not None:
        found = resolve_image(build, stack, model.image, entry.at("image"), policy)
    elif "build" not in model.model_fields_set and not _may_be_lost(entry, "image", "build"):
        build.problems.add(entry.location, "image is missing", "add image: with a name from images, or a reference")
    return found or in_stack("image", stack.name, model.image or "")


def _may_be_lost(entry: Entry, *fields: str) -> bool:
    """Whether one of these fields was left out as wrong: by its own name, or as an unknown one misspelt."""
    return any(name in fields or name not in schema.Container.model_fields for name in entry.lost)


def _pull_policy(build: Build, address: Address, entry: Entry) -> PullPolicy | None:
    text: str | None = entry.model.pull_policy
    if text == "if_not_present":
        return "missing"
    for known in get_args(PullPolicy):
        if text == known:
            return text  # type: ignore[return-value]
    if text is not None and _LATER_POLICIES.fullmatch(text):
        build.refuse(address, f"pull_policy: {text}", entry.at("pull_policy"))
    elif text is not None:
        choices = ", ".join(get_args(PullPolicy))
        guess = nearest(text, get_args(PullPolicy))
        hint = f"did you mean {guess}?" if guess else ""
        build.problems.add(entry.at("pull_policy"), f"pull_policy: {shown(text)} is not one of {choices}", hint)
    return None


def _restart(build: Build, entry: Entry) -> Restart:
    text: str = entry.model.restart
    match = _RESTART.fullmatch(text)
    if match is None or (match[2] is not None and match[1] != "on-failure"):
        build.problems.add(
            entry.at("restart"),
            f"restart: {shown(text, 40)} is not a restart policy",
            'write "no", on-failure, on-failure:3, always or unless-stopped',
        )
        return Restart()
    attempts = int(match[2]) if match[2] is not None else None
    if attempts is not None and not 1 <= attempts <= MAX_ATTEMPTS:
        build.problems.add(entry.at("restart"), f"restart: {attempts} attempts is out of range", "write 1 to 1000000")
    return Restart(match[1], attempts)  # type: ignore[arg-type]


def _ports(build: Build, entry: Entry) -> tuple[Port, ...]:
    found: set[Port] = set()
    for index, port in enumerate(entry.model.ports):
        try:
            expanded = set(expand_ports(port.target, port.published, port.host_ip or "", port.protocol))
        except InvalidError as error:
            build.problems.add(entry.at("ports", index), f"ports: {error}", error.hint)
            continue
        if found & expanded:
            build.problems.add(entry.at("ports", index), "ports: this port is listed twice", "keep one of them")
        found |= expanded
    return tuple(sorted(found, key=lambda p: (p.container_port, p.protocol, p.host_address, p.host_port or 0)))


def _mounts(build: Build, stack: Stack, entry: Entry) -> tuple[Mount, ...]:
    mounts = []
    for index, model in enumerate(entry.model.volumes):
        path: tuple[str | int, ...] = ("volumes", index)
        if model.type == "bind":
            mount = _bind(build, entry, model, path)
        elif model.type == "tmpfs" or model.source is None:
            if model.type == "tmpfs" and model.source is not None:
                build.problems.add(entry.at(*path), "volumes: a tmpfs mount has no source", "remove source")
            mount = Mount(model.type, "", model.target, model.read_only)
        else:
            mount = _volume(build, stack, entry, model, path)
        if mount is not None:
            mounts.append(mount)
    # A parent sorts before what lies under it, which is the order in which they must be mounted.
    return tuple(sorted(mounts, key=lambda mount: mount.target.split("/")))


def _bind(build: Build, entry: Entry, model: schema.VolumeMount, path: tuple[str | int, ...]) -> Mount | None:
    if model.source is None:
        build.problems.add(entry.at(*path), "volumes: a bind mount needs a source", "add source:")
        return None
    tree = build.host if model.source.startswith("/") else build.tree
    try:
        source, git_object = tree.export(entry.document.file.directory, model.source)
    except ReconcilerError as error:
        build.problems.add(entry.at(*path), f"volumes: {error}", error.hint)
        return None
    if git_object and not model.read_only:
        build.problems.add(
            entry.at(*path), f"volumes: {shown(model.source)} comes from a repository and is writable", "append :ro"
        )
    return Mount("bind", source, model.target, model.read_only, git_object)


def _volume(
    build: Build, stack: Stack, entry: Entry, model: schema.VolumeMount, path: tuple[str | int, ...]
) -> Mount | None:
    assert model.source is not None
    if not stack.declares("volumes", model.source):
        build.miss(stack, "volumes", model.source, entry.at(*path), "volumes")
        return None
    address = in_stack("volume", stack.name, model.source)
    return Mount("volume", str(address), model.target, model.read_only)


def _check_targets(build: Build, entry: Entry, mounts: list[str], files: list[str]) -> None:
    seen: set[str] = set()
    for target in (*mounts, *files):
        where = entry.at("volumes" if target in mounts else "secrets", key=True)
        if target == "/":
            build.problems.add(where, "a mount cannot cover /", "mount below it")
        elif target in seen:
            build.problems.add(where, f"two mounts have the target {shown(target)}", "give each its own")
        seen.add(target)


def _networks(build: Build, stack: Stack, entry: Entry) -> tuple[Address, ...]:
    found = []
    for name in entry.model.networks or {DEFAULT_NETWORK: None}:
        address = in_stack("network", stack.name, name)
        if stack.declares("networks", name):
            found.append(address)
        elif name == DEFAULT_NETWORK:
            build.put(address, Network(), stack.name, entry.location)
            found.append(address)
        else:
            build.miss(stack, "networks", name, entry.at("networks", name, key=True), "networks")
    return tuple(sorted(found))


def _dependencies(build: Build, stack: Stack, address: Address, entry: Entry) -> tuple[Dependency, ...]:
    found = []
    for name, model in entry.model.depends_on.items():
        if not stack.declares("containers", name):
            build.miss(stack, "containers", name, entry.at("depends_on", name, key=True), "depends_on")
            continue
        condition = model.condition
        if condition == "service_healthy":
            where = entry.at("depends_on", name, "condition")
            build.refuse(address, f"depends_on.{name}.condition: service_healthy", where)
            condition = "service_started"
        found.append(Dependency(in_stack("container", stack.name, name), condition))
    return tuple(sorted(found, key=lambda dependency: dependency.container))
