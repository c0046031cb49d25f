"""Reading commands write nothing: not on a root mounted read-only, not on one that is not there, not after a crash."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from reconciler.testing.host import Host
from reconciler.testing.registry_server import RegistryServer

pytestmark = pytest.mark.root

_SERVICE = """\
images: {{picked: {{pull: {app}, track: {{newest: 1}}}}}}
containers:
  web:
    image: {app}:{version}
    command: [sleep, "3600"]
    stop_signal: SIGKILL
    ports: ["127.0.0.1::80"]
    volumes: ["data:/data"]
    secrets: [word]
  job:
    image: {app}:1
    command: ["true"]
    restart: "no"
volumes: {{data: {{}}}}
secrets: {{word: {{file: ./word}}}}
"""


@pytest.fixture
def app(host: Host, registry: RegistryServer) -> str:
    (host.specs / "word").write_text("xyzzy")
    (host.specs / "word").chmod(0o600)
    return f"{registry.host}/app"


def declare(host: Host, registry: RegistryServer, version: str = "1") -> None:
    host.declare(registry.host, _SERVICE.format(app=f"{registry.host}/app", version=version))


def read_everything(host: Host, *, changes: bool) -> None:
    """Runs every command that only reads, with the root mounted read-only where it exists."""
    under: list[str] = []
    if host.root.exists():
        under = ["unshare", "--mount", "sh", "-c", f'mount --bind -o ro {host.root} {host.root} && exec "$@"', "sh"]
    for form in ("text", "json", "markdown"):
        code = 2 if changes else 0
        host.run("plan", host.specs, "-o", form, "--detailed-exitcode", code=code, under=under)
    host.run("plan", host.specs, "--out", host.place / "plan.json", under=under)
    host.run("validate", host.specs, under=under)
    assert "1 to write" in host.run("update", host.specs, under=under).out
    host.run("status", under=under)
    host.run("status", "-o", "json", under=under)
    host.run("gc", "--plan", under=under)
    host.run("image", "ls", under=under)
    host.run("container", "ls", "-a", under=under)


def listing(host: Host) -> dict[Path, tuple[int, ...]]:
    """Every file of the root, there and below /run. No ctime: SQLite, as root, gives its files their owner anew."""
    found = {}
    for top in (host.root, host.run_dir):
        for path in [top, *top.rglob("*")] if top.exists() else ():
            status = path.lstat()
            found[path] = (status.st_ino, status.st_mode, status.st_uid, status.st_size, status.st_mtime_ns)
    return found


def test_reading_a_converged_root_leaves_no_trace(host: Host, registry: RegistryServer, app: str) -> None:
    declare(host, registry)
    host.apply()
    before, kernel = listing(host), host.traces()
    read_everything(host, changes=False)
    declare(host, registry, version="2")
    read_everything(host, changes=True)
    assert listing(host) == before
    assert host.traces() == kernel


def test_reading_a_root_that_does_not_exist_does_not_make_it(host: Host, registry: RegistryServer, app: str) -> None:
    declare(host, registry)
    read_everything(host, changes=True)
    assert not host.root.exists()
    assert not [note for note in Path("/run/reconciler").glob("*/place.json") if str(host.root) in note.read_text()]


def test_reading_after_a_crash_sees_all_and_leaves_no_trace(host: Host, registry: RegistryServer, app: str) -> None:
    declare(host, registry)
    apply = host.start("--progress", "plain", "apply", host.specs, "--yes")
    assert apply.stderr is not None
    for line in apply.stderr:
        if line.startswith("create container/shop/web"):
            break
    apply.send_signal(signal.SIGKILL)
    apply.communicate()
    assert (host.root / "state.db-wal").stat().st_size > 0
    before = listing(host)
    read_everything(host, changes=True)
    assert "container/shop/web" not in dict(host.changes()) or dict(host.changes())["container/shop/web"] == ["start"]
    assert listing(host) == before
