"""The store's own tables.

A row is a claim about bytes: it is written after the bytes are durable and deleted before they go.
"""

from __future__ import annotations

from reconciler.store.database import Schema

STORE = Schema(
    "store",
    (
        """
        -- One image for one platform. `digest` is its manifest's; `layers` is a JSON array, lowest first, of
        -- [digest, size, media type, diff ID]. `size` counts manifest, config and layers as stored (compressed).
        CREATE TABLE images (
            digest TEXT PRIMARY KEY,
            media_type TEXT NOT NULL,
            config_digest TEXT NOT NULL,
            config_size INTEGER NOT NULL,
            config_media_type TEXT NOT NULL,
            layers TEXT NOT NULL,
            index_digest TEXT,
            platform TEXT NOT NULL,
            size INTEGER NOT NULL,
            created TEXT NOT NULL,
            fetched_at TEXT NOT NULL
        ) WITHOUT ROWID;

        -- What people call an image: a full reference (kind 'tag') or an entry of a stack (kind 'entry').
        CREATE TABLE names (
            name TEXT PRIMARY KEY,
            digest TEXT NOT NULL REFERENCES images (digest),
            stack TEXT NOT NULL,
            kind TEXT NOT NULL CHECK (kind IN ('tag', 'entry'))
        ) WITHOUT ROWID;
        CREATE INDEX images_by_index ON images (index_digest);
        CREATE INDEX names_by_digest ON names (digest);
        CREATE INDEX names_by_stack ON names (stack);

        -- One unpacked layer in ROOT/layers/<hex of chain_id>. `parent` is NULL for a lowest layer. `size` is in
        -- bytes on disk; `blob` is the digest it was unpacked from, or empty.
        CREATE TABLE layers (
            chain_id TEXT PRIMARY KEY,
            parent TEXT,
            diff_id TEXT NOT NULL,
            blob TEXT NOT NULL DEFAULT '',
            size INTEGER NOT NULL,
            entries INTEGER NOT NULL
        ) WITHOUT ROWID;
        CREATE INDEX layers_by_parent ON layers (parent);

        -- Times are seconds of CLOCK_BOOTTIME within the boot `boot_id`.
        CREATE TABLE leases (
            id TEXT PRIMARY KEY,
            purpose TEXT NOT NULL,
            boot_id TEXT NOT NULL,
            owner_pid INTEGER NOT NULL,
            owner_start INTEGER NOT NULL,
            holds_until REAL NOT NULL
        ) WITHOUT ROWID;

        -- `item` is a digest: of a blob, of a manifest, or a chain ID.
        CREATE TABLE lease_items (
            lease TEXT NOT NULL REFERENCES leases (id) ON DELETE CASCADE,
            item TEXT NOT NULL,
            PRIMARY KEY (lease, item)
        ) WITHOUT ROWID;
        """,
        """
        -- The repositories that an image was pulled from, such as docker.io/library/debian: where to ask for its parts
        -- when one of them is damaged, whatever became of its names.
        CREATE TABLE image_repositories (
            image TEXT NOT NULL REFERENCES images (digest) ON DELETE CASCADE,
            repository TEXT NOT NULL,
            PRIMARY KEY (image, repository)
        ) WITHOUT ROWID;
        """,
    ),
)
