"""The images that are pulled: made once, and kept in the data of the benchmark's registry.

``busybox``   one layer of 1 MB: the host's static busybox
``debian``    one layer: Debian minbase as debootstrap makes it
``files``     that and four layers of 4,000 small files each
``layers``    busybox and 39 layers of one file each
``sync``      200 tags, ``resolve`` 500: each another image of busybox and one file of its own
"""

from __future__ import annotations

import gzip
import io
import json
import random
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from reconciler.clock import SystemClock
from reconciler.oci import media
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.manifest import Manifest
from reconciler.oci.platform import Platform
from reconciler.oci.reference import Reference
from reconciler.registry.client import RegistryClient
from reconciler.registry.hosts import HostConfig, RegistryHosts
from reconciler.registry.upload import PushManifest

Layer = tuple[Digest, bytes]
"""The diff ID and the gzip archive."""

_DEBIAN_SUITE = "bookworm"
_SMALL_FILES = 4000
_PROGRAMS = ("sh", "sleep", "true", "cat", "ls")
TAGS = {"sync": 200, "resolve": 500}


def tags(name: str) -> list[str]:
    """The tags of one repository. The last is pushed last, so where it is the others are."""
    return [*map(str, range(1, TAGS.get(name, 1))), "latest"]


def provide(host: str, wanted: Collection[str]) -> None:
    """Pushes those of the ``wanted`` images that the registry lacks and that can be made on this machine."""
    with _client(host) as client:
        for name in missing(host, wanted):
            try:
                found = list(layers(name))
            except (FileNotFoundError, subprocess.CalledProcessError):
                continue
            for number, tag in enumerate(tags(name)):
                own = [small_files(number, 1)] if name in TAGS else []
                _push(client, Reference.parse(f"{host}/{name}:{tag}"), [*found, *own])


def missing(host: str, wanted: Collection[str]) -> frozenset[str]:
    """Those of the ``wanted`` images that the registry does not hold."""
    with _client(host) as client:
        return frozenset(name for name in wanted if client.tag_digest(Reference.parse(f"{host}/{name}")) is None)


def _client(host: str) -> RegistryClient:
    return RegistryClient(RegistryHosts({host: HostConfig(host, plain_http=True)}), clock=SystemClock())


def layers(name: str) -> Iterator[Layer]:
    """The layers of one image, lowest first; those that all tags share, where there are several.

    Raises ``FileNotFoundError`` or ``CalledProcessError`` where this machine cannot make them.
    """
    if name in ("busybox", "layers", *TAGS):
        yield _busybox()
    else:
        yield _debian()
    if name == "files":
        for number in range(4):
            yield small_files(number, _SMALL_FILES)
    if name == "layers":
        for number in range(39):
            yield small_files(number, 1)


def _busybox() -> Layer:
    program = shutil.which("busybox")
    if program is None:
        raise FileNotFoundError("busybox")
    archive = _Archive()
    for directory in ("bin", "etc", "tmp"):
        archive.add(directory, type=tarfile.DIRTYPE, mode=0o755)
    archive.add("bin/busybox", Path(program).read_bytes(), mode=0o755)
    for applet in _PROGRAMS:
        archive.add(f"bin/{applet}", type=tarfile.SYMTYPE, linkname="busybox")
    return archive.layer()


def _debian() -> Layer:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        root = Path(directory) / "root"
        command = ["debootstrap", "--variant=minbase", _DEBIAN_SUITE, str(root)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        command = ["tar", "--create", "--numeric-owner", "--sort=name", "--directory", str(root)]
        command += [f"--exclude=./{path}" for path in ("var/cache/apt/*", "var/lib/apt/lists/*", "var/log/*")]
        return _layer(subprocess.run([*command, "."], check=True, capture_output=True).stdout)


def small_files(number: int, count: int) -> Layer:
    """A layer of files of about 4 KB that compress about as well as source code does; one for each ``number``."""
    chance = random.Random(number)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz_", k=7)) for _ in range(2000)]
    archive = _Archive()
    for directory in ("opt", f"opt/{number}"):
        archive.add(directory, type=tarfile.DIRTYPE, mode=0o755)
    for index in range(count):
        archive.add(f"opt/{number}/{index}.py", " ".join(chance.choices(words, k=500)).encode())
    return archive.layer()


class _Archive:
    def __init__(self) -> None:
        self._data = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._data, mode="w", format=tarfile.PAX_FORMAT)

    def add(self, name: str, data: bytes = b"", **fields: Any) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        for field, value in fields.items():
            setattr(entry, field, value)
        self._tar.addfile(entry, io.BytesIO(data))

    def layer(self) -> Layer:
        self._tar.close()
        return _layer(self._data.getvalue())


def _layer(archive: bytes) -> Layer:
    # Level 6 is what docker and podman compress with.
    return Digest.of(archive), gzip.compress(archive, 6, mtime=0)


def config(layers: list[Layer]) -> bytes:
    """The config of an image for this machine."""
    return json.dumps(
        {
            "architecture": Platform.host().architecture,
            "os": "linux",
            "config": {"Cmd": ["sh"], "Env": ["PATH=/bin:/usr/bin:/sbin:/usr/sbin"]},
            "rootfs": {"type": "layers", "diff_ids": [str(diff_id) for diff_id, _ in layers]},
        }
    ).encode()


def _push(client: RegistryClient, reference: Reference, layers: list[Layer]) -> None:
    contents = [(media.OCI_CONFIG, config(layers)), *((media.OCI_LAYER_GZIP, data) for _, data in layers)]
    blobs = [(Descriptor(kind, Digest.of(data), len(data)), partial(io.BytesIO, data)) for kind, data in contents]
    descriptors = [descriptor for descriptor, _ in blobs]
    manifest = Manifest.build(descriptors[0], tuple(descriptors[1:]), {})
    client.push(reference, blobs, [PushManifest(media.OCI_MANIFEST, manifest, Digest.of(manifest))])
