"""From declared registries to logins: what a spec names, what docker and podman keep, what a helper keeps for them."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from reconciler.engine.embedded.host_mirrors import host_mirrors
from reconciler.engine.embedded.registries import Surroundings, make_client, merged, recorded_facts
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


def test_a_password_file_and_a_variable(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text(f"{CANARY}\n")
    assert sent(Auth("ci", password_file=str(secret)), Surroundings()) == "ci"
    assert sent(Auth("cd", password_environment="PASS"), Surroundings({"PASS": CANARY})) == "cd"
