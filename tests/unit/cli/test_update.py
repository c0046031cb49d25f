"""``update`` from the command line, against a registry in memory."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reconciler.cli.main import main
from reconciler.testing.ports import free_port
from reconciler.testing.scripted_registry import Step
from reconciler.testing.served_registry import ServedRegistry

OLD = "sha256:" + "0" * 64


@pytest.fixture
def registry() -> Iterator[ServedRegistry]:
    with ServedRegistry() as server:
        for tag in ("1.4.0", "1.5.2", "2.0.0", "edge"):
            server.image("app", tag, tag.encode())
        yield server


@dataclass
class Machine:
    """Runs commands in ``place``; ``out`` and ``err`` are what the last one printed."""

    place: Path
    registry: ServedRegistry
    capsys: pytest.CaptureFixture[str]
    out: str = ""
    err: str = ""
    code: int = 0

    def write(self, body: str, name: str = "a.yaml") -> Path:
        """A spec; APP is the repository, and OLD a digest that no tag has. The first one tells of the registry."""
        head = "apiVersion: reconciler/v1\nstack: shop\n"
        head += f"registries: {{'{self.registry.host}': {{plain_http: true}}}}\n" * (name == "a.yaml")
        path = self.place / name
        path.write_bytes((head + body).replace("APP", f"{self.registry.host}/app").replace("OLD", OLD).encode())
        return path

    def update(self, *arguments: str) -> Machine:
        self.code = main(["--root", str(self.root), "update", *arguments])
        self.out, self.err = self.capsys.readouterr()
        return self

    @property
    def root(self) -> Path:
        return self.place.parent / "root"

    def pin(self, tag: str) -> str:
        return f"{self.registry.host}/app:{tag}@{self.registry.tags['app'][tag]}"

    @property
    def images(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.out)["images"]
        return found


@pytest.fixture
def machine(
    tmp_path: Path,
    registry: ServedRegistry,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Machine:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    return Machine(tmp_path / "here", registry, capsys)


SPEC = """\
images:
  app: {pull: APP, track: {semver: '>=1.4 <2'}}  # flow
  short: 'APP:edge@OLD'
  plain: APP:edge
"""


def test_it_shows_what_each_pin_would_say_and_writes_nothing(machine: Machine) -> None:
    path = machine.write(SPEC)
    before = path.stat()
    assert machine.update().code == 0
    app, digest = f"{machine.registry.host}/app", machine.registry.tags["app"]
    assert machine.out.splitlines() == [
        "~ image/shop/app  (a.yaml:5:15)",
        f"    - {app}",
        f"    + {app}:1.5.2@{digest['1.5.2'][:19]}...",
        "      1.5.2: newest in >=1.4 <2",
        "~ image/shop/short  (a.yaml:6:10)",
        f"    - {app}:edge@{OLD[:19]}...",
        f"    + {app}:edge@{digest['edge'][:19]}...",
        "      edge moved",
        "",
        "Pins: 2 to write, 0 up to date. `--diff` shows it as a patch, `--write` writes it.",
    ]
    assert machine.err == ""
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert [*machine.place.iterdir()] == [path]
    assert not machine.root.exists()


def test_it_writes_pins_that_the_next_run_leaves_alone(machine: Machine) -> None:
    path = machine.write(SPEC)
    before = path.read_text()
    assert machine.update("--write").code == 0
    assert machine.out.endswith("Pins: 2 written, 0 up to date.\n")
    pinned = before.replace(f"{{pull: {machine.registry.host}/app,", f"{{pull: {machine.pin('1.5.2')},")
    assert path.read_text() == pinned.replace(f"{machine.registry.host}/app:edge@{OLD}", machine.pin("edge"))
    once = path.stat().st_ino
    assert machine.update("--write", ".", "a.yaml").code == 0
    assert machine.out.endswith("Pins: 0 written, 2 up to date.\n")
    assert path.stat().st_ino == once
    # It goes on following.
    machine.registry.image("app", "1.9.0", b"new")
    assert machine.update("--write").code == 0
    assert machine.pin("1.9.0") in path.read_text()


def test_a_pin_of_several_platforms_is_their_index(machine: Machine) -> None:
    parts = {name: machine.registry.image("app", "", name.encode()) for name in ("amd64", "arm64", "s390x")}
    index = machine.registry.index("app", "1.6.0", parts)
    path = machine.write("images: {app: {pull: APP, platform: linux/arm64, track: {semver: ^1}}}\n")
    machine.update("--write")
    assert f"app:1.6.0@{index}," in path.read_text()


def test_the_patch_is_what_write_would_do(machine: Machine) -> None:
    subprocess.run(["git", "init", "-q"], check=True)
    path = machine.write(SPEC)
    before = path.read_text()
    assert machine.update("--diff").code == 0
    assert path.read_text() == before
    assert "image/shop/app: 1.5.2: newest in >=1.4 <2" in machine.err
    subprocess.run(["git", "apply"], input=machine.out.encode(), check=True)
    patched = path.read_text()
    path.write_text(before)
    machine.update("--write")
    assert path.read_text() == patched != before
    assert machine.update("--diff").out == ""


def test_as_data(machine: Machine) -> None:
    machine.write(SPEC)
    assert machine.update("-o", "json").code == 0
    assert machine.images[0] == {
        "address": "image/shop/app",
        "source": {"file": "a.yaml", "line": 5, "column": 15},
        "before": f"{machine.registry.host}/app",
        "after": machine.pin("1.5.2"),
        "status": "outdated",
        "why": "1.5.2: newest in >=1.4 <2",
        "error": None,
        "hint": None,
    }
    machine.update("-o", "json", "--write")
    assert {item["status"] for item in machine.images} == {"written"}
    assert {item["status"] for item in machine.update("-o", "json").images} == {"current"}


def test_one_that_fails_is_named_and_the_others_are_written(machine: Machine) -> None:
    dead = f"127.0.0.1:{free_port()}"
    path = machine.write(
        f"""\
