"""The benchmark's entry: arguments, the order of measurements, and what is printed.

Every case is measured in rounds: in each round every engine has one turn, and before each turn the disks are synced.
So whatever else the machine does meets all of them alike. What counts is the ratio of the medians; absolute times
hold for one machine only. Every engine has a fresh ext4 filesystem with a journal for its data.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

from reconciler.testing.registry_server import running_registry
from tests.bench import archives, images, report
from tests.bench.cases import CASES, Case
from tests.bench.disk import fresh_filesystem
from tests.bench.docker import Docker
from tests.bench.engine import Engine, Sample
from tests.bench.ours import Ours
from tests.bench.podman import Podman
from tests.bench.umoci import Umoci

_CACHE = Path("/var/cache/reconciler-bench")
ENGINES: dict[str, type[Ours | Docker | Podman | Umoci]] = {
    "reconciler": Ours,
    "docker": Docker,
    "podman": Podman,
    "umoci": Umoci,
}


def main() -> None:
    options = _arguments()
    cases = [case for case in CASES if not options.only or any(case.name.startswith(name) for name in options.only)]
    if not cases:
        sys.exit(f"no such case; there are: {', '.join(case.name for case in CASES)}")
    wanted = {image for case in cases for image in case.images}
    archived = {archive for case in cases for archive in case.archives}
    loaded = archives.provide(options.cache, archived)
    if not options.inside:
        with running_registry(options.cache / "registry") as server:
            images.provide(server.host, wanted)
        _enter_private_machine()
    with ExitStack() as stack:
        work = Path(stack.enter_context(_private_machine()))
        server = stack.enter_context(running_registry(options.cache / "registry"))
        target = stack.enter_context(running_registry(work / "target"))
        missing = images.missing(server.host, wanted) | (archived - loaded.keys())
        cases = [case for case in cases if missing.isdisjoint({*case.images, *case.archives})]
        engines, absent = [], []
        for name, kind in ENGINES.items():
            if name in options.without or not kind.installed():
                absent.append(f"{name}: {'left out' if name in options.without else 'not installed'}, not measured")
                continue
            directory = stack.enter_context(fresh_filesystem(work, name))
            engines.append(stack.enter_context(kind(directory, server.host, loaded, target.host)))
        head = [*report.machine(engines), *absent, *(f"image {name}: cannot be made here" for name in sorted(missing))]
        names = [engine.name for engine in engines]
        if not options.json:
            print("\n".join([*head, "", report.headings(names)]), flush=True)
        rows = []
        for case in cases:
            rows.append((case, measure(case, engines, options.runs)))
            if not options.json:
                print(report.line(*rows[-1], names), flush=True)
        if options.json:
            print(json.dumps(report.document(head, rows), indent=2))


def measure(case: Case, engines: list[Engine], runs: int) -> dict[str, list[Sample]]:
    """``runs`` samples of each engine that knows the case, taken in turns."""
    able = [engine for engine in engines if case.command(engine) is not None]
    samples: dict[str, list[Sample]] = {engine.name: [] for engine in able}
    for engine in able:
        case.before_all(engine)
    for _ in range(runs):
        for engine in able:
            case.before_each(engine)
            os.sync()
            samples[engine.name].append(engine.timed(case.command(engine) or []).times(case.factor(engine)))
    for engine in able:
        case.after_all(engine)
    return samples


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/bench/run", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="runs of each case and engine (default 5)")
    parser.add_argument("--only", action="append", default=[], metavar="CASE", help="cases whose name begins with this")
    parser.add_argument("--without", action="append", default=[], choices=sorted(ENGINES), help="leave an engine out")
    parser.add_argument("--json", action="store_true", help="print one JSON document, with every sample")
    parser.add_argument("--cache", type=Path, default=_CACHE, metavar="DIR", help="keeps the images (%(default)s)")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _enter_private_machine() -> NoReturn:
    """Starts again with network, mounts and processes of its own.

    Bridges, firewall rules, sysctls, mounts and whatever still runs are gone with it, however it ends. There is no
    way out to the internet in there, so images are made before.
    """
    spaces = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    os.execvp("unshare", ["unshare", *spaces, sys.executable, "-m", "tests.bench", "--inside", *sys.argv[1:]])


@contextmanager
def _private_machine() -> Iterator[str]:
    """A /run of our own, the loopback interface up, and a directory for the engines' disks.

    This process is the first of its process namespace, so orphans become its children: a child of ours does the
    work, and we reap.
    """
    worker = os.fork()
    if worker:
        code = _reap_until(worker)
        os._exit(code)
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    for place in ("/etc", "/var/lib"):  # docker and podman leave keys, locks and leases there
        upper, work = (Path(f"/run/bench{place}.{part}") for part in ("upper", "work"))
        upper.mkdir(parents=True)
        work.mkdir()
        _mount("-t", "overlay", "-o", f"lowerdir={place},upperdir={upper},workdir={work}", "overlay", place)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    directory = tempfile.mkdtemp(prefix="reconciler-bench-", dir="/var/tmp")
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _reap_until(worker: int) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker has the same terminal, and cleans up
    while True:
        pid, status = os.wait()
        if pid == worker:
            return os.waitstatus_to_exitcode(status) & 0xFF


if __name__ == "__main__":
    main()
