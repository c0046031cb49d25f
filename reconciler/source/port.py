"""What a source of specs is, whatever it reads from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Protocol

from reconciler.spec.tree import Tree
from reconciler.value import dataclass


class SourceTree(Tree, Protocol):
    """The files of one revision, as the loader reads them."""

    def write_exports(self) -> None:
        """Makes the paths that ``export`` and ``content`` gave exist on this host. Only for who holds the turn."""


@dataclass(frozen=True, slots=True)
class Revision:
    """The specs at one moment: ``load_specs(paths, recursive=recursive, tree=tree)`` reads them.

    ``id`` is a commit, or the hash of the spec files as they were read.
    """

    id: str
    tree: SourceTree = field(repr=False)
    paths: tuple[str, ...]
    recursive: bool = False


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
