"""From declared registries to logins: what a spec names, what docker and podman keep, what a helper keeps for them."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from reconciler.engine.embedded.host_mirrors import host_mirrors
from reconciler.engine.embedded.registries import (
    Surroundings,
    make_client,
    merged,
    read_login_file,
    recorded_facts,
)
from reconciler.engine.port import HostFacts
from reconciler.errors import AuthError, HostError, RefusedError
from reconciler.model.address import Address
from reconciler.model.canonical import form
from reconciler.model.observed import ObservedFact
from reconciler.model.resources import Auth, Endpoint, Mirror, Registry
from reconciler.oci.reference import Reference
from reconciler.registry.from_host.places import Places
from reconciler.testing.scripted_registry import ScriptedRegistry, Step

CANARY = "canary-2f61"


def login(name: str) -> str:
    return base64.b64encode(f"{name}:{CANARY}".encode()).decode()


def helper(directory: Path, name: str) -> str:
    """A helper that knows one login; the PATH that finds it."""
    program = directory / f"docker-credential-{name}"
    program.write_text(f'#!/bin/sh\necho \'{{"Username": "{name}", "Secret": "{CANARY}"}}\'\n')
    program.chmod(0o755)
    return f"{directory}:/usr/bin:/bin"


def sent(auth: Auth | None, surroundings: Surroundings, repository: str = "app") -> str:
    """The user name that a registry got which asks for one."""
    with ScriptedRegistry() as registry:
        registry.on("HEAD ", Step(401, b"", {"WWW-Authenticate": "Basic realm=x"}), Step(404))
        facts = HostFacts((Registry(registry.host, plain_http=True, auth=auth),), ())
        files = []
        for path in surroundings.auth_files:
            path.write_text(path.read_text().replace("HOST", registry.host))
            files.append(path)
        with make_client(facts, surroundings) as client:
            client.tag_digest(Reference.parse(f"{registry.host}/{repository}:1"))
        header = registry.asked[-1].headers["authorization"]
    name, _, password = base64.b64decode(header.removeprefix("Basic ")).decode().partition(":")
    assert password == CANARY
    return name


def auth_file(directory: Path, **document: object) -> tuple[Path, ...]:
    path = directory / "auth.json"
    path.write_text(json.dumps(document))
    return (path,)


def test_a_spec_may_name_a_helper(tmp_path):
    path = helper(tmp_path, "declared")
    assert sent(Auth(helper="declared"), Surroundings({"PATH": path})) == "declared"


def test_a_helper_that_is_not_there_is_named(tmp_path):
    with pytest.raises(AuthError, match="docker-credential-absent is not in PATH"):
        sent(Auth(helper="absent"), Surroundings({"PATH": str(tmp_path)}))


def test_a_helper_without_the_login_is_no_way_in_for_nobody(tmp_path):
    path = helper(tmp_path, "empty")
    (tmp_path / "docker-credential-empty").write_text(
        "#!/bin/sh\necho credentials not found in native keychain\nexit 1\n"
    )
    with pytest.raises(AuthError, match="'empty' has no login for"):
        sent(Auth(helper="empty"), Surroundings({"PATH": path}))


def test_dockers_file_may_leave_it_to_a_helper(tmp_path):
    path = helper(tmp_path, "kept")
    files = auth_file(tmp_path, credHelpers={"HOST": "kept"})
    assert sent(None, Surroundings({"PATH": path}, auth_files=files)) == "kept"


@pytest.mark.parametrize(("repository", "name"), [("team/app", "team"), ("teams/app", "host")])
def test_podmans_file_may_have_a_login_per_namespace(tmp_path, repository, name):
    files = auth_file(tmp_path, auths={"HOST": {"auth": login("host")}, "HOST/team": {"auth": login("team")}})
    assert sent(None, Surroundings(auth_files=files), repository) == name


def test_p07_a_password_of_any_bytes_is_sent_as_it_is(tmp_path):
    secret = tmp_path / "password"
    secret.write_bytes(b"s3cret\xff\n")
    with ScriptedRegistry() as registry:
        registry.on("HEAD ", Step(401, b"", {"WWW-Authenticate": "Basic realm=x"}), Step(404))
        auth = Auth("ci", password_file=str(secret))
        facts = HostFacts((Registry(registry.host, plain_http=True, auth=auth),), ())
        with make_client(facts, Surroundings()) as client:
            client.tag_digest(Reference.parse(f"{registry.host}/app:1"))
        assert registry.asked[-1].headers["authorization"] == "Basic " + base64.b64encode(b"ci:s3cret\xff").decode()


def test_a_password_is_not_cut(tmp_path):
    secret = tmp_path / "password"
    secret.write_text("x" * 70_000)
    with pytest.raises(
        AuthError, match=r"the password file for 127.0.0.1:[0-9]+, .*password, has more than 65536 bytes"
    ):
        sent(Auth("ci", password_file=str(secret)), Surroundings())


def test_a_file_of_logins_that_cannot_be_one_is_named(tmp_path):
    binary, huge, fifo = (tmp_path / name for name in ("binary", "huge", "fifo"))
    binary.write_bytes(b"\xff")
    huge.write_bytes(b" " * (1024 * 1024 + 1))
    os.mkfifo(fifo)
    for path, why in ((binary, "is not UTF-8"), (huge, "has more than"), (fifo, "is no regular file")):
        with pytest.raises(AuthError, match=f"{path.name},? {why}"):
            read_login_file(path)
    assert read_login_file(tmp_path / "absent") is None
    assert read_login_file(Path("/dev/null")) is None


def test_a_password_file_and_a_variable(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text(f"{CANARY}\n")
    assert sent(Auth("ci", password_file=str(secret)), Surroundings()) == "ci"
    assert sent(Auth("cd", password_environment="PASS"), Surroundings({"PASS": CANARY})) == "cd"


FILE = "/etc/containers/registries.conf"
FROM_FILE = Mirror("a.io", (Endpoint("https://f"),), from_file=FILE)
DECLARED = Mirror("a.io", (Endpoint("https://d"),))


def mirrors(*found: Mirror, files_read: bool = False) -> HostFacts:
    return HostFacts((), found, files_read)


@pytest.mark.parametrize(
    ("declared", "recorded", "counts"),
    [
        (mirrors(FROM_FILE, files_read=True), mirrors(DECLARED), DECLARED),
        (mirrors(DECLARED), mirrors(FROM_FILE), DECLARED),
        (mirrors(), mirrors(FROM_FILE), FROM_FILE),
        (mirrors(files_read=True), mirrors(FROM_FILE), None),
        (mirrors(files_read=True), mirrors(DECLARED), DECLARED),
    ],
    ids=["declared elsewhere", "declared here", "said elsewhere", "not said any more", "declared, not said"],
)
def test_what_is_declared_counts_and_else_what_the_files_say_now(declared, recorded, counts):
    assert merged(declared, recorded).mirrors == (() if counts is None else (counts,))


def test_what_was_recorded_of_files_is_read_as_it_was():
    blocked, tls = Mirror("b.io", (), True, FILE), Registry("m.io", ca="/ca.pem", from_file=FILE)
    facts = {
        Address("mirror", "a.io"): ObservedFact(form(FROM_FILE), frozenset({"shop"})),
        Address("mirror", "b.io"): ObservedFact(form(blocked), frozenset({"shop"})),
        Address("registry", "m.io"): ObservedFact(form(tls), frozenset({"shop"})),
    }
    assert recorded_facts(facts) == HostFacts((tls,), (FROM_FILE, blocked))


def test_nobody_asks_a_registry_that_a_file_blocks():
    facts = mirrors(Mirror("b.io", (), True, FILE))
    with (
        make_client(facts, Surroundings()) as client,
        pytest.raises(RefusedError, match=f"^b.io is blocked by {FILE}$"),
    ):
        client.resolve(Reference.parse("b.io/app:1"))


def test_a_file_that_is_wrong_is_the_hosts_fault(tmp_path):
    places = Places(tmp_path / "registries.conf", tmp_path, tmp_path / "daemon.json")
    places.daemon_json.write_text("[")
    with pytest.raises(HostError, match=r"daemon\.json is no JSON") as caught:
        host_mirrors(places)
    assert "from_host" in caught.value.hint
