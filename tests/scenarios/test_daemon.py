"""The daemon keeps a host as a directory or a repository says, and repairs what somebody changes by hand."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from reconciler.testing.host import Host
from reconciler.testing.registry_server import RegistryServer
from reconciler.testing.repositories import UpstreamRepository

pytestmark = pytest.mark.root


def spec(registry: RegistryServer, seconds: int = 3600) -> str:
    return f"""\
apiVersion: reconciler/v1
stack: shop
registries: {{'{registry.host}': {{plain_http: true}}}}
images: {{app: {registry.host}/app:1}}
tags: {{shop.example/app:live: app}}
containers:
  web:
    image: app
    command: [sleep, "{seconds}"]
    stop_signal: SIGKILL
"""


@pytest.fixture
def daemon(host: Host) -> Callable[..., subprocess.Popen[str]]:
    """Starts the daemon, with its log thrown away, and waits until it has converged."""

    def start(*arguments: object) -> subprocess.Popen[str]:
        process = host.start("daemon", *arguments, log=True)
        host.until(lambda: conditions(host).get("result") == "converged")
        return process

    return start


def conditions(host: Host) -> dict[str, Any]:
    """What ``status`` says of a daemon; empty when it says nothing."""
    found = host.run("status", "-o", "json").json["daemon"]
    return found["conditions"] if found else {}


def runs(host: Host, *command: str) -> bool:
    return list(host.processes().values()) == [list(command)]


def test_the_daemon_follows_a_directory_and_repairs_drift(
    host: Host, registry: RegistryServer, daemon: Callable[..., subprocess.Popen[str]]
) -> None:
    host.write(spec(registry))
    process = daemon(host.specs, "--interval", "1s")
    first = host.container("shop/web")["id"]

    os.kill(host.pid("shop/web"), signal.SIGKILL)
    host.until(lambda: host.is_running("shop/web") and host.container("shop/web")["run"] == 2)
    assert host.container("shop/web")["id"] == first

    host.run("container", "stop", "shop/web")
    host.until(lambda: host.is_running("shop/web"))

    host.run("container", "rm", "--force", "shop/web")
    host.until(lambda: host.is_running("shop/web") and host.container("shop/web")["id"] != first)

    live = host.run("image", "inspect", "shop.example/app:live").json[0]["Id"]
    host.run("image", "pull", f"{registry.host}/app:2")
    host.run("image", "tag", f"{registry.host}/app:2", "shop.example/app:live", code=None)
    host.until(lambda: host.run("image", "inspect", "shop.example/app:live").json[0]["Id"] == live)

    host.write(spec(registry, 3700))
    host.until(lambda: runs(host, "sleep", "3700"))
    host.until(host.is_converged)  # the old container goes last

    process.send_signal(signal.SIGTERM)
    assert host.finish(process).code == 143
    assert runs(host, "sleep", "3700")
    assert conditions(host) == {}
    assert host.is_converged()


def test_the_daemon_follows_a_repository_and_passes_over_what_does_not_parse(
    host: Host, registry: RegistryServer, daemon: Callable[..., subprocess.Popen[str]]
) -> None:
    upstream = UpstreamRepository(host.place / "upstream")
    first = upstream.commit({"deploy/shop.yaml": spec(registry)})
    process = daemon("--git", upstream.path, "--ref", "main", "--path", "deploy", "--interval", "1s")
    assert runs(host, "sleep", "3600")
    assert conditions(host)["revision"] == first

    second = upstream.commit({"deploy/shop.yaml": spec(registry, 3700)})
    host.until(lambda: runs(host, "sleep", "3700"), seconds=10)
    host.until(lambda: conditions(host)["revision"] == second)

    before = host.containers()
    broken = upstream.commit({"deploy/shop.yaml": spec(registry, 3800) + "containres: {}\n"})
    host.until(lambda: conditions(host)["bad"] is not None)
    assert conditions(host)["bad"]["revision"] == broken
    shown = host.run("status").out
    assert broken[:12] in shown
    assert "containres" in shown
    assert {name: item["id"] for name, item in host.containers().items()} == {
        name: item["id"] for name, item in before.items()
    }
    assert runs(host, "sleep", "3700")

    upstream.commit({"deploy/shop.yaml": spec(registry, 3800)})
    host.until(lambda: runs(host, "sleep", "3800"))
    host.until(lambda: conditions(host)["bad"] is None)
    process.send_signal(signal.SIGTERM)
    assert host.finish(process).code == 143
    assert runs(host, "sleep", "3800")


def test_a_second_daemon_on_one_root_is_refused(
    host: Host, registry: RegistryServer, daemon: Callable[..., subprocess.Popen[str]]
) -> None:
    host.write(spec(registry))
    first = daemon(host.specs)
    assert "another daemon" in host.run("daemon", host.specs, code=5).err
    first.kill()
    host.finish(first)
    assert "ended without a word" in host.run("status").out
    pid = host.pid("shop/web")
    again = daemon(host.specs)
    assert host.pid("shop/web") == pid
    again.send_signal(signal.SIGINT)
    assert host.finish(again).code == 130
