"""One registry, and docker, podman, skopeo and us: what one pushes the others pull, and see the same.

Single images and indexes, of Docker's types and OCI's. An image counts as the same when its config has the same digest
(so it is the same for all layers, by their diff IDs), and files have the same content, mode, owner and time.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import pytest

from reconciler.oci import media
from reconciler.oci.digest import Digest
from reconciler.oci.platform import Platform
from reconciler.testing import dockerd
from reconciler.testing.host import Host
from reconciler.testing.images import archive, busybox_archive, entry, write_layout
from reconciler.testing.podman import own_podman
from reconciler.testing.registry_server import RegistryServer

pytestmark = pytest.mark.root

CONFIG: Mapping[str, Any] = {"Cmd": ["sh"], "Env": ["PATH=/bin", "WHO=me"], "Labels": {"a": "b"}, "WorkingDir": "/data"}
CHANGES = ('CMD ["sh"]', "ENV PATH=/bin", "ENV WHO=me", "LABEL a=b")
OWNED = "640 7 8 1234567890"
Files = tuple[str, str]
"""The content of the file ``version``, and mode, owner and time of ``data/owned``."""


def tool(*command: object, environment: Mapping[str, str] | None = None, stdin: bytes | None = None) -> str:
    """What a command printed; ``CalledProcessError`` when it failed."""
    words = [*map(str, command)]
    result = subprocess.run(words, env=environment, input=stdin, capture_output=True, check=False)
    assert result.returncode == 0, f"{words}: {result.stderr.decode()}"
    return result.stdout.decode().strip()


def layers(version: str) -> list[bytes]:
    """A system that can run, and a file on top with an owner and a time."""
    info, data = entry("data/owned", b"owned", mode=0o640)
    info.uid, info.gid, info.mtime = 7, 8, 1234567890
    return [busybox_archive({"version": version}), archive([entry("data", mode=0o750), (info, data)])]


def files_of(data: bytes) -> Files:
    """The two files in a plain archive of a whole system."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        names = {name.removeprefix("./"): name for name in tar.getnames()}
        owned = tar.getmember(names["data/owned"])
        version = tar.extractfile(names["version"])
        assert version is not None
        return version.read().decode(), f"{owned.mode & 0o7777:o} {owned.uid} {owned.gid} {int(owned.mtime)}"


def _together(archives: Sequence[bytes]) -> bytes:
    """Several layers as one plain archive; the last of a name is what counts."""
    with io.BytesIO() as output:
        with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as made:
            for layer in archives:
                with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
                    for info in tar:
                        made.addfile(info, tar.extractfile(info) if info.isreg() else None)
        return output.getvalue()


class Tool(Protocol):
    """Somebody else's client."""

    def push(self, target: str, kind: str, place: Path) -> str:
        """Pushes its image as ``kind`` has it, or in an index; the digest of what it pushed."""

    def pull(self, reference: str, place: Path) -> str:
        """Pulls an image; the digest of its config."""

    def files(self, reference: str, place: Path) -> Files:
        """What is in an image that was pulled."""


@dataclass
class Docker:
    """docker: its own types alone."""

    environment: Mapping[str, str]

    def __call__(self, *words: object, stdin: bytes | None = None) -> str:
        return tool("docker", *words, environment=self.environment, stdin=stdin)

    @cached_property
    def image(self) -> str:
        lower, upper = map(gzip.decompress, layers("docker"))
        base = self("import", *(f"--change={line}" for line in CHANGES), "-", stdin=lower)
        container = self("create", base)
        self("cp", "-a", "-", f"{container}:/", stdin=upper)
        made = self("commit", "--change=WORKDIR /data", container)
        self("rm", container)
        return made

    def push(self, target: str, kind: str, place: Path) -> str:
        if kind == "schema2":
            self("tag", self.image, target)
            return next(word for word in self("push", target).split() if word.startswith("sha256:"))
        repository = target.rpartition(":")[0]
        parts = [f"{repository}:part", f"{repository}:other"]
        self.push(parts[0], "schema2", place)
        self("import", "--platform=linux/s390x", "-", parts[1], stdin=gzip.decompress(archive([])))
        self("push", parts[1])
        self("manifest", "create", "--insecure", target, *parts)
        self("manifest", "annotate", "--arch", "s390x", target, parts[1])
        return self("manifest", "push", "--insecure", target).split()[-1]

    def pull(self, reference: str, place: Path) -> str:
        self("pull", "--quiet", reference)
        return self("image", "inspect", "--format={{.Id}}", reference)

    def files(self, reference: str, place: Path) -> Files:
        container = self("create", reference, "sh")
        self("export", "-o", place / "exported.tar", container)
        self("rm", container)
        return files_of((place / "exported.tar").read_bytes())


