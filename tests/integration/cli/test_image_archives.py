"""Images in archives: what other tools take of ours, and what we take of theirs."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from reconciler.oci import media
from reconciler.oci.digest import Digest
from reconciler.testing.host import Host
from reconciler.testing.images import archive, busybox_archive, write_layout
from reconciler.testing.podman import own_podman

pytestmark = pytest.mark.root

NAME = "docker.io/library/app:1"
ON_A_TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
_SKOPEO = ("skopeo", "--insecure-policy", "copy", "--quiet")


def tool(*command: object) -> str:
    return subprocess.run([*map(str, command)], check=True, capture_output=True, text=True).stdout


def files(contents: dict[str, str]) -> bytes:
    """A gzipped layer of small files."""
    entries = []
    for name, text in contents.items():
        info = tarfile.TarInfo(name)
        info.size = len(text)
        entries.append((info, text.encode()))
    return archive(entries)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OCI layout made without any of the tools: three layers, the upper two of which remove things of the lower."""
    place = tmp_path_factory.mktemp("made") / "layout"
    lower = busybox_archive(
        {"etc/gone": "x", "etc/replaced": "1", "data/a": "a", "data/b": "b"}, executable=["etc/gone"]
    )
    middle = files({"etc/.wh.gone": "", "etc/replaced": "2", "data/.wh..wh..opq": "", "data/c": "c"})
    write_layout(place, [lower, middle, files({"etc/new": "three", "data/.wh.c": ""})])
    return place


@pytest.fixture
def loaded(host: Host, layout: Path) -> str:
    """The image of the layout on the host, named; its digest."""
    digest = host.run("image", "load", "-i", layout).out.split()[-1]
    host.run("image", "tag", digest, "app:1")
    return digest


@pytest.fixture(scope="module")
def podman() -> Iterator[tuple[str, ...]]:
    with own_podman() as command:
        yield command


def tree(root: Path) -> dict[str, tuple[object, ...]]:
    """All that a program can see of a file tree, by path."""
    found = {}
    for path in [root, *root.rglob("*")]:
        status = path.lstat()
        content: object = None
        if stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(status.st_mode):
            content = path.readlink()
        times = () if stat.S_ISDIR(status.st_mode) else (int(status.st_mtime),)
        seen = (
            stat.S_IFMT(status.st_mode),
            stat.S_IMODE(status.st_mode),
            status.st_uid,
            status.st_gid,
            content,
            *times,
        )
        found[str(path.relative_to(root))] = seen
    return found


@contextmanager
def mounted(host: Host, name: str, place: Path) -> Iterator[Path]:
    """The files of an image as our layers make them."""
    place.mkdir()
    lower = host.run("image", "inspect", name).json[0]["GraphDriver"]["Data"]["LowerDir"]
    tool("mount", "-t", "overlay", "overlay", "-o", f"ro,lowerdir={lower}", place)
    try:
        yield place
    finally:
        tool("umount", place)


def documents(archive: Path) -> dict[str, Any]:
    with tarfile.open(archive) as tar:
        return {
            name: json.load(file)
            for name in ("index.json", "manifest.json")
            if name in tar.getnames() and (file := tar.extractfile(name)) is not None
        }


# What others take of ours


def test_umoci_unpacks_what_was_saved_to_the_same_files(host: Host, loaded: str, tmp_path: Path) -> None:
    host.run("image", "save", "--format", "oci", "-o", tmp_path / "saved.tar", "app:1")
    shutil.unpack_archive(tmp_path / "saved.tar", tmp_path / "layout")
    assert tool("umoci", "ls", "--layout", tmp_path / "layout").split() == [NAME]
    tool("umoci", "unpack", "--image", f"{tmp_path}/layout:{NAME}", tmp_path / "bundle")
    with mounted(host, "app:1", tmp_path / "ours") as ours:
        assert tree(tmp_path / "bundle" / "rootfs") == tree(ours)
        assert not (ours / "etc/gone").exists()
        assert sorted(path.name for path in (ours / "data").iterdir()) == []


def test_podman_loads_and_sees_the_same_files(host: Host, loaded: str, tmp_path: Path, podman: tuple[str, ...]) -> None:
    host.run("image", "tag", "app:1", "example.com/other/name:2")
    host.run("image", "save", "-o", tmp_path / "saved.tar", "app:1", "example.com/other/name:2")
    tool(*podman, "load", "-i", tmp_path / "saved.tar")
    found = tool(*podman, "images", "--format", "{{.Repository}}:{{.Tag}}").split()
    assert sorted(found) == [NAME, "example.com/other/name:2"]
    place = Path(tool(*podman, "image", "mount", NAME).strip())
    try:
        with mounted(host, "app:1", tmp_path / "ours") as ours:
            # What the archive says nothing of, the root itself, podman makes 0555.
            assert {**tree(place), ".": ()} == {**tree(ours), ".": ()}
    finally:
        tool(*podman, "image", "umount", NAME)
        tool(*podman, "rmi", "--all", "--force")


