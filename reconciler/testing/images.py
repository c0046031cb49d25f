"""Small images for tests: busybox, and a Debian minbase, pushed to a registry by skopeo rather than by us."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

DEBIAN_CACHE = Path("/var/cache/reconciler-tests/debian-rootfs.tar.gz")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_CREATED = "2024-01-01T00:00:00Z"


def busybox_archive(files: Mapping[str, str] | None = None, *, executable: Collection[str] = ()) -> bytes:
    """A gzipped root filesystem with the host's static busybox, a symlink for each applet, and ``files``.

    The text of ``files`` is written as Latin-1, so that it can be any bytes; those in ``executable`` can be run.
    """
    busybox = Path("/bin/busybox")
    applets = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split()
    entries = [_directory(name) for name in ("bin", "etc", "root", "tmp", "var")]
    entries.append(_file("bin/busybox", busybox.read_bytes(), 0o755))
    entries += [_symlink(f"bin/{name}", "busybox") for name in sorted(applets) if name != "busybox"]
    accounts = {"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "etc/group": "root:x:0:\n"}
    for name, text in {**accounts, **(files or {})}.items():
        entries.append(_file(name, text.encode("latin-1"), 0o755 if name in executable else 0o644))
    return archive(entries)


def debian_archive(cache: Path = DEBIAN_CACHE) -> Path:
    """A gzipped Debian (or Ubuntu) minbase, as this host's own release and package mirror give it.

    Made once by debootstrap, which takes a minute or two, and kept in ``cache``.
    """
    if cache.exists():
        return cache
    cache.parent.mkdir(parents=True, exist_ok=True)
    # Not below /tmp, which may be mounted nodev: debootstrap makes device nodes.
    with tempfile.TemporaryDirectory(dir=cache.parent) as place:
        rootfs, made = Path(place) / "rootfs", Path(place) / "rootfs.tar.gz"
        mirror, release = _package_mirror()
        subprocess.run(
            ["debootstrap", "--variant=minbase", release, rootfs, mirror], check=True, stdout=subprocess.DEVNULL
        )
        leave_out = ("./var/cache/apt/archives/*.deb", "./var/lib/apt/lists/*")
        subprocess.run(
            ["tar", "-C", rootfs, *(f"--exclude={name}" for name in leave_out), "--numeric-owner", "-czf", made, "."],
            check=True,
        )
        made.rename(cache)
    return cache


def push_image(reference: str, layer: bytes | Path, config: Mapping[str, Any] | None = None) -> str:
    """Pushes a one-layer image to a plain HTTP registry and returns the digest of its manifest.

    ``layer`` is a gzipped root filesystem, ``config`` the image's ``config`` object, such as ``{"Cmd": ["sh"]}``.
    """
    with tempfile.TemporaryDirectory() as place:
        digest = write_layout(Path(place), [layer], config)
        options = ["--quiet", "--preserve-digests", "--dest-tls-verify=false"]
        command = ["skopeo", "--insecure-policy", "copy", *options, f"oci:{place}", f"docker://{reference}"]
        subprocess.run(command, check=True)
    return digest


def write_layout(
    directory: Path,
    layers: Sequence[bytes | Path],
    config: Mapping[str, Any] | None = None,
    history: Sequence[Mapping[str, Any]] | None = None,
    architecture: str = "",
) -> str:
    """Writes an OCI image layout that holds one image of gzipped ``layers``; returns the manifest's digest.

    The image is for this machine unless ``architecture`` says otherwise.
    """
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    placed = [_place_layer(blobs, layer) for layer in layers]
    image = {
        "architecture": architecture or _ARCHITECTURES[platform.machine()],
        "os": "linux",
        "created": _CREATED,
        "config": dict(config or {"Cmd": ["/bin/sh"], "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}),
        "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in placed]},
        "history": history or [{"created": _CREATED, "created_by": "a test"} for _ in placed],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _place(blobs, _CONFIG, json.dumps(image).encode()),
        "layers": [descriptor for descriptor, _ in placed],
    }
    descriptor = _place(blobs, _MANIFEST, json.dumps(manifest).encode())
    index = {"schemaVersion": 2, "manifests": [descriptor]}
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (directory / "index.json").write_text(json.dumps(index))
    return str(descriptor["digest"])


Entry = tuple[tarfile.TarInfo, bytes]


def archive(entries: Sequence[Entry]) -> bytes:
    """A gzipped archive that is the same for the same entries."""
    output = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=output, mode="wb", compresslevel=1, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return output.getvalue()


def entry(name: str, data: bytes | None = None, *, mode: int = 0o644) -> Entry:
    """An entry for ``archive``: a file with ``data``, or a directory."""
    if data is not None:
        return _file(name, data, mode)
    info, _ = _directory(name)
    info.mode = mode
    return info, b""


def _file(name: str, data: bytes, mode: int) -> Entry:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    return info, data


def _directory(name: str) -> Entry:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
    return info, b""


def _symlink(name: str, target: str) -> Entry:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = tarfile.SYMTYPE, target, 0o777
    return info, b""


def _place_layer(blobs: Path, layer: bytes | Path) -> tuple[dict[str, Any], str]:
    if isinstance(layer, bytes):
        return _place(blobs, _LAYER, layer), f"sha256:{hashlib.sha256(gzip.decompress(layer)).hexdigest()}"
    packed, plain, inflate = hashlib.sha256(), hashlib.sha256(), zlib.decompressobj(wbits=31)
    with layer.open("rb") as file:
        while chunk := file.read(1 << 20):
            packed.update(chunk)
            plain.update(inflate.decompress(chunk))
    plain.update(inflate.flush())
    try:
        os.link(layer, blobs / packed.hexdigest())
    except OSError:
        shutil.copyfile(layer, blobs / packed.hexdigest())
    descriptor = {"mediaType": _LAYER, "digest": f"sha256:{packed.hexdigest()}", "size": layer.stat().st_size}
    return descriptor, f"sha256:{plain.hexdigest()}"


def _place(blobs: Path, media_type: str, data: bytes) -> dict[str, Any]:
    name = hashlib.sha256(data).hexdigest()
    (blobs / name).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(data)}


def _package_mirror() -> tuple[str, str]:
    """Where this host's apt takes its packages from, and the release's code name."""
    command = ["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)", "Created-By: Packages"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    for line in lines:
        site, _, name = line.partition(" ")
        if name == release:
            return site, release
    raise RuntimeError(f"apt has no package source for {release} (is /etc/apt/sources.list empty?)")
