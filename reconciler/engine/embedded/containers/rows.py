"""Containers as the engine records them."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Any

from reconciler.engine.embedded.records import dump
from reconciler.errors import ConflictError, NotFoundError
from reconciler.model.address import Address
from reconciler.model.canonical import Form
from reconciler.model.resources import Port
from reconciler.oci.digest import Digest
from reconciler.store.database import Database
from reconciler.value import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """What every start of a container needs and its bundle does not hold. Nothing here is sensitive.

    ``networks`` are addresses of networks, the first one giving the default route. ``volumes`` are names of volumes,
    ``anonymous`` those of them that go when the container goes, with their targets. ``args`` is what is run, for
    listings.
    """

    args: tuple[str, ...] = ()
    hostname: str = ""
    networks: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    restart: str = "no"
    stop_signal: str = "SIGTERM"
    stop_grace_period: float = 10.0
    terminal: bool = False
    stdin: bool = False
    volumes: tuple[str, ...] = ()
    anonymous: tuple[tuple[str, str], ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    stubs: tuple[str, ...] = ()
    """Paths in the container that the runtime made as mount points: they are no part of a commit."""

    @classmethod
    def from_json(cls, text: str) -> Settings:
        document = json.loads(text)
        document["ports"] = tuple(Port(**port) for port in document.get("ports", ()))
        document["anonymous"] = tuple((name, target) for name, target in document.get("anonymous", ()))
        for name in ("args", "networks", "volumes", "stubs"):
            document[name] = tuple(document.get(name, ()))
        return cls(**document)

    def to_json(self) -> str:
        return dump(dataclasses.asdict(self))


@dataclass(frozen=True, slots=True)
class ContainerRow:
    """One container. ``name`` is None for one that is prepared to take a name over, or that lost its own.

    ``exit_code`` None on a container that has finished means that nobody could tell. Its processes are the runtime's
    to know: a pid on record would outlive them.
    """

    id: str
    name: str | None
    address: Address | None
    form: Form
    settings: Settings
    image: Digest
    created_at: float
    run: int = 0
    streak: int = 0
    started_at: float | None = None
    finished_at: float | None = None
    exit_code: int | None = None
    oom: bool = False

    def to_record(self) -> Form:
        """What is kept of a row beside the container's files, to make it again when the database is lost."""
        return {
            "name": self.name or "",
            "address": str(self.address) if self.address else "",
            "form": self.form,
            "settings": self.settings.to_json(),
            "image": str(self.image),
            "created_at": self.created_at,
        }

    @classmethod
    def from_record(cls, container_id: str, record: Mapping[str, Any]) -> ContainerRow:
        """The row of a container that was never started. Raises ``KeyError``, ``ValueError`` or ``InvalidError``."""
        return cls(
            container_id,
            record["name"] or None,
            Address.parse(record["address"]) if record["address"] else None,
            record["form"],
            Settings.from_json(record["settings"]),
            Digest(record["image"]),
            float(record["created_at"]),
        )

    @property
    def short_id(self) -> str:
        return self.id[:12]

    @property
    def shown(self) -> str:
        return self.name or self.short_id


class ContainerTable:
    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[ContainerRow]:
        """Every container, oldest first."""
        return [_row(row) for row in self._database.query("SELECT * FROM containers ORDER BY created_at, id")]

    def get(self, container_id: str) -> ContainerRow:
        """Raises ``NotFoundError``."""
        rows = self._database.query("SELECT * FROM containers WHERE id = ?", (container_id,))
        if not rows:
            raise NotFoundError(f"no container {container_id[:12]}", hint="list them with: reconciler container ls")
        return _row(rows[0])

    def named(self, name: str) -> ContainerRow | None:
        rows = self._database.query("SELECT * FROM containers WHERE name = ?", (name,))
        return _row(rows[0]) if rows else None

    def at(self, address: Address) -> list[ContainerRow]:
        """All containers under one address: the named one, and what an interrupted replacement left. Oldest first."""
        rows = self._database.query(
            "SELECT * FROM containers WHERE address = ? ORDER BY created_at, id", (str(address),)
        )
        return [_row(row) for row in rows]

    def add(self, row: ContainerRow) -> None:
        """Raises ``ConflictError`` when the name is taken."""
        values = {
            "id": row.id,
            "name": row.name,
            "address": str(row.address) if row.address else "",
            "form": dump(row.form),
            "settings": row.settings.to_json(),
            "image": str(row.image),
            "created_at": row.created_at,
        }
        try:
            with self._database.transaction() as connection:
                connection.execute(
                    f"INSERT INTO containers ({', '.join(values)}) VALUES ({', '.join(['?'] * len(values))})",
                    tuple(values.values()),
                )
        except sqlite3.IntegrityError:
            raise ConflictError(
                f"the name {row.name} is taken", hint=f"remove it first: reconciler container rm {row.name}"
            ) from None

    def update(self, container_id: str, **values: Any) -> None:
        """Sets columns by name."""
        with self._database.transaction() as connection:
            connection.execute(
                f"UPDATE containers SET {', '.join(f'{column} = ?' for column in values)} WHERE id = ?",
                (*values.values(), container_id),
            )

    def take_name(self, container_id: str, name: str) -> None:
        """Gives ``name`` to one container and takes it from any other, in one step."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE containers SET name = NULL WHERE name = ? AND id != ?", (name, container_id))
            connection.execute("UPDATE containers SET name = ? WHERE id = ?", (name, container_id))

    def drop(self, container_id: str) -> None:
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM containers WHERE id = ?", (container_id,))


def find_container(rows: Iterable[ContainerRow], wanted: str) -> ContainerRow:
    """The container that a person means: a shown name, the name without its stack where that is unambiguous, or a
    unique prefix of an id. Names win over ids. Raises ``NotFoundError`` or ``ConflictError``.
    """
    rows = list(rows)
    exact = [row for row in rows if row.name == wanted]
    short = [row for row in rows if row.name is not None and row.name.partition("/")[2] == wanted]
    by_id = [row for row in rows if wanted and row.id.startswith(wanted)]
    for found in (exact, short, by_id):
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(sorted(row.shown for row in found))
            raise ConflictError(f"{wanted!a} is ambiguous: {names}", hint="write the whole name or more of the id")
    raise NotFoundError(f"no container {wanted[:200]!a}", hint="list them with: reconciler container ls")


def _row(row: sqlite3.Row) -> ContainerRow:
    document = dict(row)
    document["address"] = Address.parse(row["address"]) if row["address"] else None
    document["form"] = json.loads(row["form"])
    document["settings"] = Settings.from_json(row["settings"])
    document["image"] = Digest(row["image"])
    document["oom"] = bool(row["oom"])
    return ContainerRow(**document)
