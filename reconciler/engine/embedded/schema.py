"""The engine's own tables, beside the store's in ROOT/state.db.

Forms, settings and lists are JSON. Times are seconds since the epoch.
"""

from __future__ import annotations

from reconciler.store.database import Schema

ENGINE = Schema(
    "engine",
    (
        """
        -- Registries, mirrors and retention rules, and the JSON array of the stacks that declare each.
        CREATE TABLE facts (
            address TEXT PRIMARY KEY,
            form TEXT NOT NULL,
            stacks TEXT NOT NULL
        ) WITHOUT ROWID;

        CREATE TABLE networks (
            address TEXT PRIMARY KEY,
            form TEXT NOT NULL,
            subnet TEXT NOT NULL,
            bridge TEXT NOT NULL UNIQUE,
            -- The address handed out last: the next search begins after it, so a freed one rests for a round.
            last_address TEXT NOT NULL DEFAULT ''
        ) WITHOUT ROWID;

        -- `name` is "stack/name", or the id of an anonymous volume; `owner` is its address in a stack, or empty once
        -- it left its stack. The data are in ROOT/volumes/<directory>.
        CREATE TABLE volumes (
            name TEXT PRIMARY KEY,
            form TEXT NOT NULL,
            owner TEXT NOT NULL,
            directory TEXT NOT NULL UNIQUE,
            -- Set until a first container has filled the volume from its image.
            fresh INTEGER NOT NULL
        ) WITHOUT ROWID;

        -- Image entries of stacks: what they were made from. Their digest is the store's name of that address.
        CREATE TABLE entries (
            address TEXT PRIMARY KEY,
            form TEXT NOT NULL,
            commit_container TEXT,
            commit_run INTEGER,
            commit_fingerprint TEXT
        ) WITHOUT ROWID;

        -- Declared tags. `pushed` is what this root last wrote at the registry, `repaired` how often it put it back.
        CREATE TABLE tags (
            address TEXT PRIMARY KEY,
            form TEXT NOT NULL,
            stack TEXT NOT NULL,
            pushed TEXT,
            repaired INTEGER NOT NULL DEFAULT 0
        ) WITHOUT ROWID;

        -- `name` is the shown name ("shop/web", or "brave_lovelace"), NULL for a container that is prepared to take a
        -- name over, or that lost it to its successor. `address` is empty for ad-hoc containers.
        CREATE TABLE containers (
            id TEXT PRIMARY KEY,
            name TEXT UNIQUE,
            address TEXT NOT NULL,
            form TEXT NOT NULL,
            settings TEXT NOT NULL,
            image TEXT NOT NULL,
            created_at REAL NOT NULL,
            run INTEGER NOT NULL DEFAULT 0,
            streak INTEGER NOT NULL DEFAULT 0,
            started_at REAL,
            finished_at REAL,
            exit_code INTEGER,
            oom INTEGER NOT NULL DEFAULT 0
        ) WITHOUT ROWID;
        CREATE INDEX containers_by_address ON containers (address);

        -- One row per network that a container is on while it runs.
        CREATE TABLE endpoints (
            container TEXT NOT NULL REFERENCES containers (id) ON DELETE CASCADE,
            network TEXT NOT NULL REFERENCES networks (address),
            address TEXT NOT NULL,
            interface TEXT NOT NULL,
            PRIMARY KEY (container, network),
            UNIQUE (network, address)
        ) WITHOUT ROWID;

        -- The host ports that are published now. (The key's columns come first: quick_check of SQLite 3.40 takes other
        -- orders in a table WITHOUT ROWID for damage.)
        CREATE TABLE published (
            host_address TEXT NOT NULL,
            host_port INTEGER NOT NULL,
            protocol TEXT NOT NULL,
            container TEXT NOT NULL REFERENCES containers (id) ON DELETE CASCADE,
            container_address TEXT NOT NULL,
            container_port INTEGER NOT NULL,
            PRIMARY KEY (host_address, host_port, protocol)
        ) WITHOUT ROWID;

        CREATE TABLE generations (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            created_at REAL NOT NULL,
            source TEXT NOT NULL,
            revision TEXT NOT NULL,
            stacks TEXT NOT NULL,
            entries TEXT NOT NULL
        );

        -- Which stacks each source held at its last apply.
        CREATE TABLE sources (
            source TEXT NOT NULL,
            stack TEXT NOT NULL,
            PRIMARY KEY (source, stack)
        ) WITHOUT ROWID;
        """,
        """
        -- How the wall clock went beside time that passed for certain: see `ages`. All in seconds.
        CREATE TABLE clock (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            boot_id TEXT NOT NULL,
            boot_time REAL NOT NULL,
            wall REAL NOT NULL,
            elapsed REAL NOT NULL,
            seen REAL NOT NULL
        );
        """,
        """
        -- Syncs that are declared, and how the last look at their registries went. `failures` is how often in a row
        -- something failed, `failed` whether since the last look; `due_at` when a daemon asks again.
        CREATE TABLE syncs (
            address TEXT PRIMARY KEY,
            form TEXT NOT NULL,
            stack TEXT NOT NULL,
            checked_at REAL,
            due_at REAL,
            counted INTEGER NOT NULL DEFAULT 0,
            failures INTEGER NOT NULL DEFAULT 0,
            failed INTEGER NOT NULL DEFAULT 0,
            error TEXT NOT NULL DEFAULT ''
        ) WITHOUT ROWID;

        -- The digests of indexes narrowed to platforms: known without fetching the index again.
        CREATE TABLE narrowed (
            sync TEXT NOT NULL,
            source TEXT NOT NULL,
            platforms TEXT NOT NULL,
            digest TEXT NOT NULL,
            PRIMARY KEY (sync, source, platforms)
        ) WITHOUT ROWID;
        """,
        """
        -- When a tag at a registry was first seen with the digest it has: see `tag_ledger`.
        CREATE TABLE tag_ledger (
            repository TEXT NOT NULL,
            tag TEXT NOT NULL,
            digest TEXT NOT NULL,
            seen_at REAL NOT NULL,
            PRIMARY KEY (repository, tag)
        ) WITHOUT ROWID;
        """,
        """
        -- Of image entries that track a repository: the tag that the last pass picked, and why.
        CREATE TABLE picks (
            address TEXT PRIMARY KEY,
            why TEXT NOT NULL
        ) WITHOUT ROWID;
        """,
        """
        -- How mirrors did when they were last asked: `since` when they answer, or fail `failures` times in a row.
        CREATE TABLE mirror_health (
            url TEXT PRIMARY KEY,
            since REAL NOT NULL,
            failures INTEGER NOT NULL,
            failed_at REAL,
            next_try REAL,
            error TEXT NOT NULL
        ) WITHOUT ROWID;
        """,
        """
        -- What the images of a sync consist of, as far as the last look went into that: manifests never change.
        CREATE TABLE sync_parts (
            sync TEXT NOT NULL,
            digest TEXT NOT NULL,
            parts TEXT NOT NULL,
            PRIMARY KEY (sync, digest)
        ) WITHOUT ROWID;
        """,
    ),
)
