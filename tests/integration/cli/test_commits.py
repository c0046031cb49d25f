"""Commits by hand and what containers and images changed, on real parts (cases D01, D22 and D26)."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import tarfile
from pathlib import Path
from typing import Any

import pytest

from reconciler.linux.cgroups import Cgroups
from reconciler.runtime.runtime import Runtime
from reconciler.testing.host import Host
from reconciler.testing.images import busybox_archive, push_image
from reconciler.testing.registry_server import RegistryServer

pytestmark = pytest.mark.root

BUSY = """
dd if=/dev/urandom of=/m bs=1M count=16 2>/dev/null
put() { echo $i > /new; mv /new $1; }
i=0; while :; do i=$((i+1)); put /a; put /z; done
"""


@pytest.fixture(scope="module")
def rich(registry: RegistryServer) -> str:
    """An image whose config says all that one can say."""
    config = {
        "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": ["echo default"],
        "Env": ["PATH=/bin", "LEVEL=info"],
        "User": "root",
        "WorkingDir": "/var",
        "Volumes": {"/data": {}},
        "ExposedPorts": {"80/tcp": {}},
        "Labels": {"role": "base"},
        "StopSignal": "SIGQUIT",
        "Healthcheck": {"Test": ["CMD", "true"]},
        "OnBuild": ["RUN x"],
    }
    reference = f"{registry.host}/rich:1"
    push_image(reference, busybox_archive({"etc/motd": "welcome\n"}), config)
    return reference


@pytest.fixture
def busy(host: Host, image: str) -> str:
    """A container that writes two files all the time, and has a large one whose name is between theirs."""
    host.run("container", "run", "-d", "--network", "none", "--name", "busy", image, "sh", "-c", BUSY)
    upper = next((host.root / "containers").glob("*/upper"))
    host.until((upper / "z").exists)
    return "busy"


def run(host: Host, image: str, name: str, script: str, *options: str) -> None:
    """One that ends, its script run by a shell whatever the image's entrypoint is."""
    entry = ("--entrypoint", "/bin/sh", "--network", "none", "--name", name)
    host.run("container", "run", *entry, *options, image, "-c", script)


def document(host: Host, digest: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (host.root / "blobs/sha256" / digest.strip().removeprefix("sha256:")).read_text()
    )
    return found


def layer(host: Host, descriptor: dict[str, Any]) -> bytes:
    blob = host.root / "blobs/sha256" / descriptor["digest"].removeprefix("sha256:")
    return gzip.decompress(blob.read_bytes())


def names(host: Host, descriptor: dict[str, Any]) -> list[str]:
    """The names in a layer."""
    with tarfile.open(fileobj=io.BytesIO(layer(host, descriptor))) as archive:
        return archive.getnames()


