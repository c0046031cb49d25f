"""The embedded engine keeps the promises of the port, on real parts."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.engine.embedded.engine import EmbeddedEngine
from reconciler.model.address import Address
from reconciler.model.resources import Registry
from reconciler.testing.builders import Stack
from reconciler.testing.conformance_engine import EngineConformance, Harness
from reconciler.testing.host import Host, forwarding
from reconciler.testing.images import busybox_archive, push_image
from reconciler.testing.registry_server import RegistryServer, running_registry

pytestmark = pytest.mark.root


@pytest.fixture(scope="module", autouse=True)
def forwarding_as_it_was() -> Iterator[None]:
    before = forwarding()
    yield
    forwarding(before)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with running_registry(tmp_path_factory.mktemp("registry")) as server:
        for version in ("1", "2"):
            push_image(f"{server.host}/app:{version}", busybox_archive({"version": version}))
        yield server


class TestEmbeddedEngine(EngineConformance):
    @pytest.fixture
    def harness(self, tmp_path: Path, registry: RegistryServer, request: pytest.FixtureRequest) -> Iterator[Harness]:
        host = Host(tmp_path)
        with EmbeddedEngine(host.root) as engine:
            harness = Harness(
                engine,
                (f"{registry.host}/app:1", f"{registry.host}/app:2"),
                service={"command": ("sleep", "3600"), "stop_signal": "SIGKILL"},
                succeeds={"command": ("sh", "-c", "echo made > /made"), "restart": "no"},
                fails={"command": ("sh", "-c", "exit 3"), "restart": "no"},
                copies=request.node.name.replace("_", "-"),
                later=lambda seconds: _note_earlier(host.root, seconds),
            )
            # Another stack has told this host, once for all, that the registry speaks plain HTTP.
            other = Stack("other")
            other.add(Address("registry", registry.host), Registry(registry.host, plain_http=True))
            harness.apply(other)
            yield harness
        left = host.close()
        assert not left, "\n".join(left)


def _note_earlier(root: Path, seconds: float) -> None:
    """All tags that were noted, as if it had been so much earlier."""
    with sqlite3.connect(root / "state.db") as database:
        database.execute("UPDATE tag_ledger SET seen_at = seen_at - ?", (seconds,))
    database.close()