def test_podman_loads_a_layout_alone(host: Host, loaded: str, tmp_path: Path, podman: tuple[str, ...]) -> None:
    host.run("image", "save", "--format", "oci", "-o", tmp_path / "saved.tar", "app:1")
    assert NAME in tool(*podman, "load", "-i", tmp_path / "saved.tar")
    tool(*podman, "rmi", "--all", "--force")


def test_skopeo_copies_what_was_saved_with_its_digest(host: Host, loaded: str, tmp_path: Path) -> None:
    saved = tmp_path / "saved.tar"
    host.run("image", "save", "-o", saved, "app:1")
    for source in (f"oci-archive:{saved}:{NAME}", f"oci-archive:{saved}"):
        assert json.loads(tool("skopeo", "inspect", source))["Digest"] == loaded
    tool(*_SKOPEO, f"docker-archive:{saved}:{NAME}", f"dir:{tmp_path}/copy")
    config = host.run("image", "inspect", "app:1").json[0]["Metadata"]["Config"]
    assert (tmp_path / "copy" / config.removeprefix("sha256:")).is_file()


def test_buildah_starts_from_what_was_saved(host: Host, loaded: str, tmp_path: Path) -> None:
    if shutil.which("buildah") is None:
        pytest.skip("needs buildah")
    host.run("image", "save", "--format", "oci", "-o", tmp_path / "saved.tar", "app:1")
    buildah = ("buildah", "--root", tmp_path / "b", "--runroot", tmp_path / "r", "--storage-driver", "vfs")
    name = tool(*buildah, "from", f"oci-archive:{tmp_path}/saved.tar").strip()
    tool(*buildah, "config", "--env", "ADDED=1", name)
    tool(*buildah, "commit", "--quiet", name, f"docker-archive:{tmp_path}/built.tar:example.com/built:1")
    tool(*buildah, "rm", name)
    tool(*buildah, "rmi", "--all", "--force")
    assert host.run("image", "load", "-i", tmp_path / "built.tar").out == "Loaded image: example.com/built:1\n"
    assert "ADDED=1" in host.run("image", "inspect", "example.com/built:1").json[0]["Config"]["Env"]


# What we take of others


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("docker-archive:{}/a:example.com/app:1", ()),
        ("oci-archive:{}/a:example.com/app:1", ()),
        ("oci-archive:{}/a:example.com/app:1", ("--dest-compress-format", "zstd", "--dest-compress-level", "3")),
        ("oci:{}/a:example.com/app:1", ("--dest-compress-format", "zstd")),
    ],
    ids=["docker-archive", "oci-archive", "oci-archive-zstd", "oci-zstd"],
)
def test_what_skopeo_writes_is_loaded(
    host: Host, layout: Path, tmp_path: Path, target: str, options: tuple[str, ...]
) -> None:
    tool(*_SKOPEO, *options, f"oci:{layout}", target.format(tmp_path))
    assert host.run("image", "load", "-i", tmp_path / "a").out == "Loaded image: example.com/app:1\n"
    seen = host.run("image", "inspect", "--oci", "example.com/app:1").json[0]
    assert len(seen["RootFS"]["Layers"]) == 3
    if options:
        assert all(layer["mediaType"].endswith("+zstd") for layer in seen["OCI"]["manifest"]["layers"])
    with mounted(host, "example.com/app:1", tmp_path / "ours") as ours:
        assert (ours / "etc/new").read_text() == "three"


@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
def test_what_podman_saves_is_loaded(
    host: Host, layout: Path, tmp_path: Path, podman: tuple[str, ...], kind: str
) -> None:
    tool(*podman, "pull", "--quiet", f"oci:{layout}")
    (image,) = set(tool(*podman, "images", "--quiet", "--no-trunc").split())
    for name in ("example.com/one:1", "example.com/two:2"):
        tool(*podman, "tag", image, name)
    names = ("example.com/one:1", "example.com/two:2") if kind == "docker-archive" else ("example.com/one:1",)
    multiple = ("--multi-image-archive",) if kind == "docker-archive" else ()
    tool(*podman, "save", "--quiet", "--format", kind, *multiple, "-o", tmp_path / "saved.tar", *names)
    tool(*podman, "rmi", "--all", "--force")
    assert host.run("image", "load", "-i", tmp_path / "saved.tar").out.splitlines() == [
        f"Loaded image: {name}" for name in names
    ]
    with mounted(host, "example.com/one:1", tmp_path / "ours") as ours:
        assert (ours / "etc/new").read_text() == "three"


