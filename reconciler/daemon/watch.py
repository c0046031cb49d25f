"""Threads that wake the loop: one that watches spec files, one that watches containers."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from reconciler.daemon.wakeups import Wakeups
from reconciler.engine.port import Event
from reconciler.errors import ReconcilerError
from reconciler.log import Logger

if TYPE_CHECKING:
    from watchdog.events import FileSystemEvent

_log = Logger("daemon")

# Reading a file makes events too ("opened", "closed_no_write"); waking for those would never end.
_CHANGES = frozenset({"created", "deleted", "modified", "moved", "closed"})
_WAIT_SECONDS = 1.0
_PAUSE_SECONDS = 5.0
_REPEAT_SECONDS = 0.2


class SpecWatch:
    """Posts ``files`` when something in the directories of ``paths`` changes. Without inotify, polling has to do."""

    def __init__(self, paths: Sequence[Path], wakeups: Wakeups, *, recursive: bool = False) -> None:
        self._paths = paths
        self._wakeups = wakeups
        self._recursive = recursive
        self._observer: Any = None
        self._watched: dict[Path, tuple[Any, tuple[int, int]]] = {}

    def __enter__(self) -> Self:
        if self._paths:
            from watchdog.observers import Observer

            self._observer = Observer()
            self._observer.start()
            self.rearm()
        return self

    def __exit__(self, *_: object) -> None:
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()

    def rearm(self) -> None:
        """Watches what stands under the paths now: a directory that was replaced needs a new watch. Never raises."""
        if self._observer is None:
            return
        for path in self._paths:
            # A file is watched through its directory: saving replaces the file.
            directory = path if path.is_dir() else path.parent
            try:
                status = directory.stat()
            except OSError:
                identity = None
            else:
                identity = (status.st_dev, status.st_ino)
            watch, known = self._watched.pop(directory, (None, None))
            if watch is not None and known != identity:
                self._observer.unschedule(watch)
                watch = None
            if watch is None and identity is not None:
                watch = self._schedule(directory)
            if watch is not None and identity is not None:
                self._watched[directory] = (watch, identity)

    def dispatch(self, event: FileSystemEvent) -> None:
        """What watchdog calls for every event, from its own thread."""
        if event.event_type not in _CHANGES or (event.is_directory and event.event_type == "modified"):
            return  # a directory is modified by what happens in it, which is an event of its own
        if not all(_hidden(path) for path in (event.src_path, event.dest_path) if path):
            self._wakeups.post("files")

    def _schedule(self, directory: Path) -> Any:
        try:
            return self._observer.schedule(self, str(directory), recursive=self._recursive)
        except OSError as error:
            _log.warning("watch-failed", path=str(directory), error=str(error), consequence="changes are polled for")
            return None


class Waits(Protocol):
    """The part of an engine that this room needs."""

    def wait(self, timeout: float) -> Sequence[Event]: ...


class ContainerWatch:
    """Posts ``containers`` when one changed by itself: it died, or somebody removed it."""

    def __init__(self, engine: Waits, wakeups: Wakeups) -> None:
        self._engine = engine
        self._wakeups = wakeups
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="container-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if self._engine.wait(_WAIT_SECONDS):
                    self._wakeups.post("containers")
                    # An end that nobody can record yet, as while another writer is at work, is told at once each time.
                    self._stop.wait(_REPEAT_SECONDS)
            except ReconcilerError as error:
                _log.warning("watch-failed", error=str(error), hint=error.hint)
                self._stop.wait(_PAUSE_SECONDS)


def _hidden(path: str | bytes) -> bool:
    """Whether it is a file that editors keep beside the real one. ``..data`` is how a mounted ConfigMap is switched."""
    name = Path(os.fsdecode(path)).name
    return (name.startswith(".") and not name.startswith("..")) or name.endswith("~")
