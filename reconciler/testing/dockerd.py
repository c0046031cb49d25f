"""A Docker daemon of a test's own, beside whatever runs on the machine; it has no network and starts no container."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_START_SECONDS = 30.0


def is_installed() -> bool:
    """Whether there is Docker's daemon, with the client and containerd (Debian package docker.io)."""
    return all(shutil.which(program) for program in ("docker", "dockerd", "containerd"))


@contextmanager
def running_dockerd() -> Iterator[Mapping[str, str]]:
    """Runs the daemon until the block ends; the environment in which ``docker`` speaks to it.

    All it has is in a directory that goes with it. Raises ``RuntimeError`` with its log if it does not start.
    """
    # Short, since the path of a socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="dockerd-") as place:
        log, socket = Path(place, "log"), f"unix://{place}/socket"
        environment = {"PATH": os.defpath + ":/usr/local/bin:/usr/sbin:/sbin", "DOCKER_HOST": socket, "HOME": place}
        command = [
            "dockerd",
            f"--data-root={place}/data",
            f"--exec-root={place}/exec",
            f"--pidfile={place}/pid",
            f"--host={socket}",
            # A containerd that the machine has is shared with its owner: under other names.
            "--containerd-namespace=reconciler-test",
            "--containerd-plugins-namespace=reconciler-test-plugins",
            "--bridge=none",
            "--iptables=false",
            "--ip-forward=false",
        ]
        with log.open("wb") as output:
            daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
        try:
            deadline = time.monotonic() + _START_SECONDS
            while subprocess.run(["docker", "version"], env=environment, capture_output=True, check=False).returncode:
                if daemon.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"dockerd did not start:\n{log.read_text(errors='replace')[-3000:]}")
                time.sleep(0.05)
            yield environment
        finally:
            daemon.terminate()
            daemon.wait()