def test_a_layout_made_by_umoci_is_loaded(host: Host, tmp_path: Path) -> None:
    place = tmp_path / "layout"
    tool("umoci", "init", "--layout", place)
    tool("umoci", "new", "--image", f"{place}:first")
    (tmp_path / "file").write_text("hello")
    tool("umoci", "insert", "--image", f"{place}:first", tmp_path / "file", "/file")
    tool("umoci", "config", "--image", f"{place}:first", "--config.cmd", "true", "--tag", "second")
    assert host.run("image", "load", "-i", place, "--name", "second").out.startswith("Loaded image ID: sha256:")
    (listed,) = host.run("image", "ls", "-o", "json").json
    assert host.run("image", "inspect", listed["id"]).json[0]["Config"]["Cmd"] == ["true"]


@pytest.mark.parametrize("compress", [("gzip", "-1"), ("zstd", "-q")], ids=["gzip", "zstd"])
def test_a_compressed_archive_is_loaded_from_a_pipe(
    host: Host, loaded: str, tmp_path: Path, compress: tuple[str, ...]
) -> None:
    if shutil.which(compress[0]) is None:
        pytest.skip(f"needs {compress[0]}")
    host.run("image", "save", "-o", tmp_path / "saved.tar", "app:1")
    host.run("image", "rm", "app:1")
    pipe = f'{" ".join(compress)} -c {tmp_path}/saved.tar | "$0" "$@"'
    assert host.run("image", "load", under=("sh", "-c", pipe)).out == "Loaded image: app:1\n"
    assert host.run("image", "ls", "-q", "--no-trunc").out == f"{loaded}\n"
    assert not list(host.root.glob("new-*"))


def test_what_is_saved_to_a_pipe_is_loaded_from_it(host: Host, loaded: str, tmp_path: Path) -> None:
    other = Host(tmp_path / "other") if (tmp_path / "other").mkdir() is None else host
    pipe = f'"$0" "$@" | "$0" --root {other.root} image load'
    try:
        assert host.run("image", "save", "app:1", under=("sh", "-c", pipe)).out == "Loaded image: app:1\n"
        assert other.run("image", "ls", "-q", "--no-trunc").out == f"{loaded}\n"
    finally:
        assert other.close() == []


# Saving


def test_saving_again_gives_the_same_bytes_in_whatever_order(host: Host, loaded: str, tmp_path: Path) -> None:
    host.run("image", "tag", "app:1", "example.com/other:2")
    host.run("image", "save", "-o", tmp_path / "a.tar", "app:1", "example.com/other:2")
    host.run("image", "save", "-o", tmp_path / "b.tar", "example.com/other:2", "app:1", "app:1")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    found = documents(tmp_path / "a.tar")
    names = [entry["annotations"]["io.containerd.image.name"] for entry in found["index.json"]["manifests"]]
    assert names == [NAME, "example.com/other:2"]
    assert [entry["RepoTags"] for entry in found["manifest.json"]] == [[NAME, "example.com/other:2"]]


def test_saving_by_id_gives_no_name(host: Host, loaded: str, tmp_path: Path) -> None:
    host.run("image", "save", "--format", "oci", "-o", tmp_path / "a.tar", loaded[7:19])
    found = documents(tmp_path / "a.tar")
    assert "manifest.json" not in found
    (entry,) = found["index.json"]["manifests"]
    assert (entry["digest"], "annotations" in entry) == (loaded, False)


def test_no_half_archive_gets_the_name(host: Host, loaded: str, tmp_path: Path) -> None:
    target = tmp_path / "out" / "a.tar"
    target.parent.mkdir()
    target.write_text("before")
    layer = host.run("image", "inspect", "--oci", "app:1").json[0]["OCI"]["manifest"]["layers"][0]["digest"]
    blob = host.root / "blobs/sha256" / layer.removeprefix("sha256:")
    data = blob.read_bytes()
    for damaged in (data[:-1], data + b"x", data[:-1] + bytes([data[-1] ^ 1])):
        blob.chmod(0o600)
        blob.write_bytes(damaged)
        assert layer in host.run("image", "save", "-o", target, "app:1", code=1).err
        assert os.listdir(target.parent) == ["a.tar"]  # noqa: PTH208
        assert target.read_text() == "before"
    blob.write_bytes(data)
    host.run("image", "save", "-o", target, "app:1")
    assert tarfile.is_tarfile(target)
    host.run("image", "save", "-o", "/dev/null", "app:1")
    assert "absent" in host.run("image", "save", "-o", target, "absent", code=1).err
    assert "cannot write" in host.run("image", "save", "-o", tmp_path / "no" / "x.tar", "app:1", code=1).err


