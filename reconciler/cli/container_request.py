"""From the arguments of ``container run`` to the container asked for."""

from __future__ import annotations

import argparse
import posixpath
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from reconciler.engine.embedded.wiring import ADHOC_NETWORK
from reconciler.errors import InvalidError, UsageError
from reconciler.model.address import Address
from reconciler.model.resources import Container, Mount, Port, Restart
from reconciler.spec.ports import expand_ports, parse_address, parse_range, split_short
from reconciler.spec.units import parse_size

T = TypeVar("T")
_RESTART = re.compile(r"(no|always|unless-stopped|on-failure)(?::([1-9][0-9]{0,6}))?", re.ASCII)
_VOLUME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*(?:/[a-zA-Z0-9][a-zA-Z0-9_.-]*)?", re.ASCII)


def requested(options: argparse.Namespace, environment: Mapping[str, str]) -> Container:
    """The container. Raises ``UsageError`` or ``InvalidError`` naming the argument at fault."""
    return Container(
        image=Address("image", options.image),
        command=tuple(options.command) or None,
        entrypoint=None if options.entrypoint is None else tuple(filter(None, (options.entrypoint,))),
        environment=variables(options.env, environment),
        user=options.user,
        working_dir=options.workdir,
        ports=tuple(port for text in options.publish for port in _ports(text)),
        mounts=_mounts(options.volume),
        networks=_networks(options.network),
        restart=_restart(options.restart),
        stop_signal=options.stop_signal,
        stop_grace_period=options.stop_timeout,
        init=options.init,
        labels=tuple(sorted(_labels(options.label).items())),
        mem_limit=_memory(options.memory),
    )


def variables(given: list[str], environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """``K=V`` as it stands; ``K`` alone takes our own value, and is left out where we have none, as Docker does."""
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name:
            raise UsageError(f"--env {text[:100]!a} is not K=V")
        if equals or name in environment:
            found[name] = value if equals else environment[name]
    return tuple(found.items())


def _ports(text: str) -> list[Port]:
    long = _named("--publish", text, split_short)
    target, published = long["target"], long.get("published")
    protocol = long.get("protocol", "tcp")
    if protocol not in ("tcp", "udp"):
        raise UsageError(f"--publish {text[:100]!a}: the protocol is neither tcp nor udp")
    address = _named("--publish", long["host_ip"], parse_address) if long.get("host_ip") else ""
    host_range = _named("--publish", published, parse_range) if published else None
    return list(expand_ports(_named("--publish", target, parse_range), host_range, address, protocol))


def _mounts(given: list[str]) -> tuple[Mount, ...]:
    mounts: dict[str, Mount] = {}
    for text in given:
        mount = _mount(text)
        if mount.target in mounts:
            raise UsageError(f"two volumes have the target {mount.target!a}")
        mounts[mount.target] = mount
    return tuple(mounts[target] for target in sorted(mounts))


def _mount(text: str) -> Mount:
    parts = text.split(":")
    mode = parts.pop() if len(parts) > 1 and parts[-1] in ("ro", "rw") else "rw"
    if len(parts) > 2:
        raise UsageError(f"--volume {text[:200]!a} is not SRC:DST[:ro]")
    source, target = ("", parts[0]) if len(parts) == 1 else parts
    if not target.startswith("/") or posixpath.normpath(target) == "/":
        raise UsageError(f"--volume {text[:200]!a}: the target must be an absolute path below /")
    target, read_only = posixpath.normpath(target), mode == "ro"
    if source.startswith(("/", ".")):
        path = Path(source).absolute()
        if not path.exists():
            raise InvalidError(
                f"--volume {text[:200]!a}: {path} is not there", hint=f"mkdir -p {shlex.quote(str(path))}"
            )
        return Mount("bind", str(path.resolve()), target, read_only)
    if source and not _VOLUME.fullmatch(source):
        raise UsageError(f"--volume {text[:200]!a}: {source!a} is neither a path nor the name of a volume")
    return Mount("volume", str(Address("volume", source)) if source else "", target, read_only)


def _networks(name: str) -> tuple[Address, ...]:
    if name == "none":
        return ()
    return (ADHOC_NETWORK if name == "bridge" else Address("network", name),)


def _restart(text: str) -> Restart:
    match = _RESTART.fullmatch(text)
    if match is None or (match[2] and match[1] != "on-failure"):
        raise UsageError(f"--restart {text[:40]!a} is not no, on-failure[:N], always or unless-stopped")
    return Restart(match[1], int(match[2]) if match[2] else None)  # type: ignore[arg-type]


def _labels(given: list[str]) -> dict[str, str]:
    return {name: value for name, _, value in (text.partition("=") for text in given) if name}


def _memory(text: str | None) -> int | None:
    if text is None:
        return None
    size = _named("--memory", text, parse_size)
    if size < 6 * 2**20:
        raise UsageError(f"--memory {text[:40]!a} is below the minimum of 6m")
    return size


def _named(flag: str, text: str, parse: Callable[[str], T]) -> T:
    """What ``parse`` makes of a value, its complaint carrying the flag."""
    try:
        return parse(text)
    except InvalidError as error:
        raise InvalidError(f"{flag} {text[:100]!a}: {error}", hint=error.hint) from None