def commit(host: Host, *arguments: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest and the config that a commit made."""
    manifest = document(host, host.run("container", "commit", *arguments).out)
    return manifest, document(host, manifest["config"]["digest"])


def test_d26_a_commit_keeps_the_config_and_adds_one_layer_and_one_step(host: Host, rich: str) -> None:
    host.run("image", "pull", "--plain-http", rich)
    base = document(host, document(host, host.run("image", "ls", "-q", "--no-trunc").out)["config"]["digest"])
    host.run("container", "run", "--network", "none", "--name", "c", rich, "echo x > /file; echo y > /data/in-volume")
    manifest, config = commit(host, "-m", "saved", "-a", "Jordan Bach", "c")
    kept = {key: value for key, value in base["config"].items() if key != "Cmd"}
    assert kept.items() <= config["config"].items()
    assert config["rootfs"]["diff_ids"][:-1] == base["rootfs"]["diff_ids"]
    assert config["history"][:-1] == base["history"]
    assert config["history"][-1]["comment"] == "saved"
    assert "empty_layer" not in config["history"][-1]
    # The data of a volume are no part of the image, nor what the runtime made to mount something on.
    assert names(host, manifest["layers"][-1]) == ["file"]
    notes = manifest["annotations"]
    assert notes == {
        "org.opencontainers.image.base.digest": host.run("image", "inspect", rich).json[0]["Id"],
        "org.opencontainers.image.base.name": rich,
        "org.opencontainers.image.created": config["created"],
        "org.opencontainers.image.authors": "Jordan Bach",
    }


def test_d01_an_unchanged_container_adds_a_step_but_no_layer(host: Host, image: str) -> None:
    run(host, image, "c", "ls /proc /sys /dev > /dev/null")
    manifest, config = commit(host, "c")
    assert (len(manifest["layers"]), len(config["rootfs"]["diff_ids"])) == (1, 1)
    assert config["history"][-1]["empty_layer"] is True
    assert host.run("container", "diff", "c").out == ""
    assert host.run("container", "diff", "c", "-o", "json").json == []


def test_nothing_that_the_runtime_made_is_in_a_layer(host: Host, image: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    binds = ("-v", f"{tmp_path}/file:/new/bound", "-v", f"{tmp_path}:/deep/er/dir", "-v", "data:/data")
    run(host, image, "c", "echo 1 > /data/x; echo 2 > /deep/er/dir/y; echo 3 > /deep/mine", *binds)
    assert host.run("container", "diff", "c").out.splitlines() == ["A /deep", "A /deep/mine"]
    manifest, _ = commit(host, "c")
    assert names(host, manifest["layers"][-1]) == ["deep", "deep/mine"]


def test_changes_of_the_config_are_written_as_in_a_dockerfile(host: Host, rich: str) -> None:
    host.run("image", "pull", "--plain-http", rich)
    run(host, rich, "c", "true")
    wanted = (
        'CMD ["-f", "x y"]',
        'ENTRYPOINT ["httpd"]',
        """ENV LEVEL=debug NAME="a b" """,
        "USER 1000:1000",
        "WORKDIR www",
        "LABEL role=web owner='me too'",
        "EXPOSE 443 8000-8001/udp",
        'VOLUME ["/more"]',
        "STOPSIGNAL SIGTERM",
    )
    _, config = commit(host, *(part for text in wanted for part in ("--change", text)), "c")
    inner = config["config"]
    assert (inner["Entrypoint"], inner["Cmd"], inner["User"]) == (["httpd"], ["-f", "x y"], "1000:1000")
    assert inner["Env"] == ["PATH=/bin", "LEVEL=debug", "NAME=a b"]
    assert (inner["WorkingDir"], inner["StopSignal"]) == ("/var/www", "SIGTERM")
    assert inner["Labels"] == {"role": "web", "owner": "me too"}
    assert set(inner["ExposedPorts"]) == {"80/tcp", "443/tcp", "8000/udp", "8001/udp"}
    assert set(inner["Volumes"]) == {"/data", "/more"}
    for refused in ("HEALTHCHECK CMD true", "ONBUILD RUN x", "RUN x", "CMD"):
        result = host.run("container", "commit", "-c", refused, "c", code=64)
        assert refused in result.err


def test_committing_an_ended_container_again_gives_the_same_digest(host: Host, image: str) -> None:
    run(host, image, "c", "mkdir /d; echo x > /d/f; ln /d/f /g")
    first = host.run("container", "commit", "-a", "A", "-m", "M", "-c", "ENV A=b", "c", "one:1").out
    host.run("image", "tag", image, "another:1")
    assert host.run("container", "commit", "-a", "A", "-m", "M", "-c", "ENV A=b", "c").out == first
    assert host.run("container", "commit", "-a", "A", "-m", "N", "-c", "ENV A=b", "c").out != first


def test_a_committed_layer_is_unpacked_when_a_container_needs_it(host: Host, image: str) -> None:
    run(host, image, "c", "echo first > /f; rm /etc/passwd")
    before = set((host.root / "layers").iterdir())
    host.run("container", "commit", "c", "made:1")
    assert set((host.root / "layers").iterdir()) == before
    assert "made" in host.run("image", "ls").out
    host.run("gc")
    run_it = ("container", "run", "--rm", "--network", "none", "made:1")
    assert host.run(*run_it, "-c", "cat /f; ls /etc").out == "first\ngroup\nhostname\nhosts\nresolv.conf\n"
    assert set((host.root / "layers").iterdir()) > before


def test_d22_a_running_container_is_paused_for_its_commit_and_runs_on(host: Host, busy: str) -> None:
    """Two files that are always written one after the other differ by one at most, never by more."""
    for _ in range(2):
        manifest, _ = commit(host, busy)
        data = layer(host, manifest["layers"][-1])
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            written = [(archive.extractfile(name) or io.BytesIO()).read().decode().strip() for name in ("a", "z")]
        assert int(written[0]) - int(written[1]) in (0, 1)
    assert is_moving(host, busy)


def task_of(host: Host, name: str) -> Any:
    row = host.run("container", "inspect", name).json[0]
    return Runtime(host.run_dir).task(row["Id"])


def is_moving(host: Host, name: str) -> bool:
    """Whether the container writes."""
    path = next((host.root / "containers").glob("*/upper/a"))
    before = path.stat().st_ctime_ns
    host.until(lambda: path.stat().st_ctime_ns != before)
    return not Cgroups().frozen(task_of(host, name).cgroup)


def test_a_paused_container_is_committed_and_stays_paused(host: Host, busy: str) -> None:
    cgroup = task_of(host, busy).cgroup
    assert Cgroups().freeze(cgroup, 5)
    host.run("container", "commit", busy)
    assert Cgroups().frozen(cgroup)
    assert host.run("container", "inspect", busy).json[0]["State"]["Paused"] is True
    Cgroups().thaw(cgroup)


def test_without_a_pause_a_change_is_found(host: Host, image: str) -> None:
    big = "dd if=/dev/zero of=/big bs=1M count=64 2>/dev/null; while :; do echo x >> /big; done"
    host.run("container", "run", "-d", "--network", "none", "--name", "c", image, "sh", "-c", big)
    path = next((host.root / "containers").glob("*/upper"))
    host.until(lambda: (path / "big").exists() and (path / "big").stat().st_size > 64 << 20)
    result = host.run("container", "commit", "--pause=false", "c", code=None)
    assert "/big changed during the commit" in result.err
    assert result.code == 1
    host.run("container", "commit", "c")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_commit_that_is_cut_off_leaves_nothing_paused(host: Host, image: str, number: int) -> None:
    """Killed, it is the next command that takes its turn that lets the container run on."""
    script = "dd if=/dev/urandom of=/big bs=1M count=40 2>/dev/null; while :; do echo $((i+=1)) > /a; done"
    host.run("container", "run", "-d", "--network", "none", "--name", "c", image, "sh", "-c", script)
    cgroup = task_of(host, "c").cgroup
    upper = next((host.root / "containers").glob("*/upper"))
    host.until((upper / "a").exists)
    process = host.start("container", "commit", "c")
    while process.poll() is None and not Cgroups().frozen(cgroup):
        os.sched_yield()
    process.send_signal(number)
    result = host.finish(process)
    assert result.code == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[signal.Signals(number)]
    assert Cgroups().frozen(cgroup) == (number == signal.SIGKILL)
    host.run("container", "rm", "-f", "nobody", code=1)  # a turn, and nothing more
    assert not Cgroups().frozen(cgroup)
    assert not (host.run_dir / "paused").exists()
    assert is_moving(host, "c")
    host.run("container", "commit", "c")


def test_container_diff_escapes_what_a_terminal_would_obey(host: Host, image: str) -> None:
    run(host, image, "c", r"""rm /etc/group; echo x >> /etc/passwd; touch "$(printf '/t\033[31m\nx\377')" """)
    assert host.run("container", "diff", "c").out.splitlines() == [
        "C /etc",
        "D /etc/group",
        "C /etc/passwd",
        r"A /t\x1b[31m\nx\udcff",
    ]
    listed = host.run("container", "diff", "c", "-o", "json").json
    assert os.fsencode(listed[-1]["path"]) == b"/t\x1b[31m\nx\xff"
    assert [change["kind"] for change in listed] == ["C", "D", "C", "A"]
    assert "no container 'nobody'" in host.run("container", "diff", "nobody", code=1).err


def test_image_diff_tells_layers_and_files(host: Host, image: str) -> None:
    run(host, image, "c", "rm /etc/group; echo longer >> /etc/passwd; echo new > /new")
    host.run("container", "commit", "c", "made:1")
    lines = host.run("image", "diff", image, "made:1").out.splitlines()
    assert [line.split()[-1] for line in lines[:3]] == ["IN", "both", "second"]
    assert lines[3:] == ["", "D /etc/group  10B", "C /etc/passwd  30B -> 37B", "A /new  4B"]
    found = host.run("image", "diff", image, "made:1", "-o", "json").json
    assert (len(found["layers"]["shared"]), found["layers"]["first"], len(found["layers"]["second"])) == (1, [], 1)
    assert found["differences"][1] == {"kind": "C", "path": "/etc/passwd", "before": 30, "after": 37}
    back = host.run("image", "diff", "made:1", image, "-o", "json").json
    assert [item["kind"] for item in back["differences"]] == ["A", "C", "D"]
    assert host.run("image", "diff", image, image, "-o", "json").json["differences"] == []
    assert "no image 'nix'" in host.run("image", "diff", image, "nix", code=1).err
