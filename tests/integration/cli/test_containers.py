"""Containers by hand, as a person at a terminal uses them."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from fcntl import ioctl

import pytest

from reconciler.testing.host import PROGRAM, Host
from reconciler.testing.registry_server import RegistryServer

pytestmark = pytest.mark.root


def test_run_pulls_what_is_missing_and_streams(host: Host, registry: RegistryServer) -> None:
    result = host.run(
        "container", "run", "--rm", "--plain-http", f"{registry.host}/base:1", "sh", "-c", "echo out; echo err >&2"
    )
    assert result.out == "out\n"
    assert "err\n" in result.err
    assert "Pull complete" in result.err
    assert host.run("container", "ls", "-aq").out == ""


def test_x01_the_exit_code_is_the_containers_own(host: Host, image: str) -> None:
    assert host.run("container", "run", "--rm", image, "true").code == 0
    host.run("container", "run", "--name", "three", image, "sh", "-c", "exit 3", code=3)
    listed = host.run("container", "ls", "-a", "-o", "json").json
    assert [(item["name"], item["exit_code"]) for item in listed] == [("three", 3)]
    assert "Exited (3)" in host.run("container", "ls", "-a").out


def test_x02_what_we_cannot_create_exits_125(host: Host, image: str) -> None:
    missing = host.run("container", "run", "--pull", "never", "no/such:1", "true", code=125)
    assert "image ls" in missing.err
    mount = host.run("container", "run", "-v", f"{host.place}/absent:/data", image, "true", code=125)
    assert "mkdir" in mount.err
    assert host.run("container", "ls", "-aq").out == ""


def test_x04_a_missing_program_exits_127(host: Host, image: str) -> None:
    assert "no-such" in host.run("container", "run", image, "no-such", code=127).err
    assert host.run("container", "ls", "-aq").out == ""


def test_x05_a_program_for_another_machine_exits_126(host: Host, registry: RegistryServer) -> None:
    image = f"{registry.host}/base:alien"
    copied = "cp /alien /bin/alien; chmod 755 /bin/alien"
    host.run("container", "run", "--plain-http", "--name", "maker", image, "sh", "-c", copied)
    host.run("container", "commit", "maker", "alien:1")
    assert "exec format error" in host.run("container", "run", "alien:1", "alien", code=126).err


def test_every_byte_of_a_flood_arrives(host: Host, image: str) -> None:
    result = host.run("container", "run", "--rm", image, "sh", "-c", "seq 1 50000")
    assert result.out.splitlines() == [str(number) for number in range(1, 50001)]


def test_the_life_of_a_detached_container(host: Host, image: str) -> None:
    container_id = host.run("container", "run", "-d", image, "sleep", "1000").out.strip()
    (seen,) = host.run("container", "ls", "-o", "json").json
    assert seen["id"] == container_id
    assert re.fullmatch(r"[a-z]+_[a-z]+", seen["name"])
    assert seen["image"] == image

    assert host.run("container", "stop", "-t", "0", container_id[:6]).out == seen["name"] + "\n"
    assert host.run("container", "ls", "-q").out == ""
    assert host.run("container", "wait", seen["name"]).out == "137\n"
    host.run("container", "start", seen["name"])
    refused = host.run("container", "rm", seen["name"], code=1)
    assert "--force" in refused.err
    host.run("container", "rm", "-f", seen["name"])
    assert host.run("container", "ls", "-aq").out == ""


def test_who_forces_a_removal_does_not_wait_for_the_grace_period(host: Host, image: str) -> None:
    # Process 1 without a handler ignores SIGTERM (case X13): only a kill ends it before ten minutes are over.
    host.run("container", "run", "-d", "--name", "deaf", "--stop-timeout", "600", image, "sleep", "1000")
    assert host.run("container", "rm", "-f", "deaf").out == "deaf\n"


def test_what_a_container_wrote_is_there_when_it_starts_again(host: Host, image: str) -> None:
    host.run("container", "run", "--name", "keeper", image, "sh", "-c", "cat /seen 2>/dev/null; echo once > /seen")
    assert host.run("container", "start", "-a", "keeper").out == "once\n"


def test_names_win_over_ids_and_prefixes_must_be_unique(host: Host, image: str) -> None:
    first = host.run("container", "run", "-d", image, "sleep", "1000").out.strip()
    host.run("container", "run", "--name", first[:3], image, "true")
    (seen,) = host.run("container", "inspect", first[:3]).json
    assert seen["Name"] == first[:3]
    assert "ls" in host.run("container", "inspect", "absent", code=1).err
    assert "taken" in host.run("container", "run", "--name", first[:3], image, "true", code=125).err


def test_logs_give_each_stream_and_the_last_lines(host: Host, image: str) -> None:
    host.run("container", "run", "--name", "talker", image, "sh", "-c", "seq 1 5; echo oops >&2")
    logs = host.run("container", "logs", "talker")
    assert (logs.out, logs.err) == ("1\n2\n3\n4\n5\n", "oops\n")
    tail = host.run("container", "logs", "--tail", "2", "talker")
    assert (tail.out, tail.err) == ("5\n", "oops\n")
    assert re.match(r"\d{4}-\d\d-\d\dT\S+ 1\n", host.run("container", "logs", "-t", "talker").out)
    assert host.run("container", "logs", "--since", "2999-01-01", "talker").out == ""
    assert host.run("container", "logs", "--since", "10m", "talker").out != ""


def test_following_a_log_ends_with_the_container(host: Host, image: str) -> None:
    host.run("container", "run", "-d", "-i", "--name", "slow", image, "sh", "-c", "echo one; sleep 0.3; echo two")
    assert host.run("container", "logs", "-f", "slow").out == "one\ntwo\n"


def test_x50_exec_runs_as_the_container_does(host: Host, image: str) -> None:
    options = ("-e", "COLOR=red", "-w", "/var", "-u", "0")
    host.run("container", "run", "-d", *options, "--name", "web", image, "sleep", "1000")
    inside = host.run("container", "exec", "-e", "SIZE=3", "web", "sh", "-c", "echo $COLOR $SIZE; pwd; exit 4", code=4)
    assert inside.out == "red 3\n/var\n"
    host.run("container", "exec", "web", "no-such", code=127)
    host.run("container", "stop", "-t", "0", "web")
    stopped = host.run("container", "exec", "web", "true", code=126)
    assert "container start web" in stopped.err


def test_standard_input_is_passed_on_to_its_end(host: Host, image: str) -> None:
    command = [PROGRAM, "--root", host.root, "container", "run", "--rm", "-i", image, "cat"]
    result = subprocess.run(command, input="typed\n", capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout == "typed\n"


def test_signals_reach_the_container(host: Host, image: str) -> None:
    script = "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    process = host.start("container", "run", "--name", "trapper", image, "sh", "-c", script)
    host.until(lambda: "ready" in host.run("container", "logs", "trapper", code=None).out)
    process.send_signal(signal.SIGTERM)
    result = host.finish(process)
    assert (result.code, result.out) == (9, "ready\ncaught\n")


def test_committing_by_hand_takes_the_containers_own_config(host: Host, image: str) -> None:
    script = ("sh", "-c", "echo hello docker > /message.txt")
    host.run("container", "run", "--name", "writer", "-e", "A=1", "-w", "/var", "-l", "k=v", image, *script)
    digest = host.run("container", "commit", "-a", "Jordan Bach", "-m", "saved", "writer", "message:1").out.strip()
    assert host.run("container", "commit", "-a", "Jordan Bach", "-m", "saved", "writer").out.strip() == digest

    (seen,) = host.run("image", "inspect", "message:1").json
    assert seen["Id"] == digest
    assert seen["Author"] == "Jordan Bach"
    assert "A=1" in seen["Config"]["Env"]
    assert seen["Config"]["Cmd"] == list(script)
    assert seen["Config"]["WorkingDir"] == "/var"
    assert seen["Config"]["Labels"] == {"k": "v"}
    history = host.run("image", "history", "message:1", "-o", "json").json
    base = host.run("image", "history", image, "-o", "json").json
    assert len(history) == len(base) + 1
    assert (history[0]["author"], history[0]["comment"]) == ("Jordan Bach", "saved")
    assert host.run("container", "run", "--rm", "message:1", "cat", "/message.txt").out == "hello docker\n"


def test_a_published_port_answers_and_is_listed(host: Host, image: str) -> None:
    server = "mkdir /www; echo hi > /www/index.html; httpd -f -p 80 -h /www"
    host.run("container", "run", "-d", "--name", "web", "-p", "127.0.0.1::80", image, "sh", "-c", server)
    (seen,) = host.run("container", "inspect", "web").json
    ((binding,),) = seen["NetworkSettings"]["Ports"].values()
    assert f"127.0.0.1:{binding['HostPort']}->80/tcp" in host.run("container", "ls").out
    peer = ("container", "run", "--rm", image, "wget", "-qO-", "http://web/")
    host.until(lambda: host.run(*peer, code=None).out == "hi\n")


def test_binds_and_volumes(host: Host, image: str) -> None:
    (host.place / "shared").mkdir()
    bind = f"{host.place}/shared:/shared"
    host.run(
        "container", "run", "--rm", "-v", bind, "-v", "data:/data", image, "sh", "-c", "echo 1 | tee /shared/a /data/b"
    )
    assert (host.place / "shared" / "a").read_text() == "1\n"
    assert host.run("container", "run", "--rm", "-v", "data:/other", image, "cat", "/other/b").out == "1\n"
    read_only = host.run("container", "run", "--rm", "-v", f"{bind}:ro", image, "touch", "/shared/c", code=1)
    assert "Read-only" in read_only.err


def test_the_network_of_containers_run_by_hand_stays_as_long_as_one_of_them(host: Host, image: str) -> None:
    host.run("container", "run", "-d", "--name", "mine", image, "sleep", "1000")
    bridge = [path for path in host.traces() if path.startswith("link ")]
    host.run("destroy", "--all", "--yes")
    assert [path for path in host.traces() if path.startswith("link ")] == bridge
    assert list(host.processes().values()) == [["sleep", "1000"]]
    host.run("container", "rm", "-f", "mine")
    host.run("destroy", "--all", "--yes")
    assert host.traces() == []


def test_without_a_network_there_is_loopback_alone(host: Host, image: str) -> None:
    result = host.run("container", "run", "--rm", "--network", "none", image, "ls", "/sys/class/net")
    assert result.out == "lo\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("-p", "80:80:80:80"),
        ("-p", "8080:80/icmp"),
        ("--memory", "1k"),
        ("--restart", "sometimes"),
        ("-v", "a:b"),
        ("--network", "absent"),
        ("--name", "a/b"),
    ],
)
def test_a_wrong_argument_makes_nothing(host: Host, image: str, arguments: tuple[str, str]) -> None:
    result = host.run("container", "run", *arguments, image, "true", code=None)
    assert result.code in (64, 125)
    assert result.err.startswith("error: ")
    assert host.run("container", "ls", "-aq").out == ""


def test_x10_a_terminal_of_the_right_size_that_takes_control_characters(host: Host, image: str) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(PROGRAM, [str(PROGRAM), "--root", str(host.root), "container", "run", "--rm", "-it", image, "sh"])
    try:
        ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
        _until(terminal, lambda seen: b"# " in seen)
        os.write(terminal, b"stty size; echo $((40+2))\n")
        assert b"33 101\r\n42\r\n" in _until(terminal, lambda seen: b"42\r\n" in seen)
        os.write(terminal, b"echo $((50+1)); sleep 1000\n")
        _until(terminal, lambda seen: b"51\r\n" in seen)
        host.until(lambda: ["sleep", "1000"] in host.processes().values())  # before that, the shell gets the character
        os.write(terminal, b"\x03")
        _until(terminal, lambda seen: b"# " in seen)
        os.write(terminal, b"exit 7\n")
        _until(terminal, lambda _seen: False)
    finally:
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 7


def _until(terminal: int, enough: Callable[[bytes], bool]) -> bytes:
    """What comes from the terminal until it is ``enough`` or the terminal is closed."""
    seen = b""
    deadline = time.monotonic() + 20
    while not enough(seen):
        assert time.monotonic() < deadline, seen
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                seen += os.read(terminal, 4096)
            except OSError:  # Linux gives EIO once the other side is closed
                break
    return seen


SPEC = """
    apiVersion: reconciler/v1
    stack: shop
    registries: {%s: {plain_http: true}}
    images: {base: %s}
    containers:
      web:
        image: base
        command: [sleep, "1000"]
        secrets: [key]
        environment: {TOKEN: "${TOKEN}", PLAIN: seen}
    secrets: {key: {environment: TOKEN}}
"""


def test_declared_containers_are_named_as_such_and_keep_their_secrets(host: Host, registry: RegistryServer) -> None:
    host.environment["TOKEN"] = "s3cret-token"
    host.write(SPEC % (registry.host, f"{registry.host}/base:1"))
    host.apply("--env", "TOKEN")
    inspected = host.run("container", "inspect", "web")
    assert "s3cret-token" not in inspected.text
    assert "TOKEN=(sensitive)" in inspected.json[0]["Config"]["Env"]
    assert "PLAIN=seen" in inspected.json[0]["Config"]["Env"]

    stopped = host.run("container", "stop", "-t", "0", "web")
    assert stopped.out == "shop/web\n"
    assert "state: stopped" in stopped.err
    host.run("container", "commit", "web", "copy:1")
    assert "s3cret-token" not in host.run("image", "inspect", "copy:1").text
    assert "PLAIN=seen" in host.run("image", "inspect", "copy:1").json[0]["Config"]["Env"]
    assert "next apply" in host.run("container", "rm", "web").err
    assert json.loads(host.run("container", "ls", "-a", "-o", "json").out) == []
