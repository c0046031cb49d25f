"""A small root to be damaged, copied for each test."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from reconciler.engine.embedded.engine import EmbeddedEngine
from reconciler.engine.embedded.perform import opener
from reconciler.engine.embedded.upkeep.verify import verify_root
from reconciler.model.address import Address
from reconciler.model.resources import Container, FileContent, Import
from reconciler.oci.digest import Digest
from reconciler.store.check.damage import Report
from reconciler.store.identity import RUN
from reconciler.store.images import ImageRecord, Name
from reconciler.testing.images import archive, busybox_archive

ENTRY, TAG = "image/shop/app", "docker.io/library/other:1"
_SLEEPER = Container(Address("image", "shop/app"), command=("sleep", "3600"), stop_signal="SIGKILL")


@dataclass(frozen=True)
class Scene:
    """A root with an image of a stack, a container made of it, and an image with a tag."""

    place: Path
    root: Path
    image: ImageRecord
    other: ImageRecord
    container: str
    name: str = ENTRY
    tag: str = TAG

    @classmethod
    def make(cls, place: Path) -> Scene:
        root = place / "root"
        with EmbeddedEngine(root) as engine, engine.turn(5):
            machinery = engine.writer()
            image = _import(engine, place / "app.tar.gz", busybox_archive({"etc/app": "app"}))
            other = _import(engine, place / "other.tar.gz", archive([]))
            machinery.state.names.set(Name(ENTRY, image.digest, "shop", "entry"))
            machinery.state.names.set(Name(TAG, other.digest, "", "tag"))
            row = machinery.containers.create(
                _SLEEPER, image.digest, name="shop/web", address=Address("container", "shop/web"), form={}
            )
            machinery.containers.take_down(row)
        return cls(place, root, image, other, row.id)

    def copy(self, place: Path) -> Scene:
        """The same with an identity of its own."""
        root = place / "root"
        subprocess.run(["cp", "-a", self.root, root], check=True)
        (root / "id").write_text(os.urandom(6).hex())
        return replace(self, place=place, root=root)

    @property
    def run(self) -> Path:
        return RUN / (self.root / "id").read_text().strip()

    def blob(self, digest: Digest) -> Path:
        return self.root / "blobs" / "sha256" / digest.hex

    def layer(self, chain_id: Digest) -> Path:
        return self.root / "layers" / chain_id.hex

    def execute(self, sql: str, *values: object) -> None:
        """Changes the database behind everybody's back."""
        connection = sqlite3.connect(self.root / "state.db", isolation_level=None)
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute(sql, values)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        connection.close()

    def flip(self, path: Path, at: int = -1) -> None:
        """Changes one bit of a file, as a disk does it: the times stay."""
        status = path.stat()
        data = bytearray(path.read_bytes())
        data[at] ^= 0x10
        path.write_bytes(data)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def verify(self, **options: bool) -> Report:
        return verify_root(self.root, **options)


def _import(engine: EmbeddedEngine, path: Path, data: bytes) -> ImageRecord:
    path.write_bytes(data)
    content = FileContent(str(path), Digest.of(data).hex, len(data))
    return engine.writer().images.import_archive(Import(content), opener(content))


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene.make(tmp_path_factory.mktemp("template"))


@pytest.fixture
def scene(template: Scene, tmp_path: Path) -> Iterator[Scene]:
    scene = template.copy(tmp_path)
    yield scene
    shutil.rmtree(scene.run, ignore_errors=True)
