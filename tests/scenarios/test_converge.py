"""What an apply does and does not do: nothing twice, nothing it was not asked for, the rest when a part fails."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.testing.host import Host
from reconciler.testing.registry_server import RegistryServer

pytestmark = pytest.mark.root

_SLEEP = 'command: [sleep, "3600"]\n    stop_signal: SIGKILL'


@pytest.fixture
def app(registry: RegistryServer) -> str:
    return f"{registry.host}/app"


def listing(root: Path) -> dict[Path, tuple[int, int, int]]:
    found = {}
    for path in root.rglob("*"):
        status = path.lstat()
        found[path] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


def test_g20_a_second_apply_does_nothing_and_writes_nothing(host: Host, registry: RegistryServer, app: str) -> None:
    host.declare(
        registry.host,
        f"""\
        images: {{app: {app}:1}}
        tags: {{shop.example/app:live: app}}
        volumes: {{data: {{}}}}
        containers:
          web:
            image: app
            volumes: ["data:/data"]
            {_SLEEP.replace("    ", "            ")}
          job:
            image: app
            command: ["true"]
            restart: "no"
        """,
    )
    host.apply()
    before, pid = listing(host.root), host.pid("shop/web")
    again = host.apply()
    assert "No changes" in again.out
    assert listing(host.root) == before
    assert (host.pid("shop/web"), host.container("shop/web")["run"]) == (pid, 1)
    assert host.container("shop/job")["run"] == 1


def test_g22_an_image_that_cannot_be_pulled_holds_up_nothing_else(
    host: Host, registry: RegistryServer, app: str
) -> None:
    spec = """\
    containers:
      one:
        image: {one}
        {sleep}
      two:
        image: {two}
        {sleep}
    """.replace("{sleep}", _SLEEP.replace("    ", "        "))
    host.declare(registry.host, spec.format(one=f"{app}:1", two=f"{app}:1"))
    host.apply()
    pid = host.pid("shop/one")
    host.declare(registry.host, spec.format(one=f"{app}:no-such-tag", two=f"{app}:2"))
    result = host.apply(code=4)
    assert "no-such-tag" in result.text
    assert host.pid("shop/one") == pid
    assert host.container("shop/two")["image"] != host.container("shop/one")["image"]
    host.declare(registry.host, spec.format(one="127.0.0.1:9/app:1", two=f"{app}:2"))
    result = host.apply(code=1)
    assert "127.0.0.1:9" in result.text
    assert host.pid("shop/one") == pid


def test_a_replacement_that_cannot_run_leaves_the_old_one_running(
    host: Host, registry: RegistryServer, app: str
) -> None:
    host.declare(registry.host, f"containers:\n  web:\n    image: {app}:1\n    {_SLEEP}\n")
    host.apply()
    pid = host.pid("shop/web")
    host.declare(
        registry.host,
        f"""\
        containers:
          other:
            image: {app}:1
            {_SLEEP.replace("    ", "            ")}
          web:
            image: {app}:1
            command: [no-such-program]
        """,
    )
    result = host.apply(code=4)
    assert "no-such-program" in result.err
    assert host.pid("shop/web") == pid
    assert host.is_running("shop/other")
    assert len(list((host.root / "containers").iterdir())) == 2


def test_n01_a_replacement_whose_port_somebody_holds_leaves_the_old_one_running(
    host: Host, registry: RegistryServer, app: str
) -> None:
    host.declare(registry.host, f"containers:\n  web:\n    image: {app}:1\n    {_SLEEP}\n")
    host.apply()
    pid = host.pid("shop/web")
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        published = f'    ports: ["127.0.0.1:{port}:80"]'
        host.declare(registry.host, f"containers:\n  web:\n    image: {app}:1\n    {_SLEEP}\n{published}\n")
        result = host.apply(code=1)
    assert f"port {port}/tcp of this host is in use by" in result.err
    assert host.pid("shop/web") == pid


def test_a_changed_command_replaces_the_container_and_nothing_else(
    host: Host, registry: RegistryServer, app: str
) -> None:
    spec = f"""\
    containers:
      web:
        image: {app}:1
        command: [sleep, "SECONDS"]
        stop_signal: SIGKILL
      other:
        image: {app}:1
        {_SLEEP.replace("    ", "        ")}
    """
    host.declare(registry.host, spec.replace("SECONDS", "3600"))
    host.apply()
    before = host.containers()
    host.declare(registry.host, spec.replace("SECONDS", "3700"))
    (change,) = host.plan()["changes"]
    assert change["address"] == "container/shop/web"
    assert change["cost"]["discarded_bytes"] > 0
    host.apply()
    after = host.containers()
    assert after["shop/web"]["id"] != before["shop/web"]["id"]
    assert after["shop/other"] == before["shop/other"]
    assert sorted(host.processes().values()) == [["sleep", "3600"], ["sleep", "3700"]]


def test_a_container_that_died_is_started_by_the_next_apply(host: Host, registry: RegistryServer, app: str) -> None:
    host.declare(registry.host, f"containers:\n  web:\n    image: {app}:1\n    {_SLEEP}\n")
    host.apply()
    before = host.container("shop/web")
    os.kill(host.pid("shop/web"), signal.SIGKILL)
    host.until(lambda: not host.is_running("shop/web"))
    assert "No daemon runs" in host.run("status").out
    assert host.changes() == [("container/shop/web", ["start"])]
    host.apply()
    after = host.container("shop/web")
    assert (after["id"], after["run"], after["status"]) == (before["id"], 2, "running")


def test_a_failed_job_exits_4_and_runs_once_more_when_asked_again(
    host: Host, registry: RegistryServer, app: str
) -> None:
    host.declare(
        registry.host,
        f"""\
        containers:
          job:
            image: {app}:1
            command: [test, -e, /specs/allowed]
            volumes: ["./:/specs:ro"]
            restart: "no"
          after:
            image: {app}:1
            command: ["true"]
            restart: "no"
            depends_on: {{job: {{condition: service_completed_successfully}}}}
        """,
    )
    assert "shop/job" in host.apply(code=4).err
    assert (host.container("shop/job")["exit_code"], host.container("shop/job")["run"]) == (1, 1)
    host.apply(code=4)
    assert host.container("shop/job")["run"] == 2
    assert "shop/after" not in host.containers()
    (host.specs / "allowed").touch()
    host.apply()
    assert (host.container("shop/job")["exit_code"], host.container("shop/job")["run"]) == (0, 3)
    assert host.is_converged()


def test_g12_specs_that_declare_nothing_remove_nothing(host: Host, registry: RegistryServer, app: str) -> None:
    path = host.declare(registry.host, f"containers:\n  web:\n    image: {app}:1\n    {_SLEEP}\n")
    host.apply()
    path.write_text("apiVersion: reconciler/v1\nstack: shop\n")
    assert "--allow-empty" in host.apply(code=7).err
    assert host.is_running("shop/web")
    host.apply("--allow-empty")
    assert host.containers() == {}


def test_g14_many_deletions_need_a_word(host: Host, registry: RegistryServer, app: str) -> None:
    names = [f"shop.example/app:{number}" for number in range(8)]
    tags = "".join(f"  {name}: app\n" for name in names)
    host.declare(registry.host, f"images: {{app: {app}:1}}\ntags:\n{tags}")
    host.apply()
    host.declare(registry.host, f"images: {{app: {app}:1}}\n")
    assert "--max-deletes" in host.apply(code=7).err
    refused = host.run("plan", host.specs, code=7)
    assert "--max-deletes" in refused.err
    assert "8 to delete" in refused.out
    assert len(host.plan("--max-deletes", "8")["changes"]) == 8
    host.apply("--max-deletes", "8")
    assert host.is_converged()


def test_g16_a_volume_that_leaves_the_specs_keeps_its_data(host: Host, registry: RegistryServer, app: str) -> None:
    spec = f"""\
    volumes: {{data: {{}}}}
    containers:
      writer:
        image: {app}:1
        command: [sh, -c, "cat /data/word || echo first > /data/word"]
        volumes: ["data:/data"]
        restart: "no"
    """
    host.declare(registry.host, spec)
    host.apply()
    host.declare(registry.host, f"images: {{app: {app}:1}}")
    host.apply()
    assert host.is_converged()
    host.declare(registry.host, spec)
    host.apply()
    assert host.output("shop/writer") == "first\n"
    host.declare(registry.host, f"images: {{app: {app}:1}}")
    host.apply("--delete-volumes")
    host.declare(registry.host, spec)
    host.apply()
    assert host.output("shop/writer") == "cat: can't open '/data/word': No such file or directory\n"


def test_two_roots_on_one_machine_do_not_meet(
    make_host: Callable[[str], Host], registry: RegistryServer, app: str
) -> None:
    one, two = make_host("one"), make_host("two")
    for host in (one, two):
        host.declare(
            registry.host,
            f"""\
            networks: {{front: {{}}}}
            containers:
              web:
                image: {app}:1
                command: [httpd, -f, -p, "80", -h, /]
                stop_signal: SIGKILL
                networks: [front]
              client:
                image: {app}:1
                command: [sh, -c, "until wget -q -O - http://web/version; do sleep 0.1; done"]
                restart: "no"
                networks: [front]
                depends_on: [web]
            """,
        )
    applying = [host.start("apply", host.specs, "--yes") for host in (one, two)]
    assert [host.finish(apply).code for host, apply in zip((one, two), applying, strict=True)] == [0, 0]
    assert one.output("shop/client") == two.output("shop/client") == "1\n"
    pid = one.pid("shop/web")
    two.run("destroy", "--all", "--yes")
    assert two.traces() == []
    assert one.pid("shop/web") == pid
    assert one.is_converged()


def test_a_pull_does_not_move_a_tag_that_another_stack_declares(host: Host, registry: RegistryServer, app: str) -> None:
    tags = host.declare(registry.host, f"images: {{two: {app}:2}}\ntags: {{'{app}:1': two}}\n", stack="tags")
    pulls = host.declare(registry.host, f"images: {{one: {{pull: '{app}:1', pull_policy: always}}}}\n", stack="pulls")
    host.run("apply", tags, "--yes")
    tagged = host.run("image", "inspect", f"{app}:1").json[0]["Id"]
    host.run("apply", pulls, "--yes")
    assert host.run("image", "inspect", f"{app}:1").json[0]["Id"] == tagged
    assert host.run("image", "inspect", "pulls/one").json[0]["Id"] != tagged
    assert host.is_converged()


def test_a_stack_leaves_another_alone(host: Host, registry: RegistryServer, app: str) -> None:
    body = f"containers:\n  web:\n    image: {app}:1\n    {_SLEEP}\n"
    one, two = host.declare(registry.host, body, stack="one"), host.declare(registry.host, body, stack="two")
    host.run("apply", one, "--yes")
    host.run("apply", two, "--yes")
    pid = host.pid("two/web")
    host.run("destroy", "one", "--yes")
    assert set(host.containers()) == {"two/web"}
    assert host.pid("two/web") == pid
