"""Rows of the engine's tables as values, but for containers, which have a module of their own."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Any

from reconciler.model.address import Address
from reconciler.model.canonical import Form
from reconciler.oci.digest import Digest
from reconciler.store.database import Database
from reconciler.value import dataclass

if TYPE_CHECKING:
    from reconciler.engine.port import Generation, GenerationEntry
    from reconciler.model.observed import CommitKey, ObservedFact


def dump(value: Any) -> str:
    """Compact JSON with sorted keys, as all columns of this engine hold it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


class Facts:
    """Registries, mirrors and retention rules."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> dict[Address, ObservedFact]:
        rows = self._database.query("SELECT address, form, stacks FROM facts")
        if not rows:
            return {}
        from reconciler.model.observed import ObservedFact

        return {
            Address.parse(row["address"]): ObservedFact(json.loads(row["form"]), frozenset(json.loads(row["stacks"])))
            for row in rows
        }

    def set(self, address: Address, form: Form, stacks: Iterable[str]) -> None:
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", (str(address), dump(form), dump(sorted(stacks)))
            )

    def drop(self, address: Address, remaining: Collection[str] = ()) -> None:
        """Forgets a fact, or leaves it to the ``remaining`` stacks that declare it."""
        with self._database.transaction() as connection:
            if remaining:
                stacks = dump(sorted(remaining))
                connection.execute("UPDATE facts SET stacks = ? WHERE address = ?", (stacks, str(address)))
            else:
                connection.execute("DELETE FROM facts WHERE address = ?", (str(address),))


@dataclass(frozen=True, slots=True)
class NetworkRow:
    """A network of this root: its subnet, and the name of its bridge."""

    address: Address
    form: Form
    subnet: IPv4Network
    bridge: str
    last_address: IPv4Address | None = None

    @property
    def gateway(self) -> IPv4Address:
        return self.subnet[1]


class Networks:
    """The networks of this root."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> dict[Address, NetworkRow]:
        rows = self._database.query("SELECT * FROM networks ORDER BY address")
        found = (
            NetworkRow(
                Address.parse(row["address"]),
                json.loads(row["form"]),
                IPv4Network(row["subnet"]),
                row["bridge"],
                IPv4Address(row["last_address"]) if row["last_address"] else None,
            )
            for row in rows
        )
        return {row.address: row for row in found}

    def set(self, row: NetworkRow) -> None:
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO networks VALUES (?, ?, ?, ?, ?) ON CONFLICT (address) DO UPDATE SET form = excluded.form,"
                " subnet = excluded.subnet, bridge = excluded.bridge, last_address = excluded.last_address",
                (
                    str(row.address),
                    dump(row.form),
                    str(row.subnet),
                    row.bridge,
                    str(row.last_address) if row.last_address else "",
                ),
            )

    def drop(self, address: Address) -> None:
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM networks WHERE address = ?", (str(address),))


@dataclass(frozen=True, slots=True)
class EntryRow:
    """An image entry of a stack: its form, and for a commit what it was taken of."""

    form: Form
    commit: CommitKey | None = None


class Entries:
    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> dict[Address, EntryRow]:
        from reconciler.model.observed import CommitKey

        rows = self._database.query("SELECT * FROM entries")
        return {
            Address.parse(row["address"]): EntryRow(
                json.loads(row["form"]),
                CommitKey(row["commit_container"], row["commit_run"], row["commit_fingerprint"])
                if row["commit_container"]
                else None,
            )
            for row in rows
        }

    def set(self, address: Address, form: Form, commit: CommitKey | None = None) -> None:
        key = (commit.container_id, commit.run, commit.fingerprint) if commit else (None, None, None)
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?)", (str(address), dump(form), *key)
            )

    def drop(self, address: Address) -> None:
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM entries WHERE address = ?", (str(address),))


