"""The store's claims against what is on disk: rows, blobs, unpacked layers, leases, and what nothing claims.

Everything here reads only. A store that is at work changes while it is read: whoever checks one looks twice and
believes what is found both times (``Findings.confirmed_by``).
"""

from __future__ import annotations

import re
import stat
from typing import TYPE_CHECKING

from reconciler.errors import HostError, ReconcilerError
from reconciler.linux.discards import DIRECTORY as DISCARDED
from reconciler.linux.tree import disk_usage
from reconciler.oci.config import MAX_CONFIG_BYTES, ImageConfig
from reconciler.oci.digest import Digest
from reconciler.oci.manifest import MAX_MANIFEST_BYTES, Manifest, parse_manifest
from reconciler.oci.reference import Reference
from reconciler.store import ingest
from reconciler.store.check.claims import MALFORMED, Claims, shown
from reconciler.store.check.damage import NO_LIST, Damage, Findings, Leftover, Needs
from reconciler.store.check.rehash import Flaw
from reconciler.store.collection.removal import is_in_use
from reconciler.store.content import ContentStore
from reconciler.store.quarantine import DIRECTORY as QUARANTINE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from reconciler.store.check.compare import Difference
    from reconciler.store.database import Database
    from reconciler.store.images import ImageRecord
    from reconciler.store.layers.table import Layer

_LAYER_NAME = re.compile(r"([0-9a-f]{64})(\..*)?", re.ASCII)
_TEMPORARY = re.compile(r"\..+\.tmp|\.rebuild(-ready)?", re.ASCII)


def check_database(database: Database) -> Iterator[Damage]:
    """SQLite's own checks: of its pages and indices, and that no row refers to one that is not there.

    Raises ``HostError`` when it cannot even be checked.
    """
    for row in database.query("PRAGMA integrity_check(20)"):
        if row[0] != "ok":
            yield Damage("database", str(database.path), "corrupt", f"SQLite says: {row[0]}")
    for row in database.query("PRAGMA foreign_key_check"):
        text = f"a row of table {row[0]} refers to one of table {row[2]} that is not there"
        yield Damage("database", str(row[0]), "dangling-row", text)


