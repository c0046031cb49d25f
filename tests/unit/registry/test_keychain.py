"""Credential helpers: small programs of the test's own, run as any other."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from reconciler.clock import ManualClock
from reconciler.errors import AuthError
from reconciler.registry.hosts import Credentials
from reconciler.registry.keychain import HUB_SERVER, Helpers

CANARY = "canary-8d1f"

KEEPER = """#!/bin/sh
# Keeps one file per server, as the protocol has it.
here=$(dirname "$0")
echo "$*" >> "$here/arguments"
env >> "$here/environment"
input=$(cat)
case "$1" in
store) name=$(echo "$input" | sed 's/.*"ServerURL": "\\([^"]*\\)".*/\\1/' | tr / _)
       echo "$input" > "$here/kept.$name" ;;
get) name=$(echo "$input" | tr / _)
     if [ -e "$here/kept.$name" ]; then cat "$here/kept.$name"
     else echo "credentials not found in native keychain"; exit 1; fi ;;
erase) name=$(echo "$input" | tr / _); rm "$here/kept.$name" ;;
esac
"""


def install(directory: Path, text: str, name: str = "test") -> Helpers:
    program = directory / f"docker-credential-{name}"
    program.write_text(text)
    program.chmod(0o755)
    return Helpers({"PATH": f"{directory}:/usr/bin:/bin"}, ManualClock(), seconds=5)


def test_store_get_and_erase(tmp_path):
    helpers = install(tmp_path, KEEPER)
    assert helpers.get("test", "a.io") is None
    helpers.store("test", "A.io", Credentials("ci", CANARY))
    assert helpers.get("test", "a.io") == Credentials("ci", CANARY)
    assert helpers.erase("test", "a.io") is True
    assert helpers.erase("test", "a.io") is False
    assert helpers.get("test", "a.io") is None
    assert CANARY not in (tmp_path / "arguments").read_text()
    assert CANARY not in (tmp_path / "environment").read_text()


def test_p19_the_hub_has_its_old_name_there(tmp_path):
    helpers = install(tmp_path, KEEPER)
    helpers.store("test", "docker.io", Credentials("ci", CANARY))
    assert json.loads((tmp_path / "kept.https:__index.docker.io_v1_").read_text())["ServerURL"] == HUB_SERVER
    assert helpers.get("test", "registry-1.docker.io") == Credentials("ci", CANARY)


def test_identity_tokens(tmp_path):
    helpers = install(tmp_path, KEEPER)
    helpers.store("test", "a.io", Credentials("", "", CANARY))
    assert json.loads((tmp_path / "kept.a.io").read_text())["Username"] == "<token>"
    assert helpers.get("test", "a.io") == Credentials("", "", CANARY)


def test_a_pull_of_many_layers_asks_once_in_a_while(tmp_path):
    helpers = install(tmp_path, KEEPER)
    helpers.store("test", "a.io", Credentials("ci", "one"))
    for _ in range(10):
        helpers.get("test", "a.io")
    assert (tmp_path / "arguments").read_text().split() == ["store", "get"]
    (tmp_path / "kept.a.io").write_text('{"Username": "ci", "Secret": "two"}')
    helpers._clock.advance(300)
    assert helpers.get("test", "a.io") == Credentials("ci", "two")


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", "-x", "x;y", "x\n", "é"])
def test_names_that_are_none(tmp_path, name):
    with pytest.raises(AuthError, match="no name of a credential helper"):
        install(tmp_path, KEEPER).get(name, "a.io")


def test_a_helper_that_is_missing(tmp_path):
    with pytest.raises(AuthError, match="docker-credential-other is not in PATH"):
        install(tmp_path, KEEPER).get("other", "a.io")


def living(group: str) -> list[str]:
    """The processes of a group that have not ended, whoever is to reap them."""
    listed = subprocess.run(["ps", "-A", "-o", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if line.split()[0] == group and not line.split()[1].startswith("Z")]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (f"echo {CANARY}; echo {CANARY} >&2; exit 3", "failed with code 3"),
        (f"echo {CANARY}", "no login"),
        (f'echo \'{{"Username": 7, "Secret": "{CANARY}"}}\'', "no login"),
        ("echo '[]'", "no login"),
        (f"yes {CANARY}", "failed with code -9"),
        (f"echo {CANARY} | tee /dev/stderr; sleep 1000", "did not end within"),
        (f"echo {CANARY}; sleep 1000 & exit 0", "did not end within"),
        ("exec >&-; sleep 1000", "did not end within"),
    ],
    ids=["fails", "no JSON", "no text", "no object", "endless", "hangs", "leaves a child", "closes its output"],
)
def test_a_helper_that_misbehaves_is_ended_and_not_quoted(tmp_path, script, words):
    helpers = install(tmp_path, f"#!/bin/sh\necho $$ > {tmp_path}/pid\n{script}\n")
    helpers._seconds = 0.3
    with pytest.raises(AuthError, match=words) as caught:
        helpers.get("test", "a.io")
    assert CANARY not in f"{caught.value} {caught.value.hint} {caught.value.__cause__}"
    group = (tmp_path / "pid").read_text().strip()
    assert any(not living(group) for _ in range(200)), "nothing that it started is left"


def test_a_helper_that_does_not_read_is_not_waited_for(tmp_path):
    helpers = install(tmp_path, "#!/bin/sh\nexit 0\n")
    helpers.store("test", "a.io", Credentials("ci", "x" * 30_000))
    with pytest.raises(AuthError, match="too long"):
        helpers.store("test", "a.io", Credentials("ci", "x" * 100_000))


def test_a_program_that_cannot_be_run(tmp_path):
    with pytest.raises(AuthError, match="cannot run docker-credential-test"):
        install(tmp_path, "#!/no/such/interpreter\n").get("test", "a.io")


def test_it_gets_the_environment_it_is_given_and_no_other(tmp_path):
    install(tmp_path, KEEPER).get("test", "a.io")
    seen = (tmp_path / "environment").read_text()
    assert "PYTEST_CURRENT_TEST" in os.environ
    assert "PYTEST_CURRENT_TEST" not in seen