@dataclass
class Podman:
    """podman, on storage of its own."""

    place: Path
    command: tuple[str, ...]

    def __call__(self, *words: object) -> str:
        return tool(*self.command, *words)

    @cached_property
    def image(self) -> str:
        context = self.place / "context"
        context.mkdir()
        for name, layer in zip(("lower.tar", "upper.tar"), layers("podman"), strict=True):
            (context / name).write_bytes(gzip.decompress(layer))
        lines = ["FROM scratch", "ADD lower.tar /", "ADD upper.tar /", "WORKDIR /data", *CHANGES]
        (context / "Containerfile").write_text("\n".join(lines))
        return self("build", "--quiet", "--layers", "--isolation=chroot", context)

    def push(self, target: str, kind: str, place: Path) -> str:
        written = place / "digest"
        options = ("--tls-verify=false", f"--digestfile={written}")
        if kind == "index":
            self("manifest", "create", target)
            self("manifest", "add", target, f"containers-storage:{self.image}")
            self("manifest", "push", "--all", *options, target, f"docker://{target}")
        else:
            form = "v2s2" if kind == "schema2" else "oci"
            self("push", "--quiet", *options, f"--format={form}", self.image, target)
        return written.read_text()

    def pull(self, reference: str, place: Path) -> str:
        self("pull", "--quiet", "--tls-verify=false", reference)
        return f"sha256:{self('image', 'inspect', '--format={{.Id}}', reference)}"

    def files(self, reference: str, place: Path) -> Files:
        root = Path(self("image", "mount", reference))
        status = (root / "data/owned").stat()
        version = (root / "version").read_text()
        self("image", "unmount", reference)
        return version, f"{status.st_mode & 0o7777:o} {status.st_uid} {status.st_gid} {int(status.st_mtime)}"


@dataclass
class Skopeo:
    """skopeo, which neither runs nor unpacks."""

    place: Path
    command: tuple[str, ...] = ("skopeo", "--insecure-policy", "copy", "--quiet")

    @cached_property
    def image(self) -> Path:
        write_layout(self.place / "image", layers("skopeo"), CONFIG)
        return self.place / "image"

    @cached_property
    def index(self) -> Path:
        """A layout with an index: of the image, and one for another machine."""
        index, other = self.place / "index", self.place / "other"
        write_layout(other, [archive([])], architecture="s390x")
        entries = []
        for place, machine in ((self.image, Platform.host().architecture), (other, "s390x")):
            (descriptor,) = json.loads((place / "index.json").read_bytes())["manifests"]
            entries.append({**descriptor, "platform": {"os": "linux", "architecture": machine}})
            shutil.copytree(place, index, dirs_exist_ok=True)
        data = json.dumps({"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": entries}).encode()
        (index / "blobs" / "sha256" / Digest.of(data).hex).write_bytes(data)
        whole = {"mediaType": media.OCI_INDEX, "digest": str(Digest.of(data)), "size": len(data)}
        (index / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [whole]}))
        return index

    def push(self, target: str, kind: str, place: Path) -> str:
        written = place / "digest"
        form = "oci" if kind in ("oci", "index") else "v2s2"
        options = ("--dest-tls-verify=false", "--digestfile", written, "--format", form)
        if kind in ("index", "list"):
            tool(*self.command, *options, "--all", f"oci:{self.index}", f"docker://{target}")
        else:
            tool(*self.command, *options, f"oci:{self.image}", f"docker://{target}")
        return written.read_text()

    def pull(self, reference: str, place: Path) -> str:
        copy = self._copy(reference, place)
        tool(*self.command, "--src-tls-verify=false", "--preserve-digests", f"docker://{reference}", f"dir:{copy}")
        config = json.loads((copy / "manifest.json").read_bytes())["config"]["digest"]
        return str(Digest.of((copy / config[7:]).read_bytes()))

    def files(self, reference: str, place: Path) -> Files:
        copy = self._copy(reference, place)
        layers = json.loads((copy / "manifest.json").read_bytes())["layers"]
        return files_of(_together([(copy / layer["digest"][7:]).read_bytes() for layer in layers]))

    def _copy(self, reference: str, place: Path) -> Path:
        return place / hashlib.sha256(reference.encode()).hexdigest()[:8]


