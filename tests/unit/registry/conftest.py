"""A scripted registry and a client whose clock and pauses are the test's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from reconciler.clock import ManualClock
from reconciler.oci import media
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.reference import Reference
from reconciler.registry.client import RegistryClient
from reconciler.registry.hosts import (
    Credentials,
    CredentialSource,
    HostConfig,
    MirrorEndpoint,
    RegistryHosts,
)
from reconciler.registry.retry import RetryPolicy
from reconciler.registry.transport import Timeouts
from reconciler.testing.leaks import find_leaks, shapes_of
from reconciler.testing.recorded import ROLL
from reconciler.testing.scripted_registry import ScriptedRegistry, Step


class MemorySink:
    """A sink in memory."""

    def __init__(self, held: bytes = b"") -> None:
        self.data = bytearray(held)
        self.restarts = 0

    @property
    def offset(self) -> int:
        return len(self.data)

    def digest(self) -> Digest:
        return Digest("sha256:" + hashlib.sha256(self.data).hexdigest())

    def write(self, chunk: bytes) -> None:
        self.data += chunk

    def restart(self) -> None:
        self.data.clear()
        self.restarts += 1


@dataclass
class Harness:
    """Makes clients, and keeps what they slept and noted."""

    clock: ManualClock = field(default_factory=ManualClock)
    slept: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    clients: list[RegistryClient] = field(default_factory=list)
    given: list[tuple[str, Credentials]] = field(default_factory=list)

    def client(
        self,
        *plain: ScriptedRegistry,
        credentials: Credentials | CredentialSource | None = None,
        mirrors: dict[str, tuple[MirrorEndpoint, ...]] | None = None,
        hosts: dict[str, HostConfig] | None = None,
        attempts: int = 4,
        idle: float = 5.0,
        **more: Any,
    ) -> RegistryClient:
        declared = {r.host: HostConfig(r.host, plain_http=True, credentials=credentials) for r in plain}
        declared |= hosts or {}
        made = RegistryClient(
            RegistryHosts({name: self._watched(host) for name, host in declared.items()}, mirrors or {}),
            clock=more.pop("clock", self.clock),
            note=self.notes.append,
            timeouts=more.pop("timeouts", Timeouts(connect=2, idle=idle)),
            retry=RetryPolicy(attempts=attempts, sleep=self._sleep, jitter=lambda: 1.0),
            **more,
        )
        self.clients.append(made)
        return made

    def _watched(self, config: HostConfig) -> HostConfig:
        """The same host, whose logins are written down as they are given out."""

        def source(host: str, repository: str) -> Credentials | None:
            declared = config.credentials
            login = declared if isinstance(declared, Credentials) or declared is None else declared(host, repository)
            if login is not None:
                self.given.append((config.host, login))
            return login

        return replace(config, credentials=source)

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.advance(seconds)


@pytest.fixture
def harness() -> Iterator[Harness]:
    harness = Harness()
    yield harness
    for client in harness.clients:
        client.close()


@pytest.fixture(autouse=True)
def nothing_leaks(harness: Harness, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """After every test: no login and no token reached any server but its own, and nothing that was said holds one."""
    yield
    assert find_leaks(ROLL.news(), harness.given) == []
    said = "\n".join([*harness.notes, caplog.text, *(repr(client.health()) for client in harness.clients)])
    assert not [secret for _, login in harness.given for secret in shapes_of(login) if secret in said]


@pytest.fixture
def registry() -> Iterator[ScriptedRegistry]:
    with ScriptedRegistry() as server:
        yield server


@pytest.fixture
def mirror() -> Iterator[ScriptedRegistry]:
    with ScriptedRegistry() as server:
        yield server


@pytest.fixture
def storage() -> Iterator[ScriptedRegistry]:
    """Another host: where a registry keeps its blobs, or makes its tokens."""
    with ScriptedRegistry() as server:
        yield server


@pytest.fixture
def ref(registry: ScriptedRegistry) -> Callable[[str], Reference]:
    return lambda rest: Reference.parse(f"{registry.host}/{rest}")


CONFIG = Descriptor(media.OCI_CONFIG, Digest.of(b"{}"), 2)


def manifest(**changes: Any) -> bytes:
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": media.OCI_MANIFEST,
        "config": CONFIG.to_json(),
        "layers": [],
    }
    document |= changes
    return json.dumps({key: value for key, value in document.items() if value is not None}).encode()


def served(data: bytes, media_type: str = media.OCI_MANIFEST, digest: str | None = "", **more: Any) -> Step:
    """A manifest as a registry serves it; ``digest`` None leaves the header out."""
    headers = {"Content-Type": media_type}
    if digest is not None:
        headers["Docker-Content-Digest"] = digest or Digest.of(data)
    return Step(200, data, headers, **more)


def layer(data: bytes) -> Descriptor:
    return Descriptor(media.OCI_LAYER_GZIP, Digest.of(data), len(data))
