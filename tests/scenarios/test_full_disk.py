"""A daemon whose disk is full stays alive, waits between its attempts, and goes on once there is space."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.testing.host import Host
from reconciler.testing.images import archive, entry

pytestmark = pytest.mark.root

WATCHED_SECONDS = 4.0
MOST_ATTEMPTS = 8


@pytest.fixture
def small(host: Host) -> Iterator[Path]:
    """A disk of 400 kB for the root."""
    host.root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k,mode=0700", "tmpfs", host.root], check=True)
    yield host.root
    assert host.close() == []
    subprocess.run(["umount", host.root], check=True)


def conditions(host: Host) -> dict[str, Any]:
    found = host.run("status", "-o", "json").json["daemon"]
    return found["conditions"] if found else {}


def test_s29_s31_a_daemon_outlives_a_full_disk(host: Host, small: Path) -> None:
    (host.specs / "big.tar.gz").write_bytes(archive([entry("etc"), entry("etc/big", os.urandom(2_000_000))]))
    host.write("""\
        apiVersion: reconciler/v1
        stack: shop
        images: {big: {import: ./big.tar.gz}}
    """)
    daemon = host.start("--log-format", "json", "daemon", host.specs, "--interval", "1s", log=True)
    host.until(lambda: conditions(host).get("failures"))
    (failure,) = conditions(host)["failures"]
    assert "No space left" in str(failure)
    began = time.monotonic()
    host.until(lambda: time.monotonic() - began > WATCHED_SECONDS)
    assert daemon.poll() is None
    log = (host.place / "log").read_text()
    assert 1 <= log.count("No space left") <= MOST_ATTEMPTS, log
    subprocess.run(["mount", "-o", "remount,size=64m", small], check=True)
    host.until(lambda: conditions(host).get("result") == "converged", seconds=60)
    daemon.terminate()
    assert host.finish(daemon).code == 143
    assert host.run("store", "verify", code=None).code in (0, 64)
