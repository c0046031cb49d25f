"""What a source of specs is, whatever it reads from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

MAX_FILES = 10_000
MAX_SPEC_BYTES = 4 * 1024 * 1024
SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True, slots=True)
class SpecFile:
    """One spec file: its name as people know it (for messages, and for ``Tree.locate``), and its bytes."""

    name: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file or a directory that a spec names is, or will be, on this host.

    ``tree`` names its content when it comes from a repository; it is then not there before ``Tree.export``. For a
    directory it is empty: the path is live.
    """

    path: Path
    tree: str = ""


class Tree(Protocol):
    """The files around the specs of one revision. Methods raise ``InvalidError``, ``NotFoundError``, ``HostError``."""

    def locate(self, spec: str, name: str) -> Place:
        """The place of ``name``, a path relative to the spec file called ``spec``. Writes nothing."""

    def read(self, spec: str, name: str, limit: int) -> bytes:
        """The content of a regular file of at most ``limit`` bytes."""

    def fingerprint(self, spec: str, name: str) -> tuple[str, int]:
        """The sha256 (hex) and the size of a regular file of any size."""

    def export(self) -> None:
        """Makes every place located so far exist on the host. Writes: only for who holds the turn."""


@dataclass(frozen=True, slots=True)
class Revision:
    """The specs at one moment: ``id`` is a commit, or the hash of what was read. ``files`` are ordered by name."""

    id: str
    files: tuple[SpecFile, ...]
    tree: Tree = field(repr=False)


class Source(Protocol):
    """Specs that change over time. Nothing here ever holds or shows a credential."""

    @property
    def identity(self) -> str:
        """A stable name of the source: the stacks of an apply are remembered under it."""

    @property
    def watched(self) -> Sequence[Path]:
        """The paths whose changes mean a new revision; none when the source has to be polled."""

    def read(self) -> Revision:
        """The newest revision. Raises ``ReconcilerError`` when there is none to be had or it breaks a rule."""

    def last_good(self) -> Revision | None:
        """The revision last accepted, if the source remembers it across restarts."""

    def accept(self, revision: Revision) -> None:
        """Remembers ``revision`` as good: its specs were understood and are being applied."""


def is_spec_name(name: str) -> bool:
    """Whether a file called ``name`` (without directories) is a spec."""
    return name.endswith(SUFFIXES) and not name.startswith(".")
