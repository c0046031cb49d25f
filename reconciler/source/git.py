"""Specs at one commit of a git repository."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterator
from pathlib import Path

from reconciler.errors import InvalidError, NotFoundError, RefusedError
from reconciler.source.command import GitOptions
from reconciler.source.port import MAX_FILES, MAX_SPEC_BYTES, Revision, SpecFile, is_spec_name
from reconciler.source.remote import Remote, is_commit, parse_path, parse_ref
from reconciler.source.repository import Entry, Listing, Repository
from reconciler.source.trees import GitTree


class GitSource:
    """The specs in ``path`` (a directory or a file; empty is the root) at ``ref`` of a repository.

    The repository is fetched into ``root/git``; files are read from there at one commit, so a push in the middle is
    never seen by half. The commit last accepted is kept there as a ref: it outlives restarts, needs no network, and no
    collection of garbage takes it. A branch that was rewritten, so that it does not follow the accepted commit any
    more, is refused unless ``allow_rewrite``.
    """

    def __init__(
        self,
        remote: Remote,
        *,
        root: Path,
        ref: str = "HEAD",
        path: str = "",
        recursive: bool = False,
        allow_rewrite: bool = False,
        options: GitOptions | None = None,
    ) -> None:
        self._remote = remote
        self._ref = parse_ref(ref)
        self._path = parse_path(path)
        self._recursive = recursive
        self._allow_rewrite = allow_rewrite
        self._trees = root / "trees"
        self._repository = Repository(root / "git" / _short(remote.url), options or GitOptions())
        # What was good on one branch says nothing about another.
        slot = _short(f"{self._ref}\0{self._path}")
        self._fetched, self._good = f"refs/reconciler/fetched/{slot}", f"refs/reconciler/good/{slot}"

    @property
    def identity(self) -> str:
        return f"git:{self._remote.url}#{self._path}"

    @property
    def watched(self) -> tuple[Path, ...]:
        return ()

    def read(self) -> Revision:
        """Fetches, and reads the specs at the newest commit. What is wrong with a commit is an error that names it."""
        commit = self._repository.fetch(self._remote, self._ref, self._fetched)
        good = self._repository.resolve(self._good)
        if good is not None and not self._follows(good, commit):
            raise RefusedError(
                f"{self._ref} at {self._remote.url} was rewritten: {commit} does not follow {good}",
                hint="allow the rewrite if it was meant, or restore the branch",
            )
        return self._revision(commit)

    def last_good(self) -> Revision | None:
        commit = self._repository.resolve(self._good)
        return None if commit is None else self._revision(commit)

    def accept(self, revision: Revision) -> None:
        if self._repository.resolve(self._good) != revision.id:
            self._repository.point(self._good, revision.id)

    def _follows(self, good: str, commit: str) -> bool:
        return self._allow_rewrite or is_commit(self._ref) or self._repository.is_ancestor(good, commit)

    def _revision(self, commit: str) -> Revision:
        listing = self._repository.listing(commit)
        tree = GitTree(self._repository, commit, listing, self._trees)
        files: list[SpecFile] = []
        with self._repository.blobs() as content:
            for name, entry in sorted(self._specs(commit, listing, tree)):
                if entry.size > MAX_SPEC_BYTES:
                    raise InvalidError(
                        f"{name} in commit {commit[:12]} is larger than {MAX_SPEC_BYTES} bytes", hint="make it smaller"
                    )
                files.append(SpecFile(name, b"".join(content(entry.id))))
                if len(files) > MAX_FILES:
                    raise InvalidError(f"more than {MAX_FILES} spec files in commit {commit[:12]}", hint="use fewer")
        return Revision(commit, tuple(files), tree)

    def _specs(self, commit: str, listing: Listing, tree: GitTree) -> Iterator[tuple[str, Entry]]:
        top = tree.lookup(self._path)
        if top is None:
            raise NotFoundError(
                f"{self._path} does not exist in commit {commit[:12]} of {self._remote.url}", hint="check the path"
            )
        if top.kind != "directory":
            yield self._path, top
            return
        prefix = f"{self._path}/" if self._path else ""
        for name, entry in listing.items():
            inner = name.removeprefix(prefix)
            if not name.startswith(prefix) or not is_spec_name(posixpath.basename(name)) or entry.kind == "directory":
                continue
            folders = inner.split("/")[:-1]
            if folders and (not self._recursive or any(folder.startswith(".") for folder in folders)):
                continue
            tree.lookup(name)  # refuses a link
            yield name, entry


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]
