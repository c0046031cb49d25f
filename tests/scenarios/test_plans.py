"""Saved plans are carried out exactly or refused; secrets are nowhere but where their container needs them."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from reconciler.testing.host import Host
from reconciler.testing.registry_server import RegistryServer

pytestmark = pytest.mark.root

_FILE, _ENVIRONMENT = "canary-file-3f1c", "canary-environment-77aa"


def declare(host: Host, registry: RegistryServer, version: int = 1) -> None:
    host.declare(
        registry.host,
        f"""\
        containers:
          web:
            image: {registry.host}/app:{version}
            command: [sleep, "3600"]
            stop_signal: SIGKILL
        """,
    )


def test_a_saved_plan_is_carried_out_once(host: Host, registry: RegistryServer) -> None:
    declare(host, registry)
    saved = host.place / "plan.json"
    shown = host.run("plan", host.specs, "--out", saved)
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    assert "Plan: 4 to create" in shown.out
    host.run("apply", saved)
    assert host.is_running("shop/web")
    again = host.run("apply", saved, code=6)
    assert "plan again" in again.err
    assert host.is_converged()


def test_g35_a_saved_plan_is_stale_when_the_world_has_changed(host: Host, registry: RegistryServer) -> None:
    declare(host, registry)
    host.apply()
    declare(host, registry, version=2)
    saved = host.place / "plan.json"
    host.run("plan", host.specs, "--out", saved)
    host.run("destroy", "--all", "--yes")
    host.run("apply", saved, code=6)
    assert host.containers() == {}


def test_a_saved_plan_is_stale_when_the_specs_have_changed(host: Host, registry: RegistryServer) -> None:
    declare(host, registry)
    saved = host.place / "plan.json"
    host.run("plan", host.specs, "--out", saved)
    declare(host, registry, version=2)
    host.run("apply", saved, code=6)
    assert host.containers() == {}


def test_secrets_are_shown_nowhere_and_kept_nowhere_else(host: Host, registry: RegistryServer) -> None:
    host.environment = {"CANARY": _ENVIRONMENT}
    (host.specs / "word").write_text(_FILE)
    (host.specs / "word").chmod(0o600)
    spec = f"""\
    secrets: {{word: {{file: ./word}}}}
    images:
      made:
        commit: {{container: show, author: A, message: M, when: exited}}
    containers:
      show:
        image: {registry.host}/app:1
        command: [sh, -c, "cat /run/secrets/word; echo; echo $$VALUE; stat -c %a /run/secrets/word"]
        environment: {{VALUE: "${{CANARY}}", OTHER: "1"}}
        secrets: [word]
        restart: "no"
    """
    host.declare(registry.host, spec)
    saved = host.place / "plan.json"
    for form in ("text", "json", "markdown"):
        host.run("plan", host.specs, "--env", "CANARY", "-o", form, "--out", saved)
    host.run("--log-level", "debug", "--progress", "json", "apply", saved, "-o", "json")
    assert host.output("shop/show").splitlines() == [_FILE, _ENVIRONMENT, "400"]
    assert host.run("plan", host.specs, "--env", "CANARY", "--detailed-exitcode").code == 0
    # A secret that changes is a change, and neither value is shown.
    (host.specs / "word").write_text(_FILE + "-new")
    host.environment = {"CANARY": _ENVIRONMENT + "-new"}
    assert "(sensitive)" in host.run("plan", host.specs, "--env", "CANARY").out
    host.declare(registry.host, spec.replace('"1"', "[not, text]"))
    host.run("plan", host.specs, "--env", "CANARY", code=1)
    host.run("status", "-o", "json")
    host.run("container", "inspect", "shop/show")
    host.run("image", "inspect", "shop/made")

    printed = "".join(host.printed)
    assert saved.stat().st_size > 0
    for canary in (_FILE, _ENVIRONMENT):
        assert canary not in printed
        assert canary not in saved.read_text()
        holders = [path for path in _files(host.root) if canary.encode() in path.read_bytes()]
        assert holders
        assert {_part(path.relative_to(host.root)) for path in holders} <= {"spec.json", "config.json", "files", "log"}


def _files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]


def _part(path: Path) -> str:
    """Which part of a container's directory a file is in; its whole path when it is in none."""
    return path.parts[2] if path.parts[0] == "containers" else str(path)


def test_a_saved_plan_that_was_damaged_is_refused(host: Host, registry: RegistryServer) -> None:
    declare(host, registry)
    saved = host.place / "plan.json"
    host.run("plan", host.specs, "--out", saved)
    document = json.loads(saved.read_text())
    saved.write_text(saved.read_text()[:-20])
    assert "damaged" in host.run("apply", saved, code=1).err
    document["format_version"] = "99.0"
    saved.write_text(json.dumps(document))
    assert "plan again" in host.run("apply", saved, code=1).err
    assert not host.root.exists()