def test_a_save_that_runs_keeps_what_is_removed_meanwhile(host: Host, loaded: str, tmp_path: Path) -> None:
    host.run("image", "save", "-o", tmp_path / "before.tar", "app:1")
    os.mkfifo(tmp_path / "pipe")
    saving = host.start("image", "save", "-o", tmp_path / "pipe", "app:1")
    with (tmp_path / "pipe").open("rb") as pipe:
        saved = pipe.read(1)  # it has begun; the pipe holds 64 KiB, the rest waits for us
        host.run("image", "rm", "app:1")
        host.run("gc")
        assert list((host.root / "blobs/sha256").iterdir()) == []
        saved += pipe.read()
    assert host.finish(saving).code == 0
    assert saved == (tmp_path / "before.tar").read_bytes()


def test_an_archive_is_not_shown_on_a_terminal(host: Host, loaded: str) -> None:
    asked = host.run("image", "save", "app:1", under=(sys.executable, "-c", ON_A_TERMINAL), code=64)
    assert "-o FILE" in asked.out


# Names


def test_s53_names_in_an_archive_move_no_tag_unless_asked(host: Host, layout: Path, tmp_path: Path) -> None:
    write_layout(tmp_path / "other", [busybox_archive({"other": "x"})])
    tool(
        *_SKOPEO,
        f"oci:{layout}",
        f"docker-archive:{tmp_path}/a.tar:app:1",
        "--additional-tag",
        "docker.io/library/app:2",
    )
    other = host.run("image", "load", "-i", tmp_path / "other").out.split()[-1]
    host.run("image", "tag", other, "app:1")
    first = host.run("image", "load", "-i", tmp_path / "a.tar")
    assert first.out == "Loaded image: app:2\n"
    assert f"app:1 stays the name of {other[7:19]}" in first.err and "--replace-tags" in first.err
    assert host.run("image", "inspect", "app:1").json[0]["Id"] == other
    second = host.run("image", "load", "-i", tmp_path / "a.tar", "--replace-tags")
    assert sorted(second.out.splitlines()) == ["Loaded image: app:1", "Loaded image: app:2"]
    assert host.run("image", "inspect", "app:1").json[0]["Id"] != other


def test_s53_a_tag_of_a_stack_is_not_moved_even_when_asked(host: Host, layout: Path, tmp_path: Path) -> None:
    tool(*_SKOPEO, f"oci:{layout}", f"docker-archive:{tmp_path}/a.tar:app:1")
    (tmp_path / "rootfs.tar.gz").write_bytes(busybox_archive())
    host.write(
        f"""
        apiVersion: reconciler/v1
        stack: shop
        images: {{base: {{import: {tmp_path}/rootfs.tar.gz}}}}
        tags: {{"app:1": base}}
        """
    )
    host.apply()
    before = host.run("image", "inspect", "app:1").json[0]["Id"]
    assert "stack shop" in host.run("image", "load", "-i", tmp_path / "a.tar", "--replace-tags", code=1).err
    assert len(host.run("image", "ls", "-q").out.split()) == 1
    assert "stack shop declares it" in host.run("image", "load", "-i", tmp_path / "a.tar").err
    assert host.run("image", "inspect", "app:1").json[0]["Id"] == before
    assert host.is_converged()


def test_s53_nothing_of_a_damaged_layout_is_recorded(host: Host, layout: Path, tmp_path: Path) -> None:
    index = json.loads((layout / "index.json").read_text())
    name = index["manifests"][0]["digest"].removeprefix("sha256:")
    manifest = json.loads((layout / "blobs/sha256" / name).read_text())
    layer = manifest["layers"][1]["digest"].removeprefix("sha256:")
    data = (layout / "blobs/sha256" / layer).read_bytes()
    for number, (blob, content) in enumerate(
        [(layer, data[:-1] + b"x"), (layer, data[:-1]), (layer, data + b"x"), (layer, None), (name, b"{}")]
    ):
        place = tmp_path / str(number)
        shutil.copytree(layout, place)
        (place / "blobs/sha256" / blob).unlink()
        if content is not None:
            (place / "blobs/sha256" / blob).write_bytes(content)
        assert blob in host.run("image", "load", "-i", place, code=1).err
        assert host.run("image", "ls", "-q").out == ""
        assert not (host.root / "blobs/sha256" / layer).exists()
        assert not list((host.root / "layers").glob("?" * 64))
    host.run("image", "load", "-i", layout)


