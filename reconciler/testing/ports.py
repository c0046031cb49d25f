"""Servers of tests: a port for them, and when they answer."""

from __future__ import annotations

import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

_START_SECONDS = 20.0


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_http(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Returns when ``url`` answers at all; raises ``RuntimeError`` with the log when the process ends first."""
    deadline = time.monotonic() + _START_SECONDS
    unverified = ssl._create_unverified_context()  # whether it is who it says is for the test to find out
    while True:
        try:
            urllib.request.urlopen(url, timeout=2, context=unverified).close()
            return
        except urllib.error.HTTPError as answer:
            answer.close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"server did not start: {log.read_text(errors='replace')[-2000:]}") from None
            time.sleep(0.01)