images:
  app: {{pull: APP, track: {{newest: 1, pattern: '1.*'}}}}
  dead: '{dead}/app:1@OLD'
  gone: APP:gone@OLD
  none: {{pull: APP, track: {{semver: ^3}}}}
  variable: ${{HOST:-{machine.registry.host}}}/app:edge@OLD
"""
    )
    assert machine.update("--write").code == 4
    assert "Pins: 1 written, 0 up to date, 4 failed." in machine.out
    errors = [line for line in machine.err.splitlines() if line.startswith("error: ")]
    assert errors[0].startswith(f"error: a.yaml:6:9: image/shop/dead: {dead}: cannot connect")
    assert errors[1] == f"error: a.yaml:7:9: image/shop/gone: {machine.registry.host}/app:gone is not at the registry"
    assert errors[2].startswith("error: a.yaml:8:16: image/shop/none: no tag of ")
    assert errors[3].startswith("error: a.yaml:9:13: image/shop/variable: the reference is made of variables, and")
    assert path.read_text().count("@sha256:") == 4
    assert machine.pin("1.5.2") in path.read_text()


def test_nothing_but_failures_is_an_error_with_and_without_write(machine: Machine) -> None:
    machine.write("images: {gone: 'APP:gone@OLD', kept: 'APP:edge@OLD'}\n")
    assert machine.update().code == 1
    assert "Pins: 1 to write, 0 up to date, 1 failed." in machine.out
    assert machine.update("--write").code == 4
    assert machine.update("--write").code == 1
    assert machine.update("--diff").code == 1
    assert machine.out == ""


def test_a_registry_that_refuses_is_told_and_nothing_of_it_is_guessed(machine: Machine) -> None:
    machine.registry.on("GET /v2/app/tags/list", Step(401, headers={"WWW-Authenticate": 'Basic realm="x"'}))
    machine.write("images: {app: {pull: APP, track: {semver: ^1}}}\n")
    assert machine.update("--write").code == 1
    assert "image/shop/app" in machine.err
    assert "login" in machine.err


@pytest.mark.parametrize("command", ["update", "plan"])
def test_a_repository_is_listed_once_for_all_that_track_it(machine: Machine, command: str) -> None:
    lines = [f"  a{number}: {{pull: APP, track: {{semver: '>=1.{number}'}}}}\n" for number in range(6)]
    path = machine.write("images:\n" + "".join(lines))
    main(["--root", str(machine.root), command, str(path)])
    assert machine.capsys.readouterr().out.count("2.0.0: newest in") == 6
    assert machine.registry.count("GET /v2/app/tags/list") == 1
    # What is wrong with the list is told of each.
    machine.registry.on("GET /v2/app/tags/list", Step(401, headers={"WWW-Authenticate": 'Basic realm="x"'}))
    main(["--root", str(machine.root), command, str(path)])
    assert "".join(machine.capsys.readouterr()).count("login required") == 6
    assert machine.registry.count("GET /v2/app/tags/list") == 2


def test_a_file_that_changed_meanwhile_is_left_alone_and_another_is_written(machine: Machine) -> None:
    path = machine.write("images: {app: 'APP:1.4.0@OLD'}\n")
    other = machine.write("images: {other: 'APP:edge@OLD'}\n", "b.yaml")
    digest = {"Docker-Content-Digest": str(machine.registry.tags["app"]["1.4.0"])}
    while_asked = Step(200, headers=digest, before=lambda: path.write_text("# mine\n"))
    machine.registry.on("HEAD /v2/app/manifests/1.4.0", while_asked)
    assert machine.update("--write").code == 4
    assert "a.yaml:4:15: image/shop/app: a.yaml changed while it was looked at, and was left as it is" in machine.err
    assert path.read_text() == "# mine\n"
    assert machine.pin("edge") in other.read_text()


def test_an_anchor_of_images_that_differ_is_told_and_left_alone(machine: Machine) -> None:
    path = machine.write(
        """\
