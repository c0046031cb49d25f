"""Mirrors as their users see them: dead ones left alone, shown and tried again; and those of the host's own files."""

from __future__ import annotations

import gzip
import json
import re
import socket
import socketserver
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from reconciler.oci import media
from reconciler.oci.digest import Digest
from reconciler.oci.platform import Platform
from reconciler.store.archive.reader import Entry, Kind
from reconciler.store.archive.writer import archive
from reconciler.testing.host import Host
from reconciler.testing.served_registry import ServedRegistry

pytestmark = pytest.mark.root

EXAMPLE = Path(__file__).parents[2] / "examples" / "mirrors"


class Gate:
    """A port that leads to a server while it is open, and to nothing while it is closed. ``passed`` counts visits."""

    def __init__(self, target: str) -> None:
        self._target = target.partition(":")
        self.passed = 0
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def open(self) -> Iterator[None]:
        gate = self

        class Relay(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                gate.passed += 1
                host, _, port = gate._target
                with socket.create_connection((host, int(port))) as server:
                    back = threading.Thread(target=_pump, args=(server, self.request))
                    back.start()
                    _pump(self.request, server)
                    back.join()

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        with Server(("127.0.0.1", self.port), Relay) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield
            finally:
                server.shutdown()
                thread.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def publish(registry: ServedRegistry, tag: str, text: str = "") -> None:
    """An image with one small file, that is its tag."""
    host, data = Platform.host(), (text or tag).encode()
    layer = b"".join(archive([(Entry(b"name", Kind.FILE, size=len(data)), data)]))
    document = {
        "os": host.os,
        "architecture": host.architecture,
        "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(layer))]},
    }
    config = registry.blob("app", json.dumps(document).encode()) | {"mediaType": media.OCI_CONFIG}
    layers = [registry.blob("app", gzip.compress(layer, mtime=0))]
    registry.put("app", {"schemaVersion": 2, "mediaType": media.OCI_MANIFEST, "config": config, "layers": layers}, tag)


@pytest.fixture
def origin() -> Iterator[ServedRegistry]:
    with ServedRegistry() as registry:
        for number in range(1, 7):
            publish(registry, str(number))
        yield registry


@pytest.fixture
def gate(origin: ServedRegistry) -> Gate:
    return Gate(origin.host)


def declare(host: Host, origin: ServedRegistry, mirrors: str, *tags: int) -> None:
    images = ", ".join(f"app{tag}: '{origin.host}/app:{tag}'" for tag in tags)
    host.declare(origin.host, f"mirrors: {mirrors}\nimages: {{{images}}}\n")


def shift(host: Host, seconds: float) -> None:
    """Time passes for what is kept of mirrors: as if it had been seen earlier or, the clock set back, later."""
    with sqlite3.connect(host.root / "state.db") as connection:
        connection.execute("UPDATE mirror_health SET failed_at = failed_at - ?1, next_try = next_try - ?1", (seconds,))
    connection.close()


def mirror_of(host: Host) -> dict[str, Any]:
    (mirror,) = host.run("status", "-o", "json").json["mirrors"]
    return dict(mirror)


def test_p59_a_dead_mirror_is_left_alone_shown_and_tried_again(host: Host, origin: ServedRegistry, gate: Gate) -> None:
    mirrors = f"{{'{origin.host}': ['{gate.url}']}}"
    declare(host, origin, mirrors, 1)
    assert host.apply().text.count("passing over") == 1
    shown = mirror_of(host)
    assert (shown["state"], shown["failures"]) == ("failing", 1)
    assert "Connection refused" in shown["error"]

    # A new process leaves it alone: it would have failed once more.
    declare(host, origin, mirrors, 1, 2)
    assert "passing over" not in host.apply().text
    assert mirror_of(host) == shown
    (line,) = [line for line in host.run("status").out.splitlines() if gate.url in line]
    assert re.search(
        r"  failing for .*, 1 failure, next try in [0-9]+ seconds: cannot connect: Connection refused$", line
    )

    # Plans do not write down what they see of it, and see that its time is over.
    shift(host, 60)
    before = (host.root / "state.db").read_bytes()
    declare(host, origin, mirrors.replace(f"'{gate.url}'", f"{{url: '{gate.url}', resolve: first}}"), 1, 2, 3)
    assert f"image/shop/app3: passing over {gate.url}" in host.run("plan", host.specs).out
    assert "1 failure, next try is due" in host.run("status").out
    assert (host.root / "state.db").read_bytes() == before

    with gate.open():
        declare(host, origin, mirrors, 1, 2, 3)
        host.apply()
        assert gate.passed
    assert f"{gate.url}  answering" in host.run("status").out


def test_each_note_is_told_once(host: Host, origin: ServedRegistry, gate: Gate) -> None:
    mirrors = f"{{'{origin.host}': [{{url: '{gate.url}', resolve: first}}]}}"
    declare(host, origin, mirrors, 1)
    for command in ("plan", "apply"):
        said = host.run(command, host.specs, *(["--yes"] if command == "apply" else []))
        notes = [line for line in said.text.splitlines() if "passing over" in line]
        assert len(notes) == 1, notes
        assert notes[0].startswith("Note: image/shop/app1: passing over ")
    declare(host, origin, mirrors, 1, 2, 3, 4)
    (note,) = [line for line in host.run("plan", host.specs).text.splitlines() if gate.url in line]
    assert note == f"Note: image/shop/app2 and 2 more: {gate.url} failed a moment ago, and is asked last"


def files(host: Host) -> Path:
    """Where this host has the files of other programs: none yet."""
    host.root.mkdir(mode=0o700, exist_ok=True)
    place = host.place / "etc"
    place.mkdir()
    (host.root / "host.yaml").write_text(
        f"registries_conf: {place}/registries.conf\ncerts_d: {place}/certs.d\ndaemon_json: {place}/daemon.json\n"
    )
    return place


def conf(origin: str, *mirrors: str) -> str:
    tables = "".join(f"[[registry.mirror]]\nlocation = '{mirror}'\ninsecure = true\n" for mirror in mirrors)
    return f"[[registry]]\nlocation = '{origin}'\n{tables}"


def test_the_example_takes_over_what_docker_has(host: Host) -> None:
    place = files(host)
    assert f"Note: this host names no mirrors: looked at {place}/registries.conf" in host.run("plan", EXAMPLE).out
    (place / "daemon.json").write_text('{"registry-mirrors": ["https://mirror.example.com"]}')
    assert f"mirror/docker.io will be created: {place}/daemon.json says so" in host.run("apply", EXAMPLE, "--yes").out
    assert host.run("plan", EXAMPLE).out == "No changes.\n"


def test_mirrors_of_registries_conf_and_hosts_toml(host: Host, origin: ServedRegistry, gate: Gate) -> None:
    place = files(host)
    declare(host, origin, "{from_host: true}", 1)
    written = place / "registries.conf"
    written.write_text(conf(origin.host, gate.url.removeprefix("http://")))
    with gate.open():
        said = host.apply().out
        assert f"mirror/{origin.host} will be created: {written} says so" in said
        assert gate.passed, "it was asked for the tag and the bytes"
    assert host.run("plan", host.specs).out.endswith("No changes.\n")
    shown = mirror_of(host)
    assert (shown["url"], shown["resolve"], shown["from_file"]) == (gate.url, "first", str(written))
    assert f"recorded from {written}" in host.run("status").out
    assert all("authorization" not in asked.headers for asked in origin.asked)

    # A change of the file is a change of the plan; a file that is wrong, an error before anything is done.
    written.write_text(conf(origin.host, "127.0.0.1:1"))
    assert [change["address"] for change in host.plan()["changes"]] == [f"mirror/{origin.host}"]
    host.apply()
    assert mirror_of(host)["url"] == "http://127.0.0.1:1"
    written.write_text("[[registry]]\nlocation = \n")
    before = (host.root / "state.db").read_bytes()
    assert f"{written} is no TOML: Invalid value (at line 2" in host.run("apply", host.specs, "--yes", code=1).err
    assert (host.root / "state.db").read_bytes() == before

    # containerd's, of whom it is asked next; and gone.
    written.unlink()
    directory = place / "certs.d" / origin.host
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text(f'[host."{gate.url}"]\ncapabilities = ["pull"]\n')
    host.apply()
    shown = mirror_of(host)
    assert (shown["resolve"], shown["from_file"]) == ("never", str(directory / "hosts.toml"))
    (directory / "hosts.toml").unlink()
    host.apply()
    assert host.run("status", "-o", "json").json["mirrors"] == []


def test_a_registry_that_a_file_blocks_is_not_asked(host: Host, origin: ServedRegistry) -> None:
    place = files(host)
    written = place / "registries.conf"
    written.write_text(f"[[registry]]\nlocation = '{origin.host}'\nblocked = true\n")
    declare(host, origin, "{from_host: true}", 1)
    blocked = f"{origin.host} is blocked by {written}"
    assert blocked in host.run("plan", host.specs, code=1).out
    host.apply(code=4)
    assert f"blocked by {written}" in host.run("status").out
    for command in (["image", "pull", f"{origin.host}/app:1"], ["container", "run", f"{origin.host}/app:1"]):
        assert blocked in host.run(*command, code=None).err
    assert origin.asked == []
    # What the spec declares counts instead.
    declare(host, origin, f"{{from_host: true, '{origin.host}': ['http://127.0.0.1:1']}}", 1)
    host.apply()
    assert host.run("plan", host.specs).out == "No changes.\n"
