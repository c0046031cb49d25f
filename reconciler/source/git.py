"""Specs at one commit of a git repository."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from reconciler.errors import RefusedError
from reconciler.source.command import GitOptions
from reconciler.source.port import Revision
from reconciler.source.remote import Remote, is_commit, parse_path, parse_ref
from reconciler.source.repository import Repository
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
        """Fetches the newest commit. Raises ``RefusedError`` when it does not follow the accepted one (G10)."""
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
        name = self._remote.url.rstrip("/").removesuffix(".git").rstrip("/")
        tree = GitTree(self._repository, commit, self._trees, re.split("[/:]", name)[-1])
        return Revision(commit, tree, (self._path or ".",), self._recursive)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]
