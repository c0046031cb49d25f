"""Containers and volumes against what is on disk and in the kernel; what is left of those that are gone."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import field
from pathlib import Path

from reconciler.engine.embedded.containers.rows import ContainerRow
from reconciler.engine.embedded.containers.spec import StartSpec
from reconciler.engine.embedded.state import State
from reconciler.engine.embedded.upkeep.retention import kept_generations, rules_of
from reconciler.errors import HostError
from reconciler.linux import mounts
from reconciler.linux.discards import DIRECTORY as DISCARDED
from reconciler.linux.lock import is_locked
from reconciler.oci.digest import Digest
from reconciler.runtime.runtime import Runtime
from reconciler.store.check.claims import MALFORMED, Claims
from reconciler.store.check.damage import Damage, Findings, Leftover, Needs
from reconciler.value import dataclass

_ENDED = "of a container that has ended"
_GONE = "of a container that is gone"


@dataclass(slots=True)
class KnownContainers:
    """The containers whose rows can be read, what each lies on, and with the generations who needs which image."""

    rows: dict[str, ContainerRow] = field(default_factory=dict)
    layers: dict[str, list[Digest]] = field(default_factory=dict)
    needs: Needs = field(default_factory=Needs)
    damage: list[Damage] = field(default_factory=list)


def read_containers(state: State) -> KnownContainers:
    """Raises ``HostError`` when the database cannot be read."""
    return state.database.consistent(lambda: _read(state))


def _read(state: State) -> KnownContainers:
    known = KnownContainers()
    for record in state.database.query("SELECT id FROM containers ORDER BY id"):
        try:
            row = state.containers.get(str(record["id"]))
        except MALFORMED as error:
            text = f"its row in the database makes no sense: {error}"
            known.damage.append(Damage("container", str(record["id"]), "malformed", text))
            continue
        known.rows[row.id] = row
        known.needs.images.setdefault(row.image, []).append(_called(row))
        try:
            lines = (state.container_dir(row.id) / "layers").read_text().split()
            known.layers[row.id] = [Digest(line) for line in lines]
        except (OSError, *MALFORMED):
            continue  # told of by ``ContainerCheck``
        for chain_id in known.layers[row.id]:
            known.needs.layers.setdefault(chain_id, []).append(_called(row))
    try:
        rules = rules_of(state.facts.all())
        for generation in kept_generations(state.generations.all(), rules.keep_generations):
            for digest in sorted({e.digest for e in generation.entries.values() if e.digest is not None}):
                known.needs.images.setdefault(digest, []).append(f"generation {generation.number}")
    except MALFORMED as error:
        known.damage.append(Damage("database", "generations", "malformed", f"a row makes no sense: {error}"))
    return known


class ContainerCheck:
    """One look. ``alone``: the caller holds the root's lock, so nothing is in the making."""

    def __init__(self, state: State, known: KnownContainers, claims: Claims, *, alone: bool) -> None:
        self._state = state
        self._known = known
        self._claims = claims
        self._alone = alone

    def run(self) -> Findings:
        """Raises nothing for what is on disk."""
        findings = Findings(damage=list(self._known.damage))
        for row in self._known.rows.values():
            findings.damage += self._container(row)
        findings.damage += self._volumes()
        if not self._alone and is_locked(self._state.root):
            findings.notes.append("another command is at work: what containers left behind was not looked for")
            return findings
        try:
            findings.leftovers += self._directories()
            findings.leftovers += self._runtime()
            findings.leftovers += self._mounts()
        except (HostError, OSError) as error:
            findings.damage.append(Damage("root", str(self._state.root), "unreadable", str(error)))
        return findings

    # What is claimed

    def _container(self, row: ContainerRow) -> Iterator[Damage]:
        name, directory = _called(row), self._state.container_dir(row.id)
        if not _is_directory(directory):
            yield Damage("container", row.id, "no-directory", f"{name} has lost its directory {directory}")
            return
        for part in ("upper", "work"):
            if not _is_directory(directory / part):
                text = f"{name} has lost its writable layer: {directory / part} is not there, or no directory"
                yield Damage("container", row.id, f"no-{part}", text)
        try:
            StartSpec.from_json((directory / "spec.json").read_text())
        except (OSError, *MALFORMED) as error:
            yield Damage("container", row.id, "no-spec", f"how to start {name} cannot be read: {error}")
        if row.image not in self._claims.images:
            yield Damage("container", row.id, "no-image", f"the image {row.image} of {name} is not recorded")
        if row.id not in self._known.layers:
            yield Damage(
                "container", row.id, "no-layers", f"what {name} lies on cannot be read: {directory / 'layers'}"
            )
        for chain_id in self._known.layers.get(row.id, ()):
            if chain_id not in self._claims.layers:
                yield Damage("layer", chain_id, "not-unpacked", "is not unpacked", (name,))

    def _volumes(self) -> Iterator[Damage]:
        try:
            rows = self._state.volumes.all()
        except MALFORMED as error:
            yield Damage("database", "volumes", "malformed", f"a row makes no sense: {error}")
            return
        # A deletion takes the data away before it drops the row.
        if _entries(self._state.root / DISCARDED):
            return
        for row in rows.values():
            if not _is_directory(row.path(self._state.root)):
                users = [_called(c) for c in self._known.rows.values() if row.name in c.settings.volumes]
                yield Damage("volume", row.name, "no-data", "its directory is not there", tuple(users))

    # What nothing claims

    def _directories(self) -> Iterator[Leftover]:
        for path in _entries(self._state.root / "containers"):
            if path.name not in self._known.rows:
                yield Leftover("container", path.name, "files " + _GONE)
        top = self._state.root / "volumes"
        owned = {row.path(self._state.root).parent for row in self._state.volumes.all().values()}
        for stack in _entries(top):
            for path in _entries(stack):
                if path not in owned:
                    yield Leftover("volume", str(path.relative_to(top)), "data of no volume on record; gc keeps them")

    def _runtime(self) -> Iterator[Leftover]:
        run = self._state.run
        seen = {path for part in ("rootfs", "netns") for path in _entries(run / part)}
        seen |= {run / "tasks" / container for container in Runtime(run).ids()}
        for path in sorted(seen):
            if (why := self._owner_is_gone(path.name)) is not None:
                yield Leftover("runtime", str(path), why)

    def _mounts(self) -> Iterator[Leftover]:
        run = self._state.run
        for target in sorted({*mounts.mounts_below(self._state.root), *mounts.mounts_below(run)}):
            if target == self._state.root.resolve():
                continue  # a disk of its own
            inside = target.relative_to(run).parts if target.is_relative_to(run) else ()
            if len(inside) == 2 and inside[0] in ("rootfs", "netns"):
                if (why := self._owner_is_gone(inside[1])) is not None:
                    yield Leftover("mount", str(target), why)
            else:
                yield Leftover("mount", str(target), "nothing of this root is mounted there")

    def _owner_is_gone(self, container: str) -> str | None:
        row = self._known.rows.get(container)
        if row is None:
            return _GONE
        return _ENDED if row.finished_at is not None else None


def _called(row: ContainerRow) -> str:
    return f"container {row.shown}"


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(Path(entry.path) for entry in os.scandir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
