"""The docker-archives that are loaded: made once, and kept beside the benchmark's registry.

``debian``      Debian minbase in one layer
``hundred``     100 images of two layers: busybox, and one file of their own
``tags``        busybox with 500 names
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Collection, Iterator
from pathlib import Path

from tests.bench.images import Layer, config, layers, small_files

COUNTS = {"hundred": 100, "tags": 500}
_ONE_IMAGE = ("debian", "tags")


def names(archive: str) -> list[str]:
    """The references of the images in an archive."""
    if archive not in COUNTS:
        return [f"bench.example/{archive}:latest"]
    return [f"bench.example/{archive}:{number}" for number in range(COUNTS[archive])]


def provide(cache: Path, wanted: Collection[str]) -> dict[str, Path]:
    """The ``wanted`` archives that are there or can be made on this machine."""
    found = {}
    for archive in wanted:
        path = cache / f"{archive}.tar"
        if not path.exists():
            try:
                _write(path, archive)
            except (FileNotFoundError, subprocess.CalledProcessError):
                continue
        found[archive] = path
    return found


def _write(path: Path, archive: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    try:
        with tarfile.open(temporary, "w") as out:
            _fill(out, archive)
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def _fill(out: tarfile.TarFile, archive: str) -> None:
    written: set[str] = set()

    def add(name: str, data: bytes) -> str:
        if name not in written:
            written.add(name)
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            out.addfile(entry, io.BytesIO(data))
        return name

    manifest = []
    groups = [names(archive)] if archive in _ONE_IMAGE else [[name] for name in names(archive)]
    for group, image in zip(groups, _images(archive), strict=True):
        document = config(image)
        manifest.append(
            {
                "Config": add(f"{hashlib.sha256(document).hexdigest()}.json", document),
                "RepoTags": group,
                "Layers": [add(f"{diff_id.hex}.tar.gz", data) for diff_id, data in image],
            }
        )
    add("manifest.json", json.dumps(manifest).encode())


def _images(archive: str) -> Iterator[list[Layer]]:
    if archive in _ONE_IMAGE:
        yield list(layers("busybox" if archive == "tags" else archive))
        return
    base = list(layers("busybox"))
    for number in range(COUNTS[archive]):
        yield [*base, small_files(number, 1)]
