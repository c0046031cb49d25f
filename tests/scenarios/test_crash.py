"""An apply that is cut off at any moment: the next one converges, with nothing twice and nothing lost or leaked."""

from __future__ import annotations

import signal
import subprocess

import pytest

from reconciler.testing.host import Host
from reconciler.testing.registry_server import RegistryServer

pytestmark = pytest.mark.root

_STACK = """\
images:
  app: {app}:1
  made:
    commit: {{container: writer, author: A, message: M, when: exited}}
tags:
  shop.example/made:1: made
networks: {{front: {{}}}}
volumes: {{data: {{}}}}
containers:
  writer:
    image: app
    command: [sh, -c, "sleep {seconds}; echo hello > /hello"]
    restart: "no"
  web:
    image: app
    command: [sleep, "3600"]
    stop_signal: SIGKILL
    networks: [front]
    ports: ["127.0.0.1::80"]
    volumes: ["data:/data"]
  reader:
    image: made
    command: [sleep, "3600"]
    stop_signal: SIGKILL
    networks: [front]
"""


def declare(host: Host, registry: RegistryServer, seconds: float = 0) -> None:
    host.declare(registry.host, _STACK.format(app=f"{registry.host}/app", seconds=seconds))


def interrupt(host: Host, lines: int, number: signal.Signals) -> subprocess.Popen[str]:
    """An apply that gets a signal once it has said ``lines`` lines."""
    apply = host.start("--progress", "plain", "apply", host.specs, "--yes")
    assert apply.stderr is not None
    for _ in range(lines):
        apply.stderr.readline()
    apply.send_signal(number)
    return apply


def assert_whole(host: Host) -> None:
    """Everything that is declared is there once, and nothing else is."""
    assert host.is_converged()
    containers = host.containers()
    assert set(containers) == {"shop/writer", "shop/web", "shop/reader"}
    ids = {item["id"] for item in containers.values()}
    assert {path.name for path in (host.root / "containers").iterdir()} == ids
    running = {item["id"] for item in containers.values() if item["status"] == "running"}
    assert {path.name for path in (host.run_dir / "netns").iterdir()} == running
    assert sorted(host.processes().values()) == [["sleep", "3600"]] * 2
    assert len([trace for trace in host.traces() if trace.startswith("link ")]) == 2 + 2  # bridges; ends of veth pairs
    assert list((host.root / "ingest").iterdir()) == []
    assert host.run("gc", "--plan", "-o", "json").json["items"] == []


@pytest.mark.parametrize("lines", [1, 3, 6, 8, 10, 12, 14])
def test_g19_apply_killed_is_finished_by_the_next(host: Host, registry: RegistryServer, lines: int) -> None:
    declare(host, registry)
    interrupt(host, lines, signal.SIGKILL).communicate()
    host.apply()
    assert_whole(host)


_REPLACED = """\
networks: {{front: {{}}}}
containers:
  web:
    image: {app}:{version}
    command: [sleep, "3600"]
    stop_signal: SIGKILL
    networks: [front]
    volumes: ["/data"]
"""


@pytest.mark.parametrize("lines", [1, 3, 4, 5, 6, 7])
def test_g19_replacement_killed_is_finished_by_the_next_apply(host: Host, registry: RegistryServer, lines: int) -> None:
    app = f"{registry.host}/app"
    host.declare(registry.host, _REPLACED.format(app=app, version=1))
    host.apply()
    old = host.container("shop/web")
    kept = anonymous_volumes(host)
    host.declare(registry.host, _REPLACED.format(app=app, version=2))
    interrupt(host, lines, signal.SIGKILL).communicate()
    # Old or new: the name always has a container, and the old one is not let go of before the new one has it.
    between = host.container("shop/web")
    assert between["status"] == "running" or len(list((host.root / "containers").iterdir())) == 2
    host.apply()
    new = host.container("shop/web")
    assert new["status"] == "running"
    assert new["image"] != old["image"]
    assert host.is_converged()
    assert {path.name for path in (host.root / "containers").iterdir()} == {new["id"]}
    assert {path.name for path in (host.run_dir / "netns").iterdir()} == {new["id"]}
    assert list(host.processes().values()) == [["sleep", "3600"]]
    assert len([trace for trace in host.traces() if trace.startswith("link ")]) == 1 + 1  # bridge; end of a veth pair
    assert anonymous_volumes(host) == kept


def anonymous_volumes(host: Host) -> set[str]:
    return {path.name for path in (host.root / "volumes/anonymous").iterdir()}


def test_apply_killed_again_and_again_converges_in_the_end(host: Host, registry: RegistryServer) -> None:
    declare(host, registry)
    for lines in (2, 1, 3, 2, 1, 2):
        interrupt(host, lines, signal.SIGKILL).communicate()
    host.apply()
    assert_whole(host)


def test_ctrl_c_ends_cleanly_and_the_next_apply_goes_on(host: Host, registry: RegistryServer) -> None:
    declare(host, registry, seconds=1.5)
    result = host.finish(interrupt(host, 8, signal.SIGINT))
    assert result.code == 130
    assert "Interrupted after" in result.out
    assert not host.is_converged()
    host.apply()
    assert_whole(host)