def test_an_index_of_several_platforms_is_loaded_for_the_one_asked_for(host: Host, tmp_path: Path) -> None:
    here = json.loads(tool("skopeo", "inspect", "--config", f"oci:{made(tmp_path / 'one', 'here')}"))["architecture"]
    there = "arm64" if here != "arm64" else "amd64"
    made(tmp_path / "two", "there", there)
    entries = []
    for name, architecture in (("two", there), ("one", here)):
        entry = json.loads((tmp_path / name / "index.json").read_text())["manifests"][0]
        entries.append({**entry, "platform": {"os": "linux", "architecture": architecture}})
    shutil.copytree(tmp_path / "two", tmp_path / "one", dirs_exist_ok=True)
    data = json.dumps({"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": entries}).encode()
    digest = Digest.of(data)
    (tmp_path / "one/blobs/sha256" / digest.hex).write_bytes(data)
    annotations = {"org.opencontainers.image.ref.name": "example.com/many:1"}
    nested = {"mediaType": media.OCI_INDEX, "digest": digest, "size": len(data), "annotations": annotations}
    (tmp_path / "one/index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [nested]}))
    host.run("image", "load", "-i", tmp_path / "one")
    seen = host.run("image", "inspect", "--oci", "example.com/many:1").json[0]
    assert (seen["Id"], seen["Metadata"]["Index"]) == (entries[1]["digest"], digest)
    assert seen["OCI"]["index"] == json.loads(data)
    host.run("image", "load", "-i", tmp_path / "one", "--platform", f"linux/{there}", "--replace-tags")
    seen = host.run("image", "inspect", "example.com/many:1").json[0]
    assert (seen["Id"], seen["Architecture"]) == (entries[0]["digest"], there)
    assert "available: " in host.run("image", "load", "-i", tmp_path / "one", "--platform", "linux/mips", code=1).err


def made(place: Path, seed: str, architecture: str = "") -> Path:
    """A layout of one image, for another architecture if asked."""
    write_layout(place, [files({"seed": seed})], architecture=architecture)
    return place


# Importing


@pytest.mark.parametrize("verb", [("load", "-i"), ("import",)], ids=["load", "import"])
def test_what_is_wrong_with_a_file_is_said_of_it_by_its_name(host: Host, tmp_path: Path, verb: tuple[str, ...]) -> None:
    bad = tmp_path / "notes"
    bad.write_text("nothing to unpack\n")
    said = host.run("image", *verb, bad, code=1).text
    assert f"{bad} is no tar archive: it seems to be text" in said
    assert "hint: " in said
    bad.write_bytes(files({"etc/motd": "x" * 5000})[:-30])
    assert f"error: {bad}: " in host.run("image", *verb, bad, code=1).text
    from_stdin = host.run("image", *verb, "-", code=1, under=("sh", "-c", f'"$0" "$@" <{bad}'))
    assert "error: standard input: " in from_stdin.text
    nothing = host.run("image", *verb, "-", code=1, under=("sh", "-c", 'printf "" | "$0" "$@"'))
    assert "error: standard input is empty" in nothing.text
    assert host.run("image", "ls", "-q").out == ""


def test_importing_a_root_filesystem_with_changes(host: Host, tmp_path: Path) -> None:
    (tmp_path / "rootfs.tar.gz").write_bytes(busybox_archive({"file": "x"}))
    changes = ("-c", 'CMD ["cat", "/file"]', "-c", "ENV A=b C='d e'", "-c", "EXPOSE 80 53/udp", "-c", "LABEL x=y")
    first = host.run("image", "import", *changes, tmp_path / "rootfs.tar.gz", "tools:1")
    seen = host.run("image", "inspect", "tools:1").json[0]
    assert first.out == f"{seen['Id']}\n"
    assert seen["Config"] == {
        "Cmd": ["cat", "/file"],
        "Env": ["A=b", "C=d e"],
        "ExposedPorts": {"53/udp": {}, "80/tcp": {}},
        "Labels": {"x": "y"},
    }
    piped = f'cat {tmp_path}/rootfs.tar.gz | "$0" "$@"'
    assert host.run("image", "import", *changes, "-", under=("sh", "-c", piped)).out == first.out
    assert host.run("container", "run", "--rm", "--network", "none", "tools:1").out == "x"
    assert "ENV =x" in host.run("image", "import", "-c", "ENV =x", tmp_path / "rootfs.tar.gz", code=64).err
    assert "pack it" in host.run("image", "import", tmp_path, code=1).err
