"""Hosts that are driven by the real command line on real parts, and nothing left of them afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    """A registry with two busybox images, ``app:1`` and ``app:2``, that differ in /version."""
    with running_registry(tmp_path_factory.mktemp("registry")) as server:
        for version in ("1", "2"):
            push_image(f"{server.host}/app:{version}", busybox_archive({"version": f"{version}\n"}))
        yield server


@pytest.fixture
def make_host(tmp_path: Path) -> Iterator[Callable[[str], Host]]:
    made: list[Host] = []

    def make(name: str) -> Host:
        place = tmp_path / name
        place.mkdir()
        made.append(Host(place))
        return made[-1]

    yield make
    left = [trace for host in made for trace in host.close()]
    assert not left, "\n".join(left)


@pytest.fixture
def host(make_host: Callable[[str], Host]) -> Host:
    return make_host("one")
