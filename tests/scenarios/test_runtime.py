"""What becomes of programs, as declared containers: exit codes, entrypoints, memory, signals."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from reconciler.testing.host import Host
from reconciler.testing.images import busybox_archive, push_image
from reconciler.testing.registry_server import RegistryServer

pytestmark = pytest.mark.root


@pytest.fixture
def job(host: Host, registry: RegistryServer) -> Callable[..., str]:
    """Declares jobs, each by the lines of its spec, and gives what apply said."""

    def declare(code: int | None, **jobs: str) -> str:
        body = "containers:\n"
        for name, fields in jobs.items():
            lines = "".join(f"    {line.strip()}\n" for line in fields.format(host=registry.host).splitlines())
            body += f'  {name}:\n    restart: "no"\n{lines}'
        host.declare(registry.host, body)
        return host.apply(code=code).text

    return declare


def test_x01_exit_codes_are_recorded_once(host: Host, job: Callable[..., str]) -> None:
    job(
        None,
        good="image: {host}/app:1\ncommand: [sh, -c, exit 0]",
        bad="image: {host}/app:1\ncommand: [sh, -c, exit 3]",
    )
    assert host.ended("shop/good")["exit_code"] == 0
    assert host.ended("shop/bad")["exit_code"] == 3
    assert host.container("shop/bad")["run"] == 1


def test_x02_x04_x05_what_cannot_run_is_found_before_it_is_created(
    host: Host, registry: RegistryServer, job: Callable[..., str]
) -> None:
    # The header of an ELF file for machine 0x00f7 (BPF), which no host is.
    foreign = "\x7fELF\x02\x01\x01" + "\0" * 9 + "\x02\0\xf7\0\x01\0\0\0" + "\0" * 40
    files = {"bin/foreign": foreign, "bin/orphan": "#!/bin/no-such-interpreter\n"}
    layer = busybox_archive(files, executable=tuple(files))
    push_image(f"{registry.host}/broken:1", layer)
    said = job(
        4,
        absent="image: {host}/app:1\ncommand: [no-such-program]",
        orphan="image: {host}/broken:1\ncommand: [orphan]",
        foreign="image: {host}/broken:1\ncommand: [foreign]",
        mount="image: {host}/app:1\ncommand: [sh]\nvolumes: ['/no/such/directory:/data']",
    )
    assert "no-such-program" in said
    assert "no-such-interpreter" in said
    assert "exec format error" in said
    assert "/no/such/directory" in said
    assert host.containers() == {}
    assert list((host.root / "containers").iterdir()) == []


def test_x07_x08_memory_ran_out_or_somebody_killed_it(host: Host, registry: RegistryServer) -> None:
    host.declare(
        registry.host,
        f"""\
        containers:
          greedy:
            image: {registry.host}/app:1
            command: [sh, -c, "tail /dev/zero"]
            mem_limit: 16m
            restart: "no"
          modest:
            image: {registry.host}/app:1
            command: [sleep, "3600"]
        """,
    )
    host.apply(code=None)
    greedy = host.ended("shop/greedy")
    assert (greedy["exit_code"], greedy["oom"]) == (137, True)
    assert "out of memory" in host.run("status").out
    os.kill(host.pid("shop/modest"), signal.SIGKILL)
    host.until(lambda: not host.is_running("shop/modest"))
    modest = host.container("shop/modest")
    assert (modest["exit_code"], modest["oom"]) == (137, False)


@pytest.mark.parametrize(
    ("config", "fields", "printed"),
    [
        ({"Cmd": ["echo", "c"]}, "", "c\n"),
        ({"Entrypoint": ["echo", "e"]}, "", "e\n"),
        ({"Entrypoint": ["echo", "e"], "Cmd": ["c"]}, "", "e c\n"),
        ({"Entrypoint": ["echo", "e"], "Cmd": ["c"]}, "command: [d]", "e d\n"),
        ({"Entrypoint": ["echo", "e"], "Cmd": ["c"]}, "entrypoint: [echo, f]", "f\n"),
        ({"Entrypoint": ["echo", "e"], "Cmd": ["c"]}, "entrypoint: [echo, f]\ncommand: [d]", "f d\n"),
    ],
)
def test_x10_x11_command_and_entrypoint(
    host: Host,
    registry: RegistryServer,
    job: Callable[..., str],
    config: dict[str, list[str]],
    fields: str,
    printed: str,
) -> None:
    push_image(f"{registry.host}/entry:1", busybox_archive(), config)
    job(0, one="image: {host}/entry:1\n" + fields)
    assert host.output("shop/one") == printed
