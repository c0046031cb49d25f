"""A bare repository of our own under the root: fetched into, read from, never checked out."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

from reconciler.errors import HostError, InvalidError, NotFoundError
from reconciler.linux import durable
from reconciler.source.command import Git, GitOptions
from reconciler.source.remote import Remote, is_commit
from reconciler.value import dataclass

MAX_ENTRIES = 500_000
_MAX_LISTING = 128 * 1024 * 1024
_CHUNK = 1 << 20

EntryKind = Literal["file", "executable", "symlink", "directory", "submodule"]
_KINDS: dict[bytes, EntryKind] = {
    b"100644": "file",
    b"100664": "file",
    b"100755": "executable",
    b"120000": "symlink",
    b"040000": "directory",
    b"160000": "submodule",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One path of a commit. ``size`` is in bytes, 0 for what has no content of its own."""

    kind: EntryKind
    id: str
    size: int = 0


Listing = Mapping[str, Entry]


class Repository:
    """One process at a time may use it, with any of its threads: what an ended one left is removed at the first use."""

    def __init__(self, directory: Path, options: GitOptions) -> None:
        self._git = Git(directory, options)
        self._ready = False
        self._preparing = threading.Lock()

    def fetch(self, remote: Remote, ref: str, into: str) -> str:
        """Brings the history of ``ref`` here, points our ref ``into`` at it, and returns the commit id.

        A branch wins over a tag of the same name. Talks to the remote once when nothing changed. Raises
        ``NotFoundError`` when the remote has no such ref, ``HostError`` when it cannot be reached.
        """
        self._prepare()
        if is_commit(ref):
            full, id_ = ref, ref
        else:
            full, id_ = self._advertised(remote, ref)
        if self.resolve(id_) is None or self._git_id(into) != id_:
            refspec = f"+{full}:{into}"
            options = ["--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head"]
            self._git.run("fetch", *options, *_upload_pack(remote), "--", remote.url, refspec, remote=remote)
        commit = self.resolve(into)
        if commit is None:
            raise InvalidError(f"{ref} at {remote.url} is not a commit", hint="name a branch")
        return commit

    def resolve(self, name: str) -> str | None:
        """The id of the commit that one of our refs, or an id, leads to; None when it is not here."""
        self._prepare()
        return self._git_id(f"{name}^{{commit}}")

    def point(self, ref: str, commit: str) -> None:
        """Makes one of our refs name ``commit``, durably."""
        self._git.run("update-ref", "--no-deref", ref, commit)

    def is_ancestor(self, old: str, new: str) -> bool:
        return self._git.ask("merge-base", "--is-ancestor", old, new) is not None

    def listing(self, commit: str) -> Listing:
        """Every path of a commit, ``""`` for its root. Raises ``InvalidError`` for names that no honest tree has."""
        output = self._git.run("ls-tree", "-r", "-t", "-z", "-l", "--full-tree", commit, limit=_MAX_LISTING)
        root = self._git_id(f"{commit}^{{tree}}")
        assert root is not None
        found = {"": Entry("directory", root)}
        for line in output.split(b"\0")[:-1]:
            fields, _, raw = line.partition(b"\t")
            mode, _, id_, size = fields.split()
            path = raw.decode("utf-8", "surrogateescape")
            if path in found or any(part in ("", ".", "..", ".git") for part in path.split("/")):
                raise InvalidError(f"commit {commit} holds the path {path[:200]!a}", hint="remove it there")
            if mode not in _KINDS:
                raise InvalidError(f"commit {commit}: {path[:200]!a} has mode {mode.decode()}", hint="remove it there")
            found[path] = Entry(_KINDS[mode], id_.decode(), 0 if size == b"-" else int(size))
            if len(found) > MAX_ENTRIES:
                raise InvalidError(f"commit {commit} holds more than {MAX_ENTRIES} paths", hint="use a smaller one")
        return found

    @contextmanager
    def blobs(self) -> Iterator[Callable[[str], Iterator[bytes]]]:
        """A function that gives the content of a blob, by id, in pieces; each must be read to its end."""
        with self._git.conversation("cat-file", "--batch") as (questions, answers):

            def content(id_: str) -> Iterator[bytes]:
                questions.write(f"{id_}\n".encode())
                questions.flush()
                return self._answer(id_, answers)

            yield content

    def _answer(self, id_: str, answers: IO[bytes]) -> Iterator[bytes]:
        header = answers.readline().split()
        if len(header) != 3 or header[1] != b"blob":
            raise HostError(
                f"the object {id_} cannot be read in {self._git.directory}",
                hint="remove that directory: it is fetched again",
            )
        left = int(header[2])
        while left:
            chunk = answers.read(min(left, _CHUNK))
            if not chunk:
                raise HostError(f"git ended while giving {id_} in {self._git.directory}", hint="try again")
            left -= len(chunk)
            yield chunk
        answers.read(1)

    def _advertised(self, remote: Remote, ref: str) -> tuple[str, str]:
        names = [ref] if ref == "HEAD" or ref.startswith("refs/") else [f"refs/heads/{ref}", f"refs/tags/{ref}"]
        output = self._git.run("ls-remote", *_upload_pack(remote), "--", remote.url, *names, remote=remote)
        lines = (line.split("\t", 1) for line in output.decode("utf-8", "surrogateescape").splitlines())
        advertised = {name: id_ for id_, name in lines}
        for name in names:
            if name in advertised:
                return name, advertised[name]
        raise NotFoundError(f"{remote.url} has no ref {ref}", hint="check the name of the branch or the tag")

    def _git_id(self, name: str) -> str | None:
        found = self._git.ask("rev-parse", "--verify", "--quiet", "--end-of-options", name)
        return None if found is None else found.decode().strip()

    def _prepare(self) -> None:
        with self._preparing:
            if not self._ready:
                self._clear_up(self._git.directory)
                self._git.run("init", "--quiet", "--bare", "--template=")
                self._ready = True

    @staticmethod
    def _clear_up(directory: Path) -> None:
        """A git that was killed leaves its locks and half of a pack: the next one refuses, or leaks."""
        durable.make_directories(directory, point="repository")
        with durable.guarded("tidy", directory):
            for pattern in ("*.lock", "refs/**/*.lock", "objects/**/tmp_*", "objects/info/*.lock"):
                for left in directory.glob(pattern):
                    durable.unlink(left, point="repository", sync=False)


def _upload_pack(remote: Remote) -> list[str]:
    """For a local repository: the program that serves it, told that its owner may be somebody else.

    Git does not hand our settings on to that program, so they are part of its command.
    """
    if remote.transport != "file":
        return []
    safe = (remote.url, str(Path(remote.url) / ".git"))
    command = ["git", *(word for path in safe for word in ("-c", f"safe.directory={path}")), "upload-pack"]
    return [f"--upload-pack={shlex.join(command)}"]
