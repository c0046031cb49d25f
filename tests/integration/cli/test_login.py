"""``login`` and ``logout`` against a registry that wants a password."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.testing.host import PROGRAM, Host
from reconciler.testing.registry_server import RegistryServer, running_registry

pytestmark = [pytest.mark.root, pytest.mark.skipif(shutil.which("htpasswd") is None, reason="needs htpasswd")]
PASSWORD = "pa:ss wörd"


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with running_registry(tmp_path_factory.mktemp("private"), users={"ci": PASSWORD}) as server:
        yield server


def login(host: Host, server: RegistryServer, password: str, code: int, path: str = os.defpath) -> str:
    """What the command printed."""
    words = ["login", server.host, "-u", "ci", "--password-stdin", "--plain-http"]
    result = subprocess.run(
        [PROGRAM, "--root", host.root, *words],
        input=f"{password}\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PATH": path, "HOME": str(host.place), "PYTHONUTF8": "1"},
    )
    printed = result.stdout + result.stderr
    assert result.returncode == code, printed
    assert password not in printed
    return printed


def stored(host: Host) -> Path:
    return host.place / ".docker" / "config.json"


def test_a_right_password_is_stored_and_used(host: Host, image: str, private: RegistryServer) -> None:
    stored(host).parent.mkdir()
    stored(host).write_text(json.dumps({"auths": {"other.example": {"auth": "eDp5"}}, "detachKeys": "ctrl-x"}))
    target = f"{private.host}/base:1"
    host.run("image", "tag", image, target)
    refused = host.run("image", "push", "--plain-http", target, code=1)
    assert f"reconciler login {private.host}" in refused.err

    login(host, private, PASSWORD, 0)
    document = json.loads(stored(host).read_text())
    assert set(document["auths"]) == {"other.example", private.host}
    assert document["detachKeys"] == "ctrl-x"
    assert stored(host).stat().st_mode & 0o777 == 0o600
    host.run("image", "push", "--plain-http", target)

    host.run("logout", private.host)
    assert set(json.loads(stored(host).read_text())["auths"]) == {"other.example"}
    assert private.host in host.run("logout", private.host, code=1).err


def test_a_wrong_password_is_refused_and_nothing_stored(host: Host, private: RegistryServer) -> None:
    assert "refused" in login(host, private, "wrong-password", 1)
    assert not stored(host).exists()


def test_a_login_that_cannot_be_one_is_refused_before_anybody_is_asked(host: Host, tmp_path: Path) -> None:
    def refused(user: str, given: bytes) -> str:
        words = ["login", "127.0.0.1:9", "-u", user, "--password-stdin", "--plain-http"]
        environment = {"HOME": str(tmp_path), "PYTHONUTF8": "1"}
        command = [PROGRAM, "--root", host.root, *words]
        result = subprocess.run(command, input=given, capture_output=True, check=False, timeout=60, env=environment)
        assert result.returncode == 1
        return result.stderr.decode()

    assert "the user name 'a:b' has a colon in it" in refused("a:b", b"x")
    assert "the password is not UTF-8 text" in refused("ci", b"\xff")
    assert "the password has more than 65536 characters" in refused("ci", b"x" * 70_000)


def test_without_a_terminal_the_password_comes_from_standard_input(host: Host, private: RegistryServer) -> None:
    assert "--password-stdin" in host.run("login", private.host, "-u", "ci", code=64).err


def test_on_a_terminal_the_user_name_is_asked_for_too(host: Host, private: RegistryServer) -> None:
    assert "--username" in host.run("login", private.host, code=64).err
    ours, theirs = pty.openpty()
    command = [PROGRAM, "--root", host.root, "login", "--plain-http", private.host]
    environment = {"PATH": os.defpath, "HOME": str(host.place), "PYTHONUTF8": "1"}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        for question, answer in ((b"Username: ", b"ci"), (b"Password: ", PASSWORD.encode())):
            while question not in shown:
                shown += os.read(ours, 4096)
            os.write(ours, answer + b"\n")
        while f"Login for {private.host} stored".encode() not in shown:
            shown += os.read(ours, 4096)
    os.close(ours)
    assert process.returncode == 0
    assert PASSWORD.encode() not in shown


KEEPER = """#!/bin/sh
input=$(cat)
case "$1" in
store) echo "$input" > "$HOME/kept" ;;
get) if [ -e "$HOME/kept" ]; then cat "$HOME/kept"; else echo "credentials not found in native keychain"; exit 1; fi ;;
erase) rm "$HOME/kept" ;;
esac
"""


def test_a_login_goes_into_the_helper_that_docker_uses(host: Host, private: RegistryServer) -> None:
    """The file says which; the password is then in the helper and nowhere else."""
    programs = host.place / "bin"
    programs.mkdir()
    (programs / "docker-credential-kept").write_text(KEEPER)
    (programs / "docker-credential-kept").chmod(0o755)
    stored(host).parent.mkdir(exist_ok=True)
    stored(host).write_text(json.dumps({"credsStore": "kept"}))
    path = f"{programs}:{os.defpath}"

    printed = login(host, private, PASSWORD, 0, path)
    assert "docker-credential-kept" in printed
    assert json.loads(stored(host).read_text()) == {"credsStore": "kept", "auths": {private.host: {}}}
    assert json.loads((host.place / "kept").read_text())["Secret"] == PASSWORD

    environment = {"PATH": path, "HOME": str(host.place), "PYTHONUTF8": "1"}
    words = [PROGRAM, "--root", host.root, "logout", private.host]
    subprocess.run(words, env=environment, check=True, capture_output=True, timeout=60)
    assert json.loads(stored(host).read_text()) == {"credsStore": "kept", "auths": {}}
    assert not (host.place / "kept").exists()
