"""What a store does in its life, as commands on one small root: a root to copy, to disturb and to compare.

Each ``Part`` begins where the one before it ended. Run again from any half-done state it comes to the same end, so
whatever was cut off can be finished by running the part once more.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reconciler.cli.main import main
from reconciler.engine.embedded.state import open_writer
from reconciler.errors import ReconcilerError
from reconciler.linux.lock import DirectoryLock
from reconciler.oci.digest import Digest
from reconciler.store.identity import RUN
from reconciler.testing.images import Entry, archive, entry, write_layout

Command = Sequence[str] | Callable[[Path], None]
_HEAD = "apiVersion: reconciler/v1\nstack: shop\n"
_SPECS = {
    "images": "images: {base: {import: ./base.tar.gz}, app: {load: ./app.tar}}\n"
    "tags: {'shop.example/app:1': app, 'shop.example/base:1': base}\nvolumes: {data: {}}\n",
    "fewer": "images: {base: {import: ./base.tar.gz}}\nretention: {images: {keep_generations: 1}}\n",
    "nothing": "retention: {images: {keep_generations: 1}}\n",
    "container": "images: {app: {load: ./app.tar}}\nvolumes: {data: {}}\n"
    "containers: {idle: {image: app, command: [/bin/run], state: stopped, volumes: ['data:/data']}}\n",
}
_MADE = "shop.example/made:1"
CONTAINER = "0123456789abcdef" * 4


@dataclass(frozen=True, slots=True)
class Part:
    """Commands that are run one after the other; the exit code of each must be 0 when nothing disturbs them."""

    name: str
    commands: tuple[Command, ...]


class Workload:
    """A root, by default ``place``/root, and in ``place`` what it needs.

    ``registry`` is a host that has ``app:1``, if any.
    """

    def __init__(self, place: Path, registry: str | None = None, root: Path | None = None) -> None:
        self.place = place
        self.root = root or place / "root"
        self._registry = registry
        self._write_inputs()
        tag = ("image", "tag", "shop.example/app:1", "shop.example/more:1")
        self.parts = (
            Part("images", self._apply("images")),
            *([Part("pull", self._apply("pull"))] if registry else []),
            Part("names", (tag,)),
            Part("snapshot", (_snapshot,)),
            Part("untag", (tag, ("image", "rm", "shop.example/more:1"))),
            Part("fewer", (*self._apply("fewer"), ("gc",))),
            Part("container", self._apply("container")),
            # Each commit makes another image, since a history tells the time: so it goes again at once.
            Part("commit", (("container", "commit", "idle", _MADE), ("image", "rm", _MADE))),
            Part("destroy", (*self._apply("nothing"), ("gc",))),
        )

    def run(self, part: Part) -> int:
        """Runs a part in this process; the first exit code that is not 0, or 0."""
        for command in part.commands:
            code = self._run(command)
            if code:
                return code
        return 0

    def prepare(self, saved: Path | None) -> None:
        """Makes the root what was saved, or nothing; what it has in the runtime directory goes."""
        identity = self.root / "id"
        if identity.exists():
            shutil.rmtree(RUN / identity.read_text().strip(), ignore_errors=True)
        shutil.rmtree(self.root, ignore_errors=True)
        if saved is not None:
            subprocess.run(["cp", "-a", saved, self.root], check=True)

    def save(self, target: Path) -> None:
        subprocess.run(["cp", "-a", self.root, target], check=True)

    def _run(self, command: Command) -> int:
        if callable(command):
            try:
                command(self.root)
            except ReconcilerError as error:
                print(f"error: {error}", f"hint: {error.hint}")  # noqa: T201  as the command line does
                return error.exit_code
            return 0
        return main(["--root", str(self.root), "--progress", "plain", *command])

    def _apply(self, name: str) -> tuple[Command, ...]:
        specs = self.place / "specs"

        def declare(_root: Path) -> None:
            # In one step: others may be reading it, and this process may be killed.
            written = self.place / f"shop.{os.getpid()}"
            written.write_text(_HEAD + self._specs[name])
            written.replace(specs / "shop.yaml")

        return declare, ("apply", str(specs), "--yes", "--max-deletes", "99", "--allow-empty")

    def _write_inputs(self) -> None:
        base, top = archive(_base()), archive(_top())
        layout, specs = self.place / "layout", self.place / "specs"
        specs.mkdir()
        write_layout(layout, [base, top])
        subprocess.run(["tar", "-C", layout, "-cf", specs / "app.tar", "."], check=True)
        (specs / "base.tar.gz").write_bytes(base)
        self._specs = dict(_SPECS)
        if self._registry:
            self._specs["pull"] = (
                f"registries: {{'{self._registry}': {{plain_http: true}}}}\n"
                f"images: {{app: {{load: ./app.tar}}, far: '{self._registry}/app:1'}}\n"
                "tags: {'shop.example/app:1': app}\nvolumes: {data: {}}\n"
            )


def _base() -> list[Entry]:
    program = Path("/bin/true").resolve().read_bytes()[:64]  # as much as tells what machine it is for
    return [
        entry("etc", mode=0o755),
        entry("tmp", mode=0o1777),
        entry("etc/one", b"one" * 3000),
        entry("etc/two", b"two"),
        entry("bin/run", program, mode=0o755),
        entry("data/kept", b"kept", mode=0o640),
    ]


def _top() -> list[Entry]:
    return [entry("etc/.wh.one", b""), entry("etc/three", b"3" * 9000, mode=0o600)]


def _snapshot(root: Path) -> None:
    """A writable layer made, mounted, written to, unmounted and removed, as for a container."""
    with DirectoryLock(root).acquire(10.0):
        state = open_writer(root)
        try:
            chain_ids: list[Digest] = []
            for image in state.images.list():
                chain_ids = max(chain_ids, list(image.chain_ids), key=len)
            state.snapshots.remove(CONTAINER)  # as every turn does with what has no row
            state.snapshots.create(CONTAINER, chain_ids)
            target = root / "containers" / CONTAINER / "merged"
            target.mkdir(exist_ok=True)
            state.snapshots.mount(CONTAINER, target)
            (target / "four").write_text("four")
            state.snapshots.remove(CONTAINER)
        finally:
            state.close_pass()
            state.close()
    state.discards.empty()
