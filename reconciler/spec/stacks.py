"""Documents merged into stacks: what each stack declares, and where."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import field
from typing import Any

from reconciler.model.desired import Location
from reconciler.spec.errors import Problems, shown
from reconciler.spec.nodes import Node, place
from reconciler.spec.schema import ComposeFile, Spec
from reconciler.spec.tree import SpecFile
from reconciler.value import dataclass

SECTIONS = (
    "registries",
    "mirrors",
    "images",
    "tags",
    "networks",
    "volumes",
    "secrets",
    "configs",
    "containers",
    "syncs",
)

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """One document that has been read and validated. ``faults`` are the paths of what was left out as wrong."""

    file: SpecFile
    root: Node
    model: Spec | ComposeFile
    stack: str
    faults: frozenset[Path] = frozenset()

    def at(self, path: Path, *, key: bool = False) -> Location:
        """Where ``path`` is in the file, or the deepest part of it that is there."""
        return Location(self.file.path, *place(self.root, path, key=key))

    def section(self, name: str) -> tuple[Path, Mapping[str, Any]]:
        """A section's path and entries; the containers of a compose file are its ``services``."""
        if isinstance(self.model, ComposeFile) and name == "containers":
            name = "services"
        return (name,), getattr(self.model, name, {})


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One named resource of a document, as its model; None when it was left out as wrong.

    ``lost`` are the fields of it that were left out as wrong.
    """

    document: Document
    path: Path
    model: Any
    lost: Collection[str | int] = ()

    @property
    def location(self) -> Location:
        return self.document.at(self.path, key=True)

    def at(self, *path: str | int, key: bool = False) -> Location:
        """Where a field of it is."""
        return self.document.at(self.path + path, key=key)


@dataclass(slots=True, eq=False)
class Stack:
    """All that the files of one stack declare, by section and name; in ``faulty`` what was left out as wrong."""

    name: str
    sections: dict[str, dict[str, Entry]] = field(default_factory=lambda: {name: {} for name in SECTIONS})
    faulty: dict[str, dict[str, Entry]] = field(default_factory=lambda: {name: {} for name in SECTIONS})
    retention: Entry | None = None

    def names(self, section: str) -> list[str]:
        """Every name that a section holds, also those of what is wrong."""
        return [*self.sections[section], *self.faulty[section]]

    def declares(self, section: str, name: str) -> bool:
        """Whether a section holds the name, also if what it stands for is wrong."""
        return name in self.sections[section] or name in self.faulty[section]


def merge(documents: Iterable[Document], problems: Problems) -> dict[str, Stack]:
    """The stacks by name. The same name twice in a section of one stack is a problem that shows both places."""
    stacks: dict[str, Stack] = {}
    named_after: dict[str, Document] = {}
    for document in documents:
        if isinstance(document.model, ComposeFile) and document.model.name is None:
            first = named_after.setdefault(document.stack, document)
            if first.file.directory != document.file.directory:
                problems.add(
                    document.at(()),
                    f"stack {shown(document.stack)} is named after this file's directory, and so is {first.at(())}",
                    "add name: to one of them, or to both",
                )
                continue
        stack = stacks.setdefault(document.stack, Stack(document.stack))
        lost: dict[Path, list[str | int]] = {}
        for fault in document.faults:
            lost.setdefault(fault[:-1], []).append(fault[-1])
        for name in SECTIONS:
            path, entries = document.section(name)
            for key, model in entries.items():
                _declare(stack, name, key, Entry(document, (*path, key), model, lost.get((*path, key), ())), problems)
            for key in sorted(map(str, lost.get(path, ()))):
                _declare(stack, name, key, Entry(document, (*path, key), None), problems)
        model = document.model
        if isinstance(model, Spec) and model.retention is not None:
            entry = Entry(document, ("retention",), model.retention)
            if stack.retention is not None:
                _twice(stack, "retention", stack.retention, entry, problems)
            stack.retention = stack.retention or entry
    return stacks


def _declare(stack: Stack, section: str, name: str, entry: Entry, problems: Problems) -> None:
    first = stack.sections[section].get(name) or stack.faulty[section].get(name)
    if first is None:
        (stack.sections if entry.model is not None else stack.faulty)[section][name] = entry
    else:
        _twice(stack, f"{name} in {section}", first, entry, problems)


def _twice(stack: Stack, what: str, first: Entry, second: Entry, problems: Problems) -> None:
    problems.add(
        second.location,
        f"{what} is declared twice in stack {shown(stack.name)}; first at {first.location}",
        "keep one, or give one another name; files add to a stack and do not override each other",
    )
