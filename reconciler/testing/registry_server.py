"""Debian's docker-registry on a free loopback port, with its data in a directory of the caller's."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from reconciler.testing.mirror_server import running_mirror
from reconciler.testing.ports import free_port, wait_for_http
from reconciler.testing.recorded import ROLL
from reconciler.testing.token_server import ISSUER, SERVICE, TokenServer


@dataclass(frozen=True, slots=True)
class RegistryServer:
    """A running registry. ``log`` is its access log, one line a request, for counting; ``pid`` is who listens."""

    host: str
    pid: int
    log: Path
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    def requests(self, method: str, part: str = "") -> int:
        """How many requests with ``method`` and with ``part`` in their path it has answered."""
        lines = self.log.read_text(errors="replace").splitlines()
        return sum(f'"{method} ' in line and part in line for line in lines)


@contextmanager
def running_registry(
    directory: Path,
    *,
    users: Mapping[str, str] | None = None,
    proxy_of: str | None = None,
    tokens: TokenServer | None = None,
    certificate: tuple[Path, Path] | None = None,
    deletes: bool = True,
) -> Iterator[RegistryServer]:
    """Runs a registry until the block ends. ``users`` (name: password) makes it ask for a login (needs htpasswd).

    ``proxy_of`` makes it a pull-through cache of that URL, ``tokens`` sends clients there for a token, and with
    ``certificate`` (chain, key) it speaks TLS. Without ``deletes`` it refuses them. Where a roll of servers is kept,
    nginx stands in front of it and records what it is asked. Raises ``RuntimeError`` with its log if it does not start.
    """
    directory.mkdir(parents=True, exist_ok=True)
    host = f"127.0.0.1:{free_port()}"
    config = directory / "config.json"  # JSON is YAML
    document = _config(directory, host, users, proxy_of, deletes=deletes)
    if tokens is not None:
        document["auth"] = {
            "token": {"realm": tokens.realm, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": str(tokens.bundle)}
        }
    if certificate is not None:
        document["http"] = {"addr": host, "tls": dict(zip(("certificate", "key"), map(str, certificate), strict=True))}
    config.write_text(json.dumps(document))
    scheme = "http" if certificate is None else "https"
    log = directory / "registry.log"
    program = shutil.which("docker-registry")
    if program is None:
        raise RuntimeError("docker-registry is not installed (Debian package docker-registry)")
    with log.open("wb") as output:
        process = subprocess.Popen([program, "serve", str(config)], stdout=output, stderr=output)
    server = RegistryServer(host, process.pid, log, scheme)
    try:
        wait_for_http(f"{server.url}/v2/", process, log)
        with ExitStack() as stack:
            if ROLL.is_kept:
                front = running_mirror(
                    directory / "front",
                    server.url,
                    certificate=certificate,
                    wants_login=users is not None or tokens is not None,
                    realms=frozenset({tokens.url} if tokens is not None else ()),
                )
                listener = stack.enter_context(front)
                server = RegistryServer(listener.host, listener.pid, log, scheme)
            yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _config(
    directory: Path, host: str, users: Mapping[str, str] | None, proxy_of: str | None, *, deletes: bool
) -> dict[str, object]:
    config: dict[str, object] = {
        "version": "0.1",
        "log": {"level": "info", "accesslog": {"disabled": False}},
        "storage": {
            "filesystem": {"rootdirectory": str(directory / "data")},
            "delete": {"enabled": deletes},
        },
        "http": {"addr": host},
    }
    if users is not None:
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(_htpasswd(directory, users))}}
    if proxy_of is not None:
        config["proxy"] = {"remoteurl": proxy_of}
    return config


def _htpasswd(directory: Path, users: Mapping[str, str]) -> Path:
    path = directory / "htpasswd"
    lines = [
        subprocess.run(
            ["htpasswd", "-niBC", "4", name], input=password, text=True, check=True, capture_output=True
        ).stdout.strip()
        for name, password in users.items()
    ]
    path.write_text("\n".join(lines) + "\n")
    return path