class Picks:
    """Why images that track a repository have the tag they have, by address."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> dict[Address, str]:
        rows = self._database.query("SELECT address, why FROM picks")
        return {Address.parse(row["address"]): row["why"] for row in rows}

    def note(self, picks: Mapping[Address, str]) -> None:
        """Keeps what is new; "" forgets an address."""
        known = self.all()
        changed = {address: why for address, why in picks.items() if known.get(address, "") != why}
        if changed:
            with self._database.transaction() as connection:
                gone = [(str(address),) for address, why in changed.items() if not why]
                connection.executemany("DELETE FROM picks WHERE address = ?", gone)
                there = [(str(address), why) for address, why in changed.items() if why]
                connection.executemany("INSERT OR REPLACE INTO picks VALUES (?, ?)", there)


@dataclass(frozen=True, slots=True)
class TagRow:
    """A declared tag: its stack, what this root last pushed, and how often it put that back."""

    form: Form
    stack: str
    pushed: Digest | None = None
    repaired: int = 0


class Tags:
    """Declared tags; what each points at on this host is the store's name of the reference."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> dict[Address, TagRow]:
        return {
            Address.parse(row["address"]): TagRow(
                json.loads(row["form"]),
                row["stack"],
                Digest(row["pushed"]) if row["pushed"] else None,
                row["repaired"],
            )
            for row in self._database.query("SELECT * FROM tags")
        }

    def set(self, address: Address, form: Form, stack: str) -> None:
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO tags (address, form, stack) VALUES (?, ?, ?) ON CONFLICT (address)"
                " DO UPDATE SET form = excluded.form, stack = excluded.stack",
                (str(address), dump(form), stack),
            )

    def pushed(self, address: Address, digest: Digest, *, repair: bool) -> None:
        """Notes what was written at the registry; a repair counts, a new image starts the count again."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE tags SET pushed = ?, repaired = CASE WHEN ? THEN repaired + 1 ELSE 0 END WHERE address = ?",
                (str(digest), repair, str(address)),
            )

    def drop(self, address: Address) -> None:
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM tags WHERE address = ?", (str(address),))


class Generations:
    """Every successful apply, numbered, and the stacks each source held at its last one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, generation: Generation, now: float) -> int:
        entries = {
            str(address): {"form": entry.form, "digest": entry.digest} for address, entry in generation.entries.items()
        }
        with self._database.transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO generations (created_at, source, revision, stacks, entries) VALUES (?, ?, ?, ?, ?)",
                (now, generation.source, generation.revision, dump(sorted(generation.stacks)), dump(entries)),
            )
            stacks = sorted(generation.stacks)
            # A stack moves to the source that declared it last: the one it came from must not prune it any more.
            connection.execute("DELETE FROM sources WHERE source = ?", (generation.source,))
            connection.executemany("DELETE FROM sources WHERE stack = ?", [(stack,) for stack in stacks])
            connection.executemany(
                "INSERT INTO sources VALUES (?, ?)", [(generation.source, stack) for stack in stacks]
            )
            return int(cursor.lastrowid or 0)

    def all(self) -> list[Generation]:
        """Oldest first."""
        from reconciler.engine.port import Generation

        return [
            Generation(
                frozenset(json.loads(row["stacks"])),
                row["source"],
                row["revision"],
                _entries(json.loads(row["entries"])),
                row["number"],
                row["created_at"],
            )
            for row in self._database.query("SELECT * FROM generations ORDER BY number")
        ]

    def numbers(self) -> list[int]:
        """Of all generations, in order."""
        return [row["number"] for row in self._database.query("SELECT number FROM generations ORDER BY number")]

    def forget(self, number: int) -> None:
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM generations WHERE number = ?", (number,))

    def stacks_of(self, source: str) -> frozenset[str]:
        rows = self._database.query("SELECT stack FROM sources WHERE source = ?", (source,))
        return frozenset(row["stack"] for row in rows)


def _entries(document: Mapping[str, Any]) -> dict[Address, GenerationEntry]:
    from reconciler.engine.port import GenerationEntry

    return {
        Address.parse(address): GenerationEntry(entry["form"], Digest(entry["digest"]) if entry["digest"] else None)
        for address, entry in document.items()
    }
