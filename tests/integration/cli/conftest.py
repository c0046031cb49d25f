"""A host driven by the imperative commands alone, and a registry to pull from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.testing.host import Host, forwarding
from reconciler.testing.images import busybox_archive, push_image
from reconciler.testing.registry_server import RegistryServer, running_registry


@pytest.fixture(scope="session", autouse=True)
def forwarding_as_it_was() -> Iterator[None]:
    """The first network of a root sets ip_forward for good."""
    before = forwarding()
    yield
    forwarding(before)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """A registry with a busybox image, ``base:1``, and one that has a program for another machine, ``base:alien``."""
    # An ELF header for s390x, which is neither of the machines we run on.
    alien = "\x7fELF\x02\x02\x01" + "\0" * 9 + "\x00\x02\x00\x16" + "\0" * 44
    with running_registry(tmp_path_factory.mktemp("registry")) as server:
        push_image(f"{server.host}/base:1", busybox_archive())
        push_image(f"{server.host}/base:alien", busybox_archive({"alien": alien}))
        yield server


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    if ids := made.run("container", "ls", "-aq").out.split():
        made.run("container", "rm", "-f", *ids)
    left = made.close()
    assert not left, "\n".join(left)


@pytest.fixture
def image(host: Host, registry: RegistryServer) -> str:
    """The busybox image, pulled onto the host."""
    reference = f"{registry.host}/base:1"
    host.run("image", "pull", "--plain-http", reference)
    return reference