x-app: &app {pull: 'APP:1.4.0@OLD', track: {semver: ^1}}
images:
  one: *app
  two: {<<: *app, track: {semver: ^2}}
  short: APP:edge@OLD
"""
    )
    assert machine.update("--write").code == 4
    assert "image/shop/one: the reference is shared with images.two.pull by an anchor" in machine.err
    assert machine.pin("edge") in path.read_text()
    assert f"app:1.4.0@{OLD}" in path.read_text()


@pytest.mark.parametrize(
    ("policy", "wanted"), [("newer", "edge moved"), ("never", "pull_policy is never, so no registry is asked")]
)
def test_the_pull_policy_says_whether_a_registry_may_be_asked(machine: Machine, policy: str, wanted: str) -> None:
    machine.write(f"images: {{app: {{pull: 'APP:edge@OLD', pull_policy: {policy}}}}}\n")
    assert machine.update().code == 0
    assert wanted in machine.out


def test_what_is_for_other_hosts_is_left_alone_and_said(machine: Machine) -> None:
    path = machine.write("hosts: {role: web}\nimages: {app: 'APP:edge@OLD'}\n")
    before = path.read_text()
    assert machine.update("--write").code == 0
    assert "Nothing to update" in machine.out
    assert "a.yaml:4:1: this is for other hosts, and left alone" in machine.err
    assert path.read_text() == before
    assert machine.update("--write", "--label", "role=web").code == 0
    assert path.read_text() != before


def test_a_machine_without_a_root_knows_no_ages_and_keeps_the_pins(machine: Machine) -> None:
    path = machine.write(f"images: {{app: {{pull: '{machine.pin('1.4.0')}', track: {{semver: ^1, min_age: 3d}}}}}}\n")
    before = path.read_text()
    assert machine.update().code == 0
    assert "= image/shop/app" in machine.out
    assert "1.5.2 is new, wants 3d" in machine.out
    assert machine.out.endswith("Pins: 0 to write, 0 up to date, 1 kept.\n")
    assert machine.update("-o", "json").images[0]["status"] == "kept"
    assert not machine.root.exists()
    assert path.read_text() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="a root is made by root")
def test_what_is_written_is_noted_so_that_tags_come_of_age(machine: Machine) -> None:
    machine.write(f"images: {{app: {{pull: '{machine.pin('1.4.0')}', track: {{semver: ^1, min_age: 1h}}}}}}\n")
    machine.update("--write")
    assert "1.5.2 is new, wants 1h" in machine.out
    with sqlite3.connect(machine.root / "state.db") as database:
        database.execute("UPDATE tag_ledger SET seen_at = seen_at - 7200")
    database.close()
    assert machine.update("--write").out.endswith("Pins: 1 written, 0 up to date.\n")
    assert "1.5.2: newest in ^1" in machine.out


def test_wrong_usage_and_wrong_specs(machine: Machine) -> None:
    assert machine.update("--write", "--diff").code == 64
    assert machine.update("--diff", "-o", "json").code == 64
    path = machine.write("images: {app: 'APP:edge@OLD', app: x}\n")
    before = path.read_text()
    assert machine.update("--write").code == 1
    assert "duplicate key" in machine.err
    assert path.read_text() == before
