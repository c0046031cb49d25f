"""The files of this host that name mirrors, read together.

Of several files that have rules for one registry, the first counts: ``registries.conf`` with its drop-ins, then
containerd's directory, then Docker's file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import field
from pathlib import Path

from reconciler.errors import InvalidError
from reconciler.registry.from_host.daemon_json import read_daemon_json
from reconciler.registry.from_host.found import Rule, Said
from reconciler.registry.from_host.hosts_toml import read_hosts_toml
from reconciler.registry.from_host.places import Places
from reconciler.registry.from_host.registries_conf import read_registries_conf
from reconciler.registry.hosts import TlsConfig
from reconciler.value import dataclass

_MAX_BYTES = 1024 * 1024
_HINT = "mend it, or leave `from_host` out"


@dataclass(slots=True)
class HostFiles:
    """What the files say together, each registry and each host with the file that says it, and notes."""

    rules: dict[str, tuple[Rule, str]] = field(default_factory=dict)
    tls: dict[str, tuple[TlsConfig, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_host_files(places: Places) -> HostFiles:
    """Reads what is there. Raises ``InvalidError`` naming the file that cannot be read or is wrong."""
    together = HostFiles()
    for path, said in reversed(list(_registries_conf(places.registries_conf))):
        together.notes[:0] = said.notes
        for host, rule in said.rules.items():
            together.rules.setdefault(host, (rule, path))
    _drop_empty(together)
    for path, said in (*_certs_d(places.certs_d), *_daemon_json(places.daemon_json)):
        _add(together, path, said)
    _drop_empty(together)
    if not together.rules and not together.tls:
        paths = f"{places.registries_conf}, {places.certs_d} and {places.daemon_json}"
        together.notes.append(f"this host names no mirrors: looked at {paths}")
    return together


def _add(together: HostFiles, path: str, said: Said) -> None:
    together.notes += said.notes
    for host, rule in said.rules.items():
        first, where = together.rules.setdefault(host, (rule, path))
        if first != rule:
            together.notes.append(f"{path} does not count for {host}: {where} does")
            return
    for host, tls in said.tls.items():
        known, where = together.tls.setdefault(host, (tls, path))
        if known != tls:
            together.notes.append(f"{path}: its TLS files do not count for {host}: those of {where} do")


def _drop_empty(together: HostFiles) -> None:
    together.rules = {host: found for host, found in sorted(together.rules.items()) if found[0] != Rule()}


def _registries_conf(path: Path) -> Iterator[tuple[str, Said]]:
    drop_ins = (file for file in _listed(path.with_name(f"{path.name}.d")) if file.name.endswith(".conf"))
    for file in (path, *drop_ins):
        if (text := _read(file)) is not None:
            yield str(file), read_registries_conf(text, str(file))


def _certs_d(path: Path) -> Iterator[tuple[str, Said]]:
    for directory in _listed(path):
        file = directory / "hosts.toml"
        if (text := _read(file)) is not None:
            yield str(file), read_hosts_toml(text, directory.name, file)


def _daemon_json(path: Path) -> Iterator[tuple[str, Said]]:
    if (text := _read(path)) is not None:
        yield str(path), read_daemon_json(text, str(path))


def _listed(directory: Path) -> list[Path]:
    """What is in a directory, by name, without dotfiles; nothing where there is none."""
    try:
        return sorted(path for path in directory.iterdir() if not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InvalidError(f"cannot read {directory}: {error.strerror}", hint=_HINT) from None


def _read(path: Path) -> str | None:
    """The text of a file, None where there is none. Another program's file may be anything."""
    try:
        # A FIFO would block for ever, and a device could give anything.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InvalidError(f"cannot read {path}: {error.strerror}", hint=_HINT) from None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InvalidError(f"{path} is no regular file", hint=_HINT)
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise InvalidError(f"{path} has more than {_MAX_BYTES} bytes", hint=_HINT)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidError(f"{path} is not UTF-8 text", hint=_HINT) from None
