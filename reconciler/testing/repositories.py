"""A git repository for tests to push to, made and changed with the real git command."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path


class UpstreamRepository:
    """A repository with a work tree, branch ``main``, whose settings come from nowhere but here."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main", "--template=")

    def git(self, *arguments: str, stdin: str = "") -> str:
        """Runs one command in the repository and returns what it printed. Raises ``CalledProcessError``."""
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.path),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_AUTHOR_NAME": "Test",
            "GIT_AUTHOR_EMAIL": "test@example.com",
            "GIT_COMMITTER_NAME": "Test",
            "GIT_COMMITTER_EMAIL": "test@example.com",
        }
        command = ["git", "-c", "safe.directory=*", *arguments]
        done = subprocess.run(
            command, cwd=self.path, env=environment, input=stdin.encode(), stdout=subprocess.PIPE, check=True
        )
        return done.stdout.decode().strip()

    def commit(self, files: Mapping[str, str | None], message: str = "change") -> str:
        """Writes files (None removes one), commits everything on the current branch, and returns the commit id."""
        for name, text in files.items():
            target = self.path / name
            if text is None:
                target.unlink()
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", f"--message={message}")
        return self.git("rev-parse", "HEAD")
