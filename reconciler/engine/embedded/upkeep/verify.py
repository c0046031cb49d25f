"""Whether a root keeps its promises: its rows against what is on disk and in the kernel.

    report = verify_root(root)
    assert report.is_clean, report.lines()

Nothing is written, no lock is taken, and a writer may be at work meanwhile: everything that looks wrong is looked at
again before it is reported.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from reconciler.engine.embedded.state import State, open_reader
from reconciler.engine.embedded.upkeep.verify_containers import ContainerCheck, read_containers
from reconciler.errors import HostError
from reconciler.oci.digest import Digest
from reconciler.store.check.claims import Claims, read_claims
from reconciler.store.check.compare import Difference, compare_layers
from reconciler.store.check.damage import NO_LIST, Checked, Damage, Findings, Report
from reconciler.store.check.rehash import Flaw, rehash
from reconciler.store.check.verify import StoreCheck, blob_paths, check_database
from reconciler.store.database import FILE, LostDatabaseError
from reconciler.store.identity import RUN, read_identity

Progress = Callable[[int, int], None]
"""Hears bytes hashed so far and bytes to hash in all."""


def verify_root(
    root: Path,
    *,
    layers: bool = False,
    blobs: bool = True,
    run: Path = RUN,
    state: State | None = None,
    progress: Progress | None = None,
) -> Report:
    """What is wrong with ``root``, and what is left over in it; of a root that is not there, nothing.

    ``layers`` also compares every file of every unpacked layer with what was recorded of it; without ``blobs`` their
    bytes are not read. ``state`` is the one of a writer who holds the turn: a process that has a writer open must not
    open a reader beside it. Never raises for what is on disk: what cannot be read is damage too.
    """
    return _Check(root, run, state, progress, layers=layers, blobs=blobs).run()


class _Check:
    def __init__(
        self, root: Path, run: Path, state: State | None, progress: Progress | None, *, layers: bool, blobs: bool
    ) -> None:
        self._root = root
        self._run = run
        self._given = state
        self._progress = progress
        self._with_layers = layers
        self._with_blobs = blobs
        self._claims = Claims()
        self._differences: dict[Digest, Difference] | None = None
        self._files = 0
        self._containers = 0
        self._hashed = 0
        self._total = 0

    def run(self) -> Report:
        if not os.path.lexists(self._root):
            return Report((), (), (), Checked())
        count = 0
        flaws: dict[Digest, Flaw] = {}
        problem: list[Damage] = []
        try:
            blobs = blob_paths(self._root) if self._with_blobs else []
            count = len(blobs)
            flaws = self._rehash(blobs)
        except HostError as error:
            problem.append(Damage("root", str(self._root), "unreadable", str(error)))
        hashed = self._hashed
        found = self._look(flaws)
        if found.damage or found.leftovers:
            # Again, and only what was wrong: a pull or a collection may have been at work.
            again = set(flaws)
            flaws = self._rehash([blob for blob in blob_paths(self._root) if blob[0] in again])
            found = found.confirmed_by(self._look(flaws))
        claims = self._claims
        checked = Checked(count, hashed, len(claims.images), len(claims.layers), self._files, self._containers)
        return Report((*problem, *found.damage), tuple(found.leftovers), tuple(found.notes), checked)

    def _look(self, flaws: dict[Digest, Flaw]) -> Findings:
        findings = Findings()
        findings.damage += check_place(self._root)
        try:
            if self._given is not None:
                self._look_at(self._given, flaws, findings)
            else:
                with contextlib.closing(open_reader(self._root, self._run)) as state:
                    self._look_at(state, flaws, findings)
        except HostError as error:
            # Only what is lost may be made again: a file of a newer version, or out of our reach, must not.
            code = "lost" if isinstance(error, LostDatabaseError) else "unreadable"
            findings.damage.append(Damage("database", str(self._root / FILE), code, _with_hint(error)))
            findings.damage += [Damage("blob", digest, flaw.code, flaw.text) for digest, flaw in flaws.items()]
            findings.notes.append("without its database nothing can be said of images, layers and containers")
        return findings

    def _look_at(self, state: State, flaws: dict[Digest, Flaw], findings: Findings) -> None:
        """Raises ``HostError`` when the database cannot be read."""
        damage = list(check_database(state.database))
        claims = self._claims = read_claims(self._root, state.database, state.content, state.leases)
        containers = read_containers(state)
        self._containers = len(containers.rows)
        findings.damage += damage
        if self._with_layers:
            findings.notes += self._compare(state, claims)
        for part in (
            StoreCheck(self._root, claims, flaws, containers.needs, self._differences).run(),
            ContainerCheck(state, containers, claims, alone=self._given is not None).run(),
        ):
            findings.damage += part.damage
            findings.leftovers += part.leftovers
            findings.notes += part.notes

    def _compare(self, state: State, claims: Claims) -> Iterator[str]:
        """Compares the layers with their lists: all of them at the first look, later those that differed."""
        wanted = claims.layers if self._differences is None else self._differences
        chain_ids = [chain_id for chain_id in wanted if chain_id in claims.layers]
        layers = [(chain_id, state.layers.path(chain_id), state.layers.files(chain_id)) for chain_id in chain_ids]
        compared = compare_layers(layers)
        self._files = max(self._files, sum(found.entries for found in compared.values()))
        self._differences = {chain_id: found for chain_id, found in compared.items() if not found.is_none}
        unknown = [chain_id for chain_id, found in self._differences.items() if found.code == NO_LIST]
        if unknown:
            yield (
                f"{len(unknown)} layers were unpacked by an earlier version, which kept no list of their files: "
                f"{', '.join(chain_id.short for chain_id in unknown)}"
            )

    def _rehash(self, blobs: list[tuple[Digest, Path]]) -> dict[Digest, Flaw]:
        if not blobs:
            return {}
        if self._progress is not None:
            self._total = self._hashed + sum(_size(path) for _, path in blobs)
        return rehash(blobs, self._count)

    def _count(self, more: int) -> None:
        self._hashed += more
        if self._progress is not None:
            self._progress(self._hashed, max(self._total, self._hashed))


def check_place(root: Path) -> Iterator[Damage]:
    """Whether the root is closed to others: it holds setuid files of images, and secrets (case S46)."""
    try:
        identity = read_identity(root)
    except HostError as error:
        yield Damage("root", str(root), "untrusted", _with_hint(error))
        return
    if not identity.exists:
        return
    for path, allowed in ((root, 0o700), (root / "id", 0o644), (root / "key", 0o600), (root / "state.db", 0o644)):
        try:
            mode = stat.S_IMODE(path.lstat().st_mode)
        except OSError:
            continue  # what is missing is told of elsewhere
        if mode & ~allowed:
            text = f"has mode {mode:04o}: others can use what is in it; chmod {allowed:04o} {path}"
            yield Damage("root", str(path), "open-to-others", text)


def _with_hint(error: HostError) -> str:
    return f"{error} ({error.hint})" if error.hint else str(error)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0