TOOLS = {
    "docker": ("schema2", "list"),
    "podman": ("oci", "schema2", "index"),
    "skopeo": ("oci", "schema2", "index", "list"),
}
THEIRS = [(name, kind) for name, kinds in TOOLS.items() for kind in kinds]
TYPES = {
    "oci": media.OCI_MANIFEST,
    "schema2": media.DOCKER_MANIFEST,
    "index": media.OCI_INDEX,
    "list": media.DOCKER_INDEX,
}
OURS = {
    "pulled-oci": "skopeo",
    "pulled-schema2": "skopeo",
    "committed": "committed",
    "imported": "imported",
    "index": "skopeo",
    "list": "skopeo",
}
"""What we push, and the content of its file ``version``."""


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Tool]]:
    """The clients that are installed."""
    with ExitStack() as stack:
        found: dict[str, Tool] = {}
        if dockerd.is_installed():
            found["docker"] = Docker(stack.enter_context(dockerd.running_dockerd()))
        if shutil.which("podman"):
            found["podman"] = Podman(tmp_path_factory.mktemp("podman"), stack.enter_context(own_podman()))
        if shutil.which("skopeo"):
            found["skopeo"] = Skopeo(tmp_path_factory.mktemp("skopeo"))
        yield found


def needed(tools: Mapping[str, Tool], name: str) -> Tool:
    if name not in tools:
        pytest.skip(f"{name} is not installed (Debian package {'docker.io' if name == 'docker' else name})")
    return tools[name]


@dataclass
class Pushed:
    """What the others pushed: by tool and kind, reference and digest."""

    references: dict[tuple[str, str], str] = field(default_factory=dict)
    digests: dict[tuple[str, str], str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def theirs(tools: dict[str, Tool], registry: RegistryServer, tmp_path_factory: pytest.TempPathFactory) -> Pushed:
    pushed = Pushed()
    for name, kind in THEIRS:
        if name in tools:
            reference = pushed.references[name, kind] = f"{registry.host}/theirs/{name}-{kind}:1"
            place = tmp_path_factory.mktemp(f"{name}-{kind}")
            pushed.digests[name, kind] = tools[name].push(reference, kind, place)
    return pushed


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, theirs: Pushed, registry: RegistryServer) -> Iterator[Host]:
    """A host that has pulled all that the others pushed, and pushed what it made of it."""
    host = Host(tmp_path_factory.mktemp("host"))
    place = f"{registry.host}/ours"
    (host.specs / "system.tar").write_bytes(_together(layers("imported")))
    body: dict[str, Any] = {"images": {}, "containers": {}, "tags": {}, "syncs": {}}
    body |= {"apiVersion": "reconciler/v1", "stack": "shop", "registries": {registry.host: {"plain_http": True}}}
    for (name, kind), reference in theirs.references.items():
        body["images"][f"{name}-{kind}"] = reference
        body["containers"][f"{name}-{kind}"] = {
            "image": f"{name}-{kind}",
            "command": ["sh", "-c", "cat /version; echo; stat -c '%a %u %g %Y' owned; echo $$WHO"],
            "restart": "no",
        }
    body["images"]["imported"] = {"import": "./system.tar", "config": {"cmd": ["sh"], "environment": {"PATH": "/bin"}}}
    body["containers"]["writer"] = {
        "image": "skopeo-oci", "command": ["sh", "-c", "printf committed > /version"], "restart": "no"
    }  # fmt: skip
    body["images"]["committed"] = {"commit": {"container": "writer", "when": "exited"}}
    for name, image in (
        ("pulled-oci", "skopeo-oci"),
        ("pulled-schema2", "skopeo-schema2"),
        ("committed", "committed"),
        ("imported", "imported"),
    ):
        body["tags"][f"{place}/{name}:1"] = {"image": image, "push": True}
    for kind in ("index", "list"):
        body["syncs"][f"{place}/{kind}"] = {"from": f"{registry.host}/theirs/skopeo-{kind}"}
    host.write(json.dumps(body), "shop.json")
    host.apply()
    yield host
    left = host.close()
    assert not left, "\n".join(left)


