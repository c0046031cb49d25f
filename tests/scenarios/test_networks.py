"""Who reaches whom, by name and by address."""

from __future__ import annotations

import subprocess

import pytest

from reconciler.testing.host import Host
from reconciler.testing.registry_server import RegistryServer

pytestmark = pytest.mark.root


def fetch(host: Host, name: str, peer: str) -> subprocess.CompletedProcess[str]:
    """What a container gets of another's web server, in at most a second."""
    result = host.run(
        "container", "exec", name, "timeout", "1", "wget", "-q", "-O", "-", f"http://{peer}/version", code=None
    )
    return subprocess.CompletedProcess([], result.code, result.out, result.err)


def test_peers_of_one_network_reach_each_other_and_those_of_another_do_not(
    host: Host, registry: RegistryServer
) -> None:
    server = 'command: [httpd, -f, -p, "80", -h, /]\n    stop_signal: SIGKILL\n'
    containers = "".join(
        f"  {name}:\n    image: {registry.host}/app:1\n    {server}    networks: [{networks}]\n"
        for name, networks in {"web": "front", "peer": "front", "db": "back", "both": "front, back"}.items()
    )
    host.declare(registry.host, f"networks: {{front: {{}}, back: {{}}}}\ncontainers:\n{containers}")
    host.apply()

    def address(name: str) -> str:
        shown = host.run("container", "exec", name, "hostname", "-i").out
        return shown.split()[0]

    host.until(lambda: fetch(host, "shop/peer", "web").stdout == "1\n")
    host.until(lambda: fetch(host, "shop/both", "db").stdout == "1\n")  # its server listens: what follows can fail
    assert fetch(host, "shop/both", "web").stdout == "1\n"
    for name, peer in [("shop/web", "db"), ("shop/web", address("shop/db")), ("shop/db", address("shop/web"))]:
        refused = fetch(host, name, peer)
        assert (refused.returncode != 0, refused.stdout) == (True, ""), (name, peer)


def test_a_replacement_inherits_its_anonymous_volume(host: Host, registry: RegistryServer) -> None:
    spec = """\
    containers:
      web:
        image: {app}
        command: [sh, -c, "cat /data/word; echo {word} >> /data/word; exec sleep 3600"]
        stop_signal: SIGKILL
        volumes: ["/data"]
    """
    app = f"{registry.host}/app:1"
    host.declare(registry.host, spec.format(app=app, word="first"))
    host.apply()
    host.until(lambda: "first" in host.run("container", "exec", "shop/web", "cat", "/data/word", code=None).out)
    before = host.container("shop/web")["id"]
    host.declare(registry.host, spec.format(app=app, word="second"))
    host.apply()
    assert host.container("shop/web")["id"] != before
    host.until(lambda: host.run("container", "exec", "shop/web", "cat", "/data/word").out == "first\nsecond\n")
    host.declare(registry.host, f"images: {{app: {app}}}")
    host.apply()
    assert list((host.root / "volumes/anonymous").iterdir()) == []
