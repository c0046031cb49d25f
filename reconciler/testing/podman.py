"""podman with storage of a test's own, beside what the machine has."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def own_podman() -> Iterator[tuple[str, ...]]:
    """The beginning of a podman command whose images and containers are in a directory that goes with the block."""
    # Short: podman refuses a runroot of more than 50 characters. What it removes itself it also unmounts.
    with tempfile.TemporaryDirectory(prefix="podman-") as place:
        command = ("podman", "--root", f"{place}/root", "--runroot", f"{place}/run", "--storage-driver", "vfs")
        yield command
        subprocess.run([*command, "rmi", "--all", "--force"], capture_output=True, check=False)
