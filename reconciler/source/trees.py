"""Files that specs from a repository name, exported read-only under the name of their git object.

An object's name is the hash of its content, so what stands there under a name never changes, and whether a container
must be replaced shows in the name alone. Objects are found in the listing of one commit; no symbolic link is followed.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from reconciler.errors import InvalidError, NotFoundError
from reconciler.linux import durable, watch
from reconciler.linux.tree import remove_tree
from reconciler.model.resources import FileContent
from reconciler.source.repository import Entry, Repository
from reconciler.spec.reader import MAX_BYTES
from reconciler.spec.tree import MAX_FILES, SUFFIXES, HeadCheck, SpecFile

MAX_TREE_BYTES = 1024**3
_MAX_TARGET = 4096
_POINT = "tree-export"


class GitTree:
    """The files of one commit, as ``source.port.SourceTree`` describes it. ``directory`` holds the exports.

    ``name`` is what the repository's root is called. ``export`` and ``content`` say where a path will be and write
    nothing, so that a plan can ask them.
    """

    confined = True

    def __init__(self, repository: Repository, commit: str, directory: Path, name: str) -> None:
        self._repository = repository
        self._commit = commit
        self._directory = directory
        self._name = name
        self._listing = repository.listing(commit)
        self._wanted: dict[str, Path] = {}

    def find(self, paths: Sequence[str], recursive: bool) -> Sequence[SpecFile]:
        names: dict[str, Entry] = {}
        for asked in paths:
            path, entry = self._find("", asked)
            names.update({path: entry} if entry.kind != "directory" else self._specs(path, recursive))
        if len(names) > MAX_FILES:
            raise InvalidError(
                f"more than {MAX_FILES} spec files in commit {self._commit[:12]}", hint="name fewer directories"
            )
        files = []
        with self._repository.blobs() as content:
            for path, entry in names.items():
                data = b"".join(content(self._within(path, entry, MAX_BYTES).id))
                directory = posixpath.dirname(path)
                files.append(SpecFile(path, data, directory, posixpath.basename(directory) or self._name))
        return files

    def read(self, directory: str, path: str, limit: int) -> bytes:
        found, entry = self._file(directory, path)
        with self._repository.blobs() as content:
            return b"".join(content(self._within(found, entry, limit).id))

    def content(self, directory: str, path: str, check: HeadCheck) -> FileContent:
        found, entry = self._file(directory, path)
        digest, head = hashlib.sha256(), b""
        with self._repository.blobs() as content:
            for chunk in content(entry.id):
                head = head or chunk
                digest.update(chunk)
        check(head)
        return FileContent(str(self._want(found, entry)), digest.hexdigest(), entry.size)

    def export(self, directory: str, path: str) -> tuple[str, str]:
        found, entry = self._find(directory, path)
        if entry.kind == "directory":
            self._check_directory(found)
        place = self._want(found, entry)
        return str(place), place.name

    def write_exports(self) -> None:
        missing = {path: place for path, place in self._wanted.items() if not place.exists()}
        if not missing:
            return
        durable.make_directories(self._directory, point=_POINT)
        sweep_exports(self._directory, None)
        with self._repository.blobs() as content:
            for path, place in missing.items():
                temporary = self._directory / f".{place.name}.{secrets.token_hex(4)}.tmp"
                with durable.guarded("export to", temporary), watch.operation(_POINT, "entry", temporary):
                    self._write(path, temporary, content)
                durable.sync_filesystem(self._directory, point=_POINT)
                durable.rename(temporary, place, point=_POINT)

    def _want(self, path: str, entry: Entry) -> Path:
        # The id of a blob does not tell its mode.
        place = self._directory / (f"{entry.id}-x" if entry.kind == "executable" else entry.id)
        self._wanted[path] = place
        return place

    def _specs(self, directory: str, recursive: bool) -> dict[str, Entry]:
        prefix = f"{directory}/" if directory else ""
        found = {}
        for path, entry in self._below(directory):
            *folders, name = path.removeprefix(prefix).split("/")
            hidden = any(part.startswith(".") for part in (*folders, name))
            if entry.kind != "directory" and name.endswith(SUFFIXES) and not hidden and (recursive or not folders):
                self._lookup(path)  # refuses a link
                found[path] = entry
        return found

    def _find(self, directory: str, name: str) -> tuple[str, Entry]:
        """The entry that a spec names. Raises ``InvalidError`` for whatever leads elsewhere (G04, G05)."""
        path = posixpath.normpath(posixpath.join(directory, name))
        if "\0" in name or name.startswith("/") or path == ".." or path.startswith("../"):
            raise InvalidError(f"{name[:200]!a} leads out of the repository", hint="name a path inside the repository")
        path = "" if path == "." else path
        entry = self._lookup(path)
        if entry is None:
            raise NotFoundError(f"{self._shown(path)} does not exist", hint="commit it, or correct the path")
        return path, entry

    def _lookup(self, path: str) -> Entry | None:
        """The entry of a normalised path. Raises ``InvalidError`` if it is or leads through a link or a submodule."""
        parts = path.split("/") if path else []
        for end in range(1, len(parts) + 1):
            step = "/".join(parts[:end])
            entry = self._listing.get(step)
            if entry is not None and entry.kind in ("symlink", "submodule"):
                what = "a symbolic link" if entry.kind == "symlink" else "a submodule"
                raise InvalidError(
                    f"{self._shown(step)} is {what}, which is not followed", hint="commit the content itself"
                )
        return self._listing.get(path)

    def _file(self, directory: str, name: str) -> tuple[str, Entry]:
        path, entry = self._find(directory, name)
        if entry.kind == "directory":
            raise InvalidError(f"{self._shown(path)} is a directory", hint="name a file")
        return path, entry

    def _within(self, path: str, entry: Entry, limit: int) -> Entry:
        if entry.size > limit:
            raise InvalidError(f"{self._shown(path)} has more than the {limit} bytes allowed", hint="make it smaller")
        return entry

    def _check_directory(self, path: str) -> None:
        total = 0
        links: list[str] = []
        for inner, entry in self._below(path):
            total += entry.size
            if entry.kind == "submodule":
                raise InvalidError(f"{self._shown(inner)} is a submodule", hint="commit the content itself")
            if entry.kind == "symlink":
                links.append(inner)
        if total > MAX_TREE_BYTES:
            raise InvalidError(
                f"{self._shown(path)} holds more than {MAX_TREE_BYTES} bytes", hint="name a smaller directory"
            )
        if links:
            with self._repository.blobs() as content:
                for link in links:
                    self._target(path, link, content)

    def _below(self, path: str) -> Iterator[tuple[str, Entry]]:
        prefix = f"{path}/" if path else ""
        return ((inner, entry) for inner, entry in self._listing.items() if inner.startswith(prefix) and inner != path)

    def _target(self, top: str, link: str, content: Callable[[str], Iterator[bytes]]) -> str:
        """Where a link inside the directory ``top`` leads. Raises ``InvalidError`` if that is outside (G04)."""
        entry = self._listing[link]
        target = ""
        if entry.size <= _MAX_TARGET:
            target = b"".join(content(entry.id)).decode("utf-8", "surrogateescape")
        inside = posixpath.relpath(link, top or ".")
        led = posixpath.normpath(posixpath.join(posixpath.dirname(inside), target))
        if not target or "\0" in target or target.startswith("/") or led == ".." or led.startswith("../"):
            raise InvalidError(
                f"{self._shown(link)} is a symbolic link to {target[:200]!a}, outside {top or 'the repository'}",
                hint="link to a path inside the same directory, or commit the content itself",
            )
        return target

    def _write(self, path: str, target: Path, content: Callable[[str], Iterator[bytes]]) -> None:
        entry = self._listing[path]
        if entry.kind != "directory":
            return _write_file(target, content(entry.id), entry.kind == "executable")
        target.mkdir(0o755)
        directories = [target]
        # A directory comes before what is in it in the listing. Links are made last: nothing is written through one.
        inner = [(posixpath.relpath(name, path or "."), item, name) for name, item in self._below(path)]
        for relative, item, _ in inner:
            if item.kind == "directory":
                (target / relative).mkdir(0o755)
                directories.append(target / relative)
            elif item.kind != "symlink":
                _write_file(target / relative, content(item.id), item.kind == "executable")
        for relative, item, name in inner:
            if item.kind == "symlink":
                (target / relative).symlink_to(self._target(path, name, content))
        for directory in directories:
            directory.chmod(0o555)
        return None

    def _shown(self, path: str) -> str:
        return f"{path[:200] or '.'} in commit {self._commit[:12]}"


def sweep_exports(directory: Path, keep: Collection[str] | None) -> None:
    """Removes unfinished exports, and finished ones that ``keep`` does not name (None keeps all).

    Only for who holds the turn.
    """
    with durable.guarded("sweep", directory):
        for item in directory.iterdir() if directory.is_dir() else ():
            if item.name.endswith(".tmp") or (keep is not None and item.name not in keep):
                _remove(item)


def _remove(item: Path) -> None:
    if item.is_dir() and not item.is_symlink():
        for parent, _, _ in os.walk(item):
            Path(parent).chmod(0o755)  # who is not root needs the write bit to remove what is inside
    remove_tree(item, point=_POINT, sync=False)


def _write_file(target: Path, content: Iterator[bytes], executable: bool) -> None:
    with os.fdopen(
        os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "wb"
    ) as file:
        file.writelines(content)
        os.fchmod(file.fileno(), 0o555 if executable else 0o444)
