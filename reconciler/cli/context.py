"""What every command is given: where the state is, how to print, and what of the environment it may use."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from reconciler.value import dataclass

if TYPE_CHECKING:
    from reconciler.engine.embedded.engine import EmbeddedEngine
    from reconciler.engine.embedded.registries import Surroundings

DEFAULT_ROOT = "/var/lib/reconciler"
_PROXY_NAMES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")


@dataclass(slots=True)
class Voice:
    """Who writes notes while something else has the terminal: None for the context itself."""

    through: Callable[[str], None] | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """``environment`` is the process environment as it was at the start; nothing else of the program reads it."""

    root: Path
    environment: Mapping[str, str]
    stdout: TextIO
    stderr: TextIO
    lock_timeout: float | None = 10.0
    progress: str = "auto"
    voice: Voice = field(default_factory=Voice)

    @property
    def color(self) -> bool:
        """Whether stdout may be coloured (https://no-color.org)."""
        return self.stdout.isatty() and not self.environment.get("NO_COLOR")

    @property
    def interactive(self) -> bool:
        """Whether there is somebody to ask."""
        return sys.stdin is not None and sys.stdin.isatty() and self.stderr.isatty()

    def print(self, text: str = "") -> None:
        """One line or more of data, on stdout."""
        self.stdout.write(text + "\n")

    def note(self, text: str) -> None:
        """A line for the person at the terminal, on stderr; an object of one line with ``--progress json``."""
        if self.voice.through is not None:
            self.voice.through(text)
            return
        if self.progress == "json":
            import json

            text = json.dumps({"event": "note", "message": text})
        self.stderr.write(text + "\n")

    def tell(self, text: str) -> None:
        """A note of how things go, which ``--progress quiet`` leaves out. May come from any thread."""
        if self.progress != "quiet":
            self.note(text)

    def engine(self) -> EmbeddedEngine:
        """The engine of this root. Opens nothing yet."""
        from reconciler.engine.embedded.engine import EmbeddedEngine

        return EmbeddedEngine(self.root, self.surroundings())

    def surroundings(self) -> Surroundings:
        """What the engine may use of the environment."""
        from reconciler.engine.embedded.registries import Surroundings

        return Surroundings(self.environment, proxies(self.environment), auth_files(self.environment), self.tell)


def from_process(root: str | None, lock_timeout: float | None, progress: str) -> Context:
    """The context of this process."""
    environment = dict(os.environ)
    chosen = root or environment.get("RECONCILER_ROOT") or DEFAULT_ROOT
    return Context(Path(chosen).absolute(), environment, sys.stdout, sys.stderr, lock_timeout, progress)


def proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """The proxy variables, by lower-case name. The lower-case spelling wins, as curl has it."""
    found = {}
    for name in _PROXY_NAMES:
        # HTTP_PROXY in capitals can be set by a request header where a CGI runs us: curl ignores it, and so do we.
        value = environment.get(name) or (environment.get(name.upper()) if name != "http_proxy" else None)
        if value:
            found[name] = value
    return found


def login_file(environment: Mapping[str, str]) -> Path:
    """Where ``login`` keeps credentials: Docker's own file, so that both know them."""
    directory = environment.get("DOCKER_CONFIG") or str(Path(environment.get("HOME") or "/root") / ".docker")
    return Path(directory) / "config.json"


def auth_files(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """The credential files of docker and podman, the first that knows a host wins."""
    home = Path(environment.get("HOME") or "/root")
    runtime = environment.get("XDG_RUNTIME_DIR")
    candidates = [
        environment.get("REGISTRY_AUTH_FILE"),
        str(login_file(environment)),
        str(Path(runtime) / "containers" / "auth.json") if runtime else None,
        str(home / ".config" / "containers" / "auth.json"),
    ]
    return tuple(Path(candidate) for candidate in candidates if candidate)