class StoreCheck:
    """One look at a store.

    ``flaws`` are those of its blobs (``rehash``), ``differences`` those of its unpacked layers (``compare_layers``),
    and ``needs`` is who uses what beside names.
    """

    def __init__(
        self,
        root: Path,
        claims: Claims,
        flaws: Mapping[Digest, Flaw],
        needs: Needs,
        differences: Mapping[Digest, Difference] | None = None,
    ) -> None:
        self._root = root
        self._claims = claims
        self._content = ContentStore(root)
        self._flaws = flaws
        self._needs = needs
        self._differences = differences or {}
        self._claimed = claims.blobs()

    def run(self) -> Findings:
        """All that is wrong or left over. Raises nothing for what is on disk."""
        findings = Findings()
        findings.damage += self._claims.damage
        findings.damage += self._blobs()
        for image in self._claims.images.values():
            findings.damage += self._image(image)
        findings.damage += self._names()
        findings.damage += self._layers()
        for leftovers in (self._orphan_blobs, self._partials, self._orphan_layers, self._others):
            try:
                findings.leftovers += leftovers()
            except ReconcilerError as error:
                findings.damage.append(Damage("root", str(self._root), "unreadable", str(error)))
        return findings

    # What is claimed

    def _blobs(self) -> Iterator[Damage]:
        for digest in sorted({*self._claimed, *self._flaws}):
            flaw = self._flaws.get(digest)
            if flaw is None and digest in self._claimed and self._size(digest) is None:
                flaw = Flaw("missing", "is not in the store")
            if flaw is not None:
                users = self._claims.users_of(self._claimed.get(digest, ()), self._needs)
                yield Damage("blob", digest, flaw.code, flaw.text, users)

    def _image(self, image: ImageRecord) -> Iterator[Damage]:
        users = self._claims.users_of([image], self._needs)
        parts = [(image.config.digest, image.config.size), *((layer.digest, layer.size) for layer in image.layers)]
        for digest, size in parts:
            found = self._size(digest)
            if found not in (None, size) and digest not in self._flaws:
                text = f"its row says that {digest} has {size} bytes, but it has {found}"
                yield Damage("image", image.digest, "wrong-size", text, users)
        yield from self._documents(image, users)

    def _documents(self, image: ImageRecord, users: tuple[str, ...]) -> Iterator[Damage]:
        """Manifest and config, as far as they are whole, have to say what the row says."""
        try:
            if self._is_whole(image.digest):
                manifest = parse_manifest(self._content.read(image.digest, MAX_MANIFEST_BYTES))
                layers = tuple(layer.digest for layer in image.layers)
                if not isinstance(manifest, Manifest) or (
                    (manifest.config.digest, *(layer.digest for layer in manifest.layers))
                    != (image.config.digest, *layers)
                ):
                    yield Damage("image", image.digest, "wrong-row", "its row differs from its manifest", users)
            if self._is_whole(image.config.digest):
                config = ImageConfig.parse(self._content.read(image.config.digest, MAX_CONFIG_BYTES))
                if config.diff_ids != tuple(layer.diff_id for layer in image.layers):
                    yield Damage("image", image.digest, "wrong-row", "its row differs from its config", users)
            if image.index_digest is not None and self._is_whole(image.index_digest):
                parse_manifest(self._content.read(image.index_digest, MAX_MANIFEST_BYTES))
        except MALFORMED as error:
            yield Damage("image", image.digest, "malformed", f"what it consists of cannot be read: {error}", users)

    def _names(self) -> Iterator[Damage]:
        for name in self._claims.names:
            if name.digest not in self._claims.images:
                text = f"means image {name.digest}, which is not recorded"
                yield Damage("name", shown(name), "dangling", text)
            if name.kind == "tag" and not _is_reference(name.name):
                yield Damage("name", name.name, "malformed", "is no reference")

    def _layers(self) -> Iterator[Damage]:
        for chain_id, layer in self._claims.layers.items():
            for code, text, details in self._layer(chain_id, layer):
                yield Damage("layer", chain_id, code, text, self._claims.users_of_layer(chain_id, self._needs), details)

    def _layer(self, chain_id: Digest, layer: Layer) -> Iterator[tuple[str, str, tuple[str, ...]]]:
        """The code, the text and the details of each damage of one layer."""
        problem = self._directory(chain_id)
        if problem is not None:
            yield "no-directory", problem, ()
        elif (difference := self._differences.get(chain_id)) is not None and difference.code != NO_LIST:
            yield difference.code, difference.text, tuple(difference.lines)
        expected = layer.diff_id if layer.parent is None else Digest.of(f"{layer.parent} {layer.diff_id}".encode())
        if expected != chain_id:
            yield "wrong-row", "its row does not belong to its chain ID", ()
        elif layer.parent is not None and layer.parent not in self._claims.layers:
            yield "no-parent", f"lies on {layer.parent}, which is not unpacked", ()

    def _directory(self, chain_id: Digest) -> str | None:
        path = self._root / "layers" / chain_id.hex
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            return "is recorded as unpacked, but its directory is not there"
        except OSError as error:
            return f"its directory cannot be looked at: {error.strerror}"
        return None if stat.S_ISDIR(mode) else "what is in the place of its directory is none"

    # What nothing claims

    def _orphan_blobs(self) -> Iterator[Leftover]:
        for digest in sorted(self._content.digests()):
            if digest not in self._claimed and digest not in self._claims.held and digest not in self._flaws:
                yield Leftover("blob", digest, "no image refers to it", self._size(digest) or 0)

    def _partials(self) -> Iterator[Leftover]:
        for path in sorted(self._content.partials()):
            if f"sha256:{path.name}" not in self._claims.held and _is_abandoned(path):
                yield Leftover("partial", path.name, "an unfinished download that nobody continues", _usage(path))

    def _orphan_layers(self) -> Iterator[Leftover]:
        for path in _listed(self._root / "layers"):
            match = _LAYER_NAME.fullmatch(path.name)
            if match is None:
                yield Leftover("layer", path.name, "it is no layer of ours", _usage(path))
            elif not self._is_claimed_layer(match) and _is_nobodys_layer(path):
                yield Leftover("layer", path.name, "left behind by an interrupted unpack or removal", _usage(path))

    def _is_claimed_layer(self, match: re.Match[str]) -> bool:
        """Whether it is a ready layer or the list of its files, or belongs to one under a lease."""
        chain_id = f"sha256:{match[1]}"
        return chain_id in self._claims.held or (match[2] in (None, ".files") and chain_id in self._claims.layers)

    def _others(self) -> Iterator[Leftover]:
        for path in _listed(self._root):
            if _TEMPORARY.fullmatch(path.name):
                yield Leftover("temporary", path.name, "a file that was never finished", _usage(path))
        for path in _listed(self._root / DISCARDED):
            if _is_abandoned(path):
                yield Leftover("discarded", path.name, "its deletion was cut off: any command ends it", _usage(path))
        for path in _listed(self._root / QUARANTINE):
            yield Leftover("quarantine", path.name, "damaged, and put aside by a repair", _usage(path))
        for lease in self._claims.ended:
            yield Leftover("lease", lease, "its owner has ended")

    # Parts

    def _size(self, digest: Digest) -> int | None:
        """Bytes of a blob; None when there is no such file."""
        try:
            status = self._content.path(digest).lstat()
        except OSError:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def _is_whole(self, digest: Digest) -> bool:
        return digest not in self._flaws and self._size(digest) is not None


def _is_reference(text: str) -> bool:
    try:
        return str(Reference.parse(text)) == text
    except ReconcilerError:
        return False


def blob_paths(root: Path) -> list[tuple[Digest, Path]]:
    """Every blob with its place, the largest first, so that threads end together. Raises ``HostError``."""
    content = ContentStore(root)
    found = [(digest, content.path(digest)) for digest in content.digests()]
    return sorted(found, key=lambda blob: (-_length(blob[1]), blob[0]))


def _length(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _listed(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise HostError(f"cannot read {directory}: {error.strerror}") from error


def _is_abandoned(path: Path) -> bool:
    """Whether nobody holds it by flock; what cannot be opened (a socket, a link, a FIFO) is nobody's."""
    try:
        if not stat.S_ISREG(mode := path.lstat().st_mode) and not stat.S_ISDIR(mode):
            return True
        return ingest.is_abandoned(path)
    except FileNotFoundError:
        return False
    except (HostError, OSError):
        return True


def _is_nobodys_layer(path: Path) -> bool:
    return _is_abandoned(path) and not is_in_use(path.parent, [path.name] if ".removed-" in path.name else [])


def _usage(path: Path) -> int:
    try:
        return disk_usage(path)
    except HostError:
        return 0
