"""The examples run as they stand, and the quickstart does what the README's first line promises."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from reconciler.network import names

pytestmark = pytest.mark.root

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "examples"
APPLIED_BY_QUICKSTART = {"hello"}
APPLIED_BY_SYNCS = {"syncs"}
APPLIED_BY_TRACKING = {"tracking"}
APPLIED_BY_MIRRORS = {"mirrors"}
SPECS = sorted(path for path in EXAMPLES.iterdir() if path.is_dir())


def test_every_example_is_run_by_a_test() -> None:
    applied = APPLIED_BY_QUICKSTART | APPLIED_BY_SYNCS | APPLIED_BY_TRACKING | APPLIED_BY_MIRRORS
    assert {path.name for path in SPECS} == applied


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.name)
def test_an_example_is_valid_as_it_stands(path: Path) -> None:
    program = Path(sys.executable).with_name("reconciler")
    result = subprocess.run([program, "validate", path], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


class Checkout:
    """A clone of the examples with the environment of this test run, and a root of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place / "clone"
        self.root = place / "root"
        shutil.copytree(EXAMPLES, self.place / "examples")
        (self.place / ".venv").symlink_to(sys.prefix)

    def quickstart(self, *arguments: str) -> str:
        result = subprocess.run(
            [self.place / "examples/quickstart", *arguments],
            env={**os.environ, "RECONCILER_ROOT": str(self.root)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        # What went wrong stands at the end of what it printed: last here too, where reports are cut.
        assert result.returncode == 0, f"{result.returncode}\n{result.stderr}\n{result.stdout[-3000:]}"
        return result.stdout

    def reconciler(self, *arguments: str) -> str:
        command = [str(self.place / ".venv/bin/reconciler"), "--root", str(self.root), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def start_daemon(self, specs: str) -> subprocess.Popen[bytes]:
        command = [str(self.place / ".venv/bin/reconciler"), "--root", str(self.root), "daemon", specs]
        daemon = subprocess.Popen(command, cwd=self.place, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while json.loads(self.reconciler("status", "-o", "json"))["daemon"] is None:
            assert daemon.poll() is None
            assert time.monotonic() < deadline, "the daemon does not show in status"
            time.sleep(0.1)
        return daemon

    def traces(self, *roots: str) -> list[str]:
        """What the machine has of these roots and of the registry, as ``tests/traces`` lists it."""
        marks = [mark for root in roots for mark in (root, names.root_prefix(root), names.table(root))]
        listed = subprocess.run([REPOSITORY / "tests/traces"], check=True, capture_output=True, text=True).stdout
        return [line for line in listed.splitlines() if any(mark in line for mark in marks)]


def test_the_quickstart_converges_runs_twice_and_leaves_nothing(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    state = checkout.place / ".quickstart"
    forwarding = Path("/proc/sys/net/ipv4/ip_forward").read_text()
    try:
        first = checkout.quickstart()
        registry = int((state / "registry.pid").read_text())
        roots = [(root / "id").read_text().strip() for root in (checkout.root, state / "publisher")]
        assert checkout.traces(roots[0])

        specs = "examples/hello" if (state / "port").read_text().strip() == "5000" else ".quickstart/hello"
        shown = [line for line in first.splitlines() if line.startswith("$ ")]
        assert shown == [
            "$ reconciler --root .quickstart/publisher apply --yes .quickstart/base",
            f"$ reconciler validate {specs}",
            f"$ reconciler plan {specs}",
            f"$ reconciler apply --yes {specs}",
            "$ reconciler status",
            f"$ reconciler plan {specs}",
        ]
        assert "Plan: 11 to create, 0 to change, 0 to replace, 0 to delete." in first
        assert first.rpartition(shown[-1])[2].split("==")[0].strip() == "No changes."
        assert checkout.reconciler("container", "logs", "hello/reader") == "hello docker\n"
        assert _page(first) == "hello from reconciler\n"

        second = checkout.quickstart()
        assert second.count("No changes.") == 4
        assert int((state / "registry.pid").read_text()) == registry

        # What a newcomer may have started since has to go, too.
        port = (state / "port").read_text().strip()
        checkout.reconciler("container", "run", "-d", f"127.0.0.1:{port}/base", "sleep", "1000")
        daemon = checkout.start_daemon(specs)
    finally:
        checkout.quickstart("--clean")
    assert daemon.wait(10) == 143
    assert not state.exists()
    assert not checkout.root.exists()
    assert not _runs(registry)
    assert checkout.traces(*roots) == []
    assert (checkout.place / ".venv").exists()
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == forwarding
    assert "nothing of the quickstart" in checkout.quickstart("--clean")


def _runs(pid: int) -> bool:
    """A process that ended and was not waited for yet has no command line."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except FileNotFoundError:
        return False


def _page(output: str) -> str:
    address = next(line.split()[-1] for line in output.splitlines() if line.strip().startswith("curl "))
    with urllib.request.urlopen(address, timeout=10) as answer:
        page: bytes = answer.read()
    return page.decode()
