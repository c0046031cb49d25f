"""Everything that one root holds on disk, opened together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.engine.embedded.containers.rows import ContainerTable
from reconciler.engine.embedded.containers.volumes import VolumeTable
from reconciler.engine.embedded.mirror_health import MirrorHealth
from reconciler.engine.embedded.records import Entries, Facts, Generations, Networks, Picks, Tags
from reconciler.engine.embedded.schema import ENGINE
from reconciler.engine.embedded.syncs.rows import SyncTable
from reconciler.engine.embedded.tag_ledger import TagLedger
from reconciler.engine.embedded.upkeep.ages import ClockTable
from reconciler.errors import HostError, InvalidError
from reconciler.linux.discards import Discards
from reconciler.log import Logger
from reconciler.oci import media
from reconciler.oci.config import MAX_CONFIG_BYTES, ImageConfig
from reconciler.store.collection.leases import LeaseTable
from reconciler.store.content import ContentStore
from reconciler.store.database import FILE, Database, WritableDatabase
from reconciler.store.identity import PLACE, RUN, Identity, claim_identity, read_identity
from reconciler.store.images import ImageRecord, ImageTable, NameTable
from reconciler.store.layers.table import Layers
from reconciler.store.readonly import ReadOnlyDatabase
from reconciler.store.schema import STORE
from reconciler.store.snapshots import Snapshots

if TYPE_CHECKING:
    import sqlite3

SCHEMAS = (STORE, ENGINE)
_LAST_GENERATION = "SELECT coalesce(max(number), 0) FROM generations"
_log = Logger("engine")


class State:
    """The store and the engine's own records of one root. A reader's state raises at the first attempt to write."""

    def __init__(self, identity: Identity, database: Database) -> None:
        root = identity.root
        self.identity = identity
        self.database = database
        self.content = ContentStore(root)
        self.images = ImageTable(database, self.content)
        self.names = NameTable(database)
        self.leases = LeaseTable(database)
        self.layers = Layers(root, database)
        self.snapshots = Snapshots(root)
        self.discards = Discards(root)
        self.facts = Facts(database)
        self.networks = Networks(database)
        self.volumes = VolumeTable(database)
        self.entries = Entries(database)
        self.picks = Picks(database)
        self.mirror_health = MirrorHealth(database)
        self.tags = Tags(database)
        self.syncs = SyncTable(database)
        self.tag_ledger = TagLedger(database)
        self.containers = ContainerTable(database)
        self.generations = Generations(database)
        self.clock = ClockTable(database)

    @property
    def root(self) -> Path:
        return self.identity.root

    @property
    def run(self) -> Path:
        """The root's directory under /run: all in it can be rebuilt after a reboot."""
        return self.identity.run

    def container_dir(self, container_id: str) -> Path:
        return self.root / "containers" / container_id

    def rootfs(self, container_id: str) -> Path:
        """Where a running container's root filesystem is mounted."""
        return self.run / "rootfs" / container_id

    def netns(self, container_id: str) -> Path:
        return self.run / "netns" / container_id

    def log_path(self, container_id: str) -> Path:
        return self.container_dir(container_id) / "log"

    def config(self, image: ImageRecord) -> ImageConfig:
        """What an image says of itself. Raises ``InvalidError`` for an artifact, which is no image."""
        if image.config.media_type not in media.CONFIGS:
            raise InvalidError(
                f"{image.digest.short} is an artifact ({image.config.media_type[:100]}), not an image",
                hint="only images can be run, and have a history",
            )
        return ImageConfig.parse(self.content.read(image.config.digest, MAX_CONFIG_BYTES))

    def lowers(self, image: ImageRecord) -> tuple[Path, ...]:
        """An image's unpacked layers, top first. Raises ``NotFoundError`` when one is missing."""
        return self.layers.stack(image.chain_ids[-1] if image.chain_ids else None)

    def is_bare(self) -> bool:
        """Whether there is no container, volume or task, made or half made. Directories come before rows."""
        below = {name for place in ("containers", "volumes") for name in _names(self.root / place)}
        return not below and _names(self.run) <= {PLACE}

    def close(self) -> None:
        self.database.close()


def open_reader(root: Path, run: Path = RUN) -> State:
    """A view of ``root`` that leaves no trace; of a root that is not there yet, an empty one."""
    return State(read_identity(root, run), ReadOnlyDatabase(root, SCHEMAS))


def open_writer(root: Path) -> WriterState:
    """The state to write to, made if the root is new. The caller holds the root's lock."""
    return WriterState(claim_identity(root), WritableDatabase(root, SCHEMAS))


def was_cut_off(root: Path) -> bool:
    """Whether the last turn did not come to its end: a turn that does, empties the database's log."""
    try:
        return (root / f"{FILE}-wal").stat().st_size > 0
    except FileNotFoundError:
        return False


class WriterState(State):
    database: WritableDatabase

    def __init__(self, identity: Identity, database: WritableDatabase) -> None:
        super().__init__(identity, database)
        self._backed_up: int | None = None

    def close_pass(self) -> None:
        """Ends a turn: what was written is moved to where readers need no side files.

        After a recorded apply the database is backed up as well, be it that of a process that was killed before.
        """
        from reconciler.store.backup import back_up, query_backup

        self.database.close_pass()
        last = _last(self.database.query(_LAST_GENERATION))
        if self._backed_up is None:
            self._backed_up = _last(query_backup(self.root, _LAST_GENERATION))
        if last != self._backed_up:
            try:
                back_up(self.root)
            except HostError as error:  # what was applied is applied; the next turn tries again
                _log.warning("not-backed-up", error=str(error), hint=error.hint)
            else:
                self._backed_up = last


def _last(rows: list[sqlite3.Row]) -> int:
    return int(rows[0][0]) if rows else 0


def _names(directory: Path) -> set[str]:
    try:
        return {path.name for path in directory.iterdir()}
    except FileNotFoundError:
        return set()