def fetch(registry: RegistryServer, reference: str) -> bytes:
    """A manifest or an index as the registry has it."""
    repository, _, target = reference.removeprefix(f"{registry.host}/").replace("@", ":", 1).partition(":")
    accept = ", ".join(media.MANIFESTS | media.INDEXES)
    request = urllib.request.Request(f"{registry.url}/v2/{repository}/manifests/{target}", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:
        data: bytes = answer.read()
        return data


def manifest_for_here(registry: RegistryServer, reference: str) -> Any:
    """The manifest of the image for this machine, as a document."""
    document = json.loads(fetch(registry, reference))
    for part in document.get("manifests", ()):
        if part["platform"]["architecture"] == Platform.host().architecture:
            return json.loads(fetch(registry, f"{reference.rpartition(':')[0]}@{part['digest']}"))
    return document


@pytest.mark.parametrize(("name", "kind"), THEIRS)
def test_what_others_push_we_pull_and_run(
    tools: dict[str, Tool], host: Host, registry: RegistryServer, theirs: Pushed, name: str, kind: str
) -> None:
    needed(tools, name)
    reference, digest = theirs.references[name, kind], theirs.digests[name, kind]
    data = fetch(registry, reference)
    assert Digest.of(data) == digest
    assert json.loads(data)["mediaType"] == TYPES[kind]
    part = "index" if kind in ("index", "list") else "manifest"
    assert host.run("image", "inspect", "--raw", part, f"shop/{name}-{kind}").out.encode() == data
    config = host.run("image", "inspect", "--raw", "config", f"shop/{name}-{kind}").out.encode()
    assert Digest.of(config) == manifest_for_here(registry, reference)["config"]["digest"]
    shown = json.loads(config)["config"]
    assert CONFIG["Labels"].items() <= shown["Labels"].items()  # podman adds its own
    assert all(shown[key] == CONFIG[key] for key in ("Cmd", "Env", "WorkingDir"))
    assert host.output(f"shop/{name}-{kind}").splitlines() == [name, OWNED, "me"]


@pytest.mark.parametrize("what", OURS)
@pytest.mark.parametrize("name", TOOLS)
def test_what_we_push_others_pull(
    tools: dict[str, Tool], host: Host, registry: RegistryServer, name: str, what: str, tmp_path: Path
) -> None:
    client = needed(tools, name)
    repository = f"{registry.host}/ours/{what}"
    data = fetch(registry, f"{repository}:1")
    kind = what.removeprefix("pulled-")
    assert json.loads(data)["mediaType"] == TYPES.get(kind, media.OCI_MANIFEST)
    config = manifest_for_here(registry, f"{repository}:1")["config"]["digest"]
    assert client.pull(f"{repository}@{Digest.of(data)}", tmp_path) == config
    assert client.pull(f"{repository}:1", tmp_path) == config
    assert client.files(f"{repository}:1", tmp_path) == (OURS[what], OWNED)


def test_what_we_pushed_again_is_what_was_pulled(host: Host, registry: RegistryServer, theirs: Pushed) -> None:
    """Byte for byte: a pull and a push, or a sync, change nothing."""
    for what, kind in (("pulled-oci", "oci"), ("pulled-schema2", "schema2"), ("index", "index"), ("list", "list")):
        assert Digest.of(fetch(registry, f"{registry.host}/ours/{what}:1")) == theirs.digests["skopeo", kind]
