"""Secrets are looked for in all that is printed and kept, from each place that a secret may stand in."""

from __future__ import annotations

import base64
import gzip
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from reconciler.oci import media
from reconciler.oci.digest import Digest
from reconciler.oci.platform import Platform
from reconciler.testing.host import PROGRAM, Host
from reconciler.testing.images import archive, entry
from reconciler.testing.recorded import Asked
from reconciler.testing.registry_server import RegistryServer
from reconciler.testing.scripted_registry import ScriptedRegistry, Step
from reconciler.testing.served_registry import ServedRegistry

pytestmark = pytest.mark.root

REFUSALS = (401, 403, 404, 500)


def canary(place: str) -> str:
    """The secret of one place, like no other text."""
    return f"canary-{place}-7f3a9d"


def shapes(place: str) -> tuple[bytes, ...]:
    """The texts by which it would be recognised: as it is, in hexadecimal, and wherever in base64."""
    secret = canary(place).encode()
    found = [secret, secret.hex().encode()]
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + secret)
        inner = encoded[(before * 8 + 5) // 6 : -4]
        found += [inner, inner.translate(bytes.maketrans(b"+/", b"-_"))]
    return tuple(dict.fromkeys(found))


def basic(name: str, place: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{canary(place)}".encode()).decode()


class Guarded(ServedRegistry):
    """A registry for one login, that says whatever it was told to whomever it refuses.

    Of a repository whose name begins with ``broken-NNN`` it refuses everything with that status, also where the login
    is right. With ``storage`` blobs are there, at addresses that are good for whoever knows them.
    """

    def __init__(self, accepts: str, realm: str = "", storage: str = "") -> None:
        super().__init__()
        self._accepts = accepts
        self._challenge = f'Bearer realm="{realm}/token",service="guarded"' if realm else 'Basic realm="guarded"'
        self._storage = storage
        self.let_in = 0

    def answer(self, asked: Asked) -> Step:
        if (scripted := self.scripted(asked)) is not None:
            return scripted
        if asked.headers.get("authorization") != self._accepts:
            return self._refuse(401, asked)
        self.let_in += 1
        path = asked.line.split(" ")[1]
        if path.startswith("/v2/broken-"):
            return self._refuse(int(path[11:14]), asked)
        if self._storage and asked.line.startswith("GET ") and "/blobs/sha256:" in path:
            name = path.rpartition("/")[2]
            return Step(307, b"", {"Location": f"{self._storage}/{name}?signature={canary('signed')}"})
        return self._answer(asked)

    def _refuse(self, status: int, asked: Asked) -> Step:
        headers = [("WWW-Authenticate", self._challenge)] if status == 401 else [("Retry-After", "0")]
        return Step(status, _echo(asked), headers)

    def runnable(self, name: str, tag: str, data: bytes) -> Digest:
        """Puts an image with one file."""
        layer = archive([entry("file", data)])
        here = Platform.host()
        config = {"os": here.os, "architecture": here.architecture, "rootfs": {"type": "layers"}}
        config["rootfs"]["diff_ids"] = [str(Digest.of(gzip.decompress(layer)))]  # type: ignore[index]
        document = {
            "schemaVersion": 2,
            "mediaType": media.OCI_MANIFEST,
            "config": self.blob(name, json.dumps(config).encode()) | {"mediaType": media.OCI_CONFIG},
            "layers": [self.blob(name, layer)],
        }
        return self.put(name, document, tag)


class Storage(ScriptedRegistry):
    """Hands out the blobs of ``source`` by signed addresses, and refuses every other one with the address."""

    source: ServedRegistry

    def answer(self, asked: Asked) -> Step:
        self.scripted(asked)
        digest = Digest(asked.line.split(" ")[1].partition("?")[0].strip("/"))
        held = [blobs[digest] for blobs in self.source.blobs.values() if digest in blobs]
        if len(self.asked) % 2:
            return Step(403, _echo(asked))
        return Step(200, held[0])


class Tokens(ScriptedRegistry):
    """A token server: a password gives one token, an identity token another, and a new identity token with it."""

    def answer(self, asked: Asked) -> Step:
        self.scripted(asked)
        if asked.headers.get("authorization") == basic("env", "variable"):
            return Step(200, json.dumps({"token": canary("bearer")}).encode())
        if f"refresh_token={canary('identity')}".encode() in asked.body:
            return Step(200, json.dumps({"token": canary("access"), "refresh_token": canary("refresh")}).encode())
        return Step(401, _echo(asked))


def _echo(asked: Asked) -> bytes:
    """All that a request said, as text where it stands in base64."""
    proof = asked.headers.get("authorization", "none")
    plain = base64.b64decode(proof[6:]).decode() if proof.startswith("Basic ") else ""
    told = f"{proof} {plain} {asked.line} {asked.body[:500].decode('latin-1')}"
    return json.dumps({"errors": [{"code": "DENIED", "message": told}]}).encode()


HELPER = f"""#!/bin/sh
[ "$1" = get ] && echo '{{"Username": "helped", "Secret": "{canary("helper")}"}}'
"""


BROKEN = """\
import reconciler.registry.auth as auth

def answer(self, endpoint, scope, challenges, refused):
    credentials = self._credentials(endpoint.credential_name, scope)
    raise RuntimeError("broken in the middle of a login")

auth.Authenticator._answer = answer
"""
"""Makes the program fail where it holds a login, in a way that nobody thought of."""


class World:
    """Registries with a login each, and a host that has one canary in each place where such a login may stand."""

    def __init__(self, host: Host, stack: ExitStack) -> None:
        self.host = host
        self.tokens = stack.enter_context(Tokens())
        self.storage = stack.enter_context(Storage())

        def guarded(accepts: str, realm: str = "", storage: str = "") -> Guarded:
            server = stack.enter_context(Guarded(accepts, realm, storage))
            server.runnable("app", "1", server.host.encode())
            return server

        self.filed = guarded(basic("file", "file"), storage=self.storage.url)
        self.variable = guarded(f"Bearer {canary('bearer')}", self.tokens.url)
        self.helped = guarded(basic("helped", "helper"))
        self.configured = guarded(basic("docker", "config"))
        self.identified = guarded(f"Bearer {canary('access')}", self.tokens.url)
        self.logged_in = guarded(basic("login", "stdin"))
        self.mirror = guarded(basic("mirror", "mirror"))
        self.guarded = [
            self.filed, self.variable, self.helped, self.configured, self.identified, self.logged_in, self.mirror
        ]  # fmt: skip
        self.storage.source = self.filed
        self.inputs = self._write_inputs()

    def _write_inputs(self) -> set[Path]:
        """Puts the canaries where they belong; the files that hold one."""
        place = self.host.place
        programs, docker = place / "bin", place / ".docker" / "config.json"
        mirrors = place / "certs.d" / self.helped.host / "hosts.toml"
        for directory in (programs, docker.parent, mirrors.parent, place / "broken"):
            directory.mkdir(parents=True)
        self.host.root.mkdir(mode=0o700)
        (self.host.root / "host.yaml").write_text(f"certs_d: {place}/certs.d\n")
        (place / "broken" / "sitecustomize.py").write_text(BROKEN)
        files = {
            place / "password": canary("file"),
            place / "mirror-password": canary("mirror"),
            place / "word": canary("secret"),
            programs / "docker-credential-canary": HELPER,
            mirrors: f'[host."{self.mirror.url}".header]\nAuthorization = "{basic("mirror", "header")}"\n',
            docker: json.dumps(
                {
                    "auths": {
                        self.configured.host: {"auth": basic("docker", "config")[6:]},
                        self.identified.host: {"auth": "eDp5", "identitytoken": canary("identity")},
                    }
                }
            ),
        }
        for path, text in files.items():
            path.write_text(text)
            path.chmod(0o700 if path.parent == programs else 0o600)
        self.host.environment = {
            "PATH": f"{programs}:{os.defpath}:/usr/sbin:/sbin",
            "PASSWORD": canary("variable"),
            "WORD": canary("secret-variable"),
            "GIVEN": canary("given"),
            "https_proxy": f"http://proxy:{canary('proxy')}@127.0.0.1:9",
        }
        return set(files)

    def declare(self, base: str) -> None:
        """Every kind of resource that talks to a registry, each also where it is refused."""
        plain = {server.host: {"plain_http": True} for server in self.guarded}
        plain[base.partition("/")[0]] = {"plain_http": True}
        auth: dict[str, Any] = {
            self.filed.host: {"username": "file", "password": {"file": "../password"}},
            self.mirror.host: {"username": "mirror", "password": {"file": "../mirror-password"}},
            self.variable.host: {"username": "env", "password": {"environment": "PASSWORD"}},
            self.helped.host: {"helper": "canary"},
        }
        pulled = {f"good{at}": f"{server.host}/app:1" for at, server in enumerate(self.guarded)}
        pulled |= {
            f"bad{at}-{status}": f"{server.host}/broken-{status}/app:1"
            for at, server in enumerate((self.filed, self.variable, self.identified))
            for status in REFUSALS
        }
        images = {name: {"pull": reference, "pull_policy": "always"} for name, reference in pulled.items()}
        document = {
            "apiVersion": "reconciler/v1",
            "stack": "shop",
            "registries": {
                host: fields | ({"auth": auth[host]} if host in auth else {}) for host, fields in plain.items()
            },
            "mirrors": {"from_host": True, self.configured.host: [self.mirror.url]},
            "images": images,
            "tags": {
                f"{self.helped.host}/pushed:1": {"image": "good0", "push": True},
                f"{self.variable.host}/broken-403/pushed:1": {"image": "good0", "push": True},
            },
            "syncs": {
                f"{self.logged_in.host}/synced": {"from": f"{self.variable.host}/app"},
                f"{self.filed.host}/broken-500/synced": {"from": f"{self.helped.host}/app"},
            },
            "secrets": {"word": {"file": "../word"}, "variable": {"environment": "WORD"}},
            "containers": {
                "web": {
                    "image": base,
                    "command": ["sleep", "3600"],
                    "stop_signal": "SIGKILL",
                    "secrets": ["word", "variable"],
                    "environment": {"GIVEN": "${GIVEN}"},
                }
            },
        }
        self.host.write(json.dumps(document), "shop.json")

    def log_in(self, password: str, code: int) -> None:
        command = [PROGRAM, "--root", self.host.root, "login", "--plain-http", "-u", "login", "--password-stdin"]
        result = subprocess.run(
            [*command, self.logged_in.host],
            input=password,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={"HOME": str(self.host.place), **self.host.environment},
        )
        self.host.printed += [result.stdout, result.stderr]
        assert result.returncode == code, result.stderr


@pytest.fixture
def world(host: Host) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(host, stack)


PLACES = (
    "file", "variable", "helper", "stdin", "config", "identity", "bearer", "access", "refresh", "signed", "mirror",
    "secret", "secret-variable", "given", "proxy", "userinfo", "wrong", "header",
)  # fmt: skip


def found_in(data: bytes) -> list[str]:
    return [place for place in PLACES if any(shape in data for shape in shapes(place))]


def kept(host: Host, world: World) -> dict[Path, list[str]]:
    """The files that hold a canary, and which: all but those that the test put there."""
    found = {}
    for path in (path for top in (host.place, host.run_dir) for path in top.rglob("*")):
        if path in world.inputs:
            continue
        with suppress(OSError):  # the name of a network namespace is a file that nobody can read
            if path.is_file() and not path.is_symlink() and (places := found_in(path.read_bytes())):
                found[path] = places
    return found


def everything(host: Host, world: World) -> None:
    """Runs what prints, reads and fails."""
    specs, options = host.specs, ("--env", "GIVEN", "--env", "WORD")
    host.run("validate", specs, *options)
    for form in ("text", "json", "markdown"):
        host.run("plan", specs, *options, "-o", form, code=1)
    host.run("--log-format", "json", "--log-level", "debug", "plan", specs, *options, "--out", host.place / "p", code=1)
    for progress, form in (("plain", "text"), ("json", "json"), ("quiet", "text"), ("tty", "text")):
        logs = ("--log-level", "debug", *(("--log-format", "json") if form == "json" else ()))
        words = ("--progress", progress, *logs, "apply", specs, *options, "--yes", "-o", form)
        host.run(*words, code=4)
        for server in (world.filed, world.identified):
            server.runnable("app", "1", progress.encode())
    for server, status in ((world.filed, 401), (world.identified, 403)):
        host.run("image", "pull", "--plain-http", f"{server.host}/broken-{status}/app:1", code=1)
    host.run("image", "tag", f"{world.filed.host}/app:1", f"{world.configured.host}/broken-403/app:1")
    host.run("image", "push", "--plain-http", f"{world.configured.host}/broken-403/app:1", code=1)
    for command in (
        ("status",),
        ("status", "-o", "json"),
        ("image", "ls"),
        ("image", "inspect", f"{world.filed.host}/app:1"),
        ("container", "inspect", "shop/web"),
        ("why", "shop/web"),
        ("gc", "--plan"),
        ("store", "verify"),
        ("update", specs),
        ("history",),
        ("events",),
        ("export-facts",),
    ):
        host.run(*command, code=None)
    host.environment["PYTHONPATH"] = str(host.place / "broken")
    said = host.run("--log-level", "debug", "image", "pull", "--plain-http", f"{world.filed.host}/other:1", code=1).err
    assert "Traceback" in said and "broken in the middle of a login" in said
    del host.environment["PYTHONPATH"]


def test_no_canary_is_printed_or_kept(host: Host, world: World, registry: RegistryServer) -> None:
    world.declare(f"{registry.host}/app:1")
    world.log_in(canary("wrong"), 1)
    world.log_in(canary("stdin"), 0)
    everything(host, world)

    printed = "\n".join(host.printed)
    assert found_in(printed.encode()) == []
    assert "***" in printed, "what servers say back is shown without the secret"
    assert "headers of one's own are not sent" in printed
    # What a container is given stands where only root can read it, as long as there is the container.
    directory = host.root / "containers" / host.container("shop/web")["id"]
    assert {str(path.relative_to(directory)): places for path, places in kept(host, world).items()} == {
        "spec.json": ["given"],
        "config.json": ["given"],
        "files/0": ["secret-variable"],
        "files/1": ["secret"],
    }
    assert host.root.stat().st_mode & 0o077 == directory.stat().st_mode & 0o077 == 0
    host.run("destroy", "--all", "--yes")
    assert kept(host, world) == {}
    # Each of them was in use.
    assert all(server.let_in for server in world.guarded)
    sent = [asked for server in (world.tokens, world.storage) for asked in server.asked]
    used = " ".join(f"{asked.line} {asked.body.decode()}" for asked in sent)
    assert canary("signed") in used and canary("identity") in used
    assert world.logged_in.tags["synced"] and world.helped.tags["pushed"]


@pytest.mark.parametrize(
    "spec",
    [
        "mirrors: {docker.io: ['https://user:%s@mirror.example.com']}",
        "images: {app: {pull: 'user:%s@registry.example.com/app:1'}}",
        "registries: {'user:%s@registry.example.com': {plain_http: true}}",
        "registries: {registry.example.com: {auth: {username: ci, password: %s}}}",
        "registries: {registry.example.com: {auth: {username: ci, password: {value: %s}}}}",
        "syncs: {'user:%s@registry.example.com/a': {from: registry.example.com/b}}",
    ],
)
def test_a_canary_where_none_belongs_is_refused_unseen(host: Host, spec: str) -> None:
    host.write(f"apiVersion: reconciler/v1\nstack: shop\n{spec % canary('userinfo')}\n")
    host.run("validate", host.specs, code=1)
    assert found_in("".join(host.printed).encode()) == []
