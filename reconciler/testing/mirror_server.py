"""nginx on a free loopback port, as a mirror in front of a registry."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from reconciler.testing.registry_server import free_port, wait_for_http

_CONFIG = """\
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log {directory}/access.log;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen {host};
        location / {{ proxy_pass {upstream}; proxy_set_header Host $http_host; }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class MirrorServer:
    """A running mirror. ``log`` is its access log, one line a request."""

    host: str
    log: Path

    @property
    def url(self) -> str:
        return f"http://{self.host}"


@contextmanager
def running_mirror(directory: Path, upstream: str) -> Iterator[MirrorServer]:
    """Passes every request on to ``upstream`` until the block ends. Raises ``RuntimeError`` if it does not start."""
    directory.mkdir(parents=True, exist_ok=True)
    host = f"127.0.0.1:{free_port()}"
    config = directory / "nginx.conf"
    config.write_text(_CONFIG.format(directory=directory, host=host, upstream=upstream))
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    errors = directory / "error.log"
    with errors.open("wb") as output:
        process = subprocess.Popen([program, "-p", directory, "-c", config], stdout=output, stderr=output)
    try:
        wait_for_http(f"http://{host}/v2/", process, errors)
        yield MirrorServer(host, directory / "access.log")
    finally:
        process.terminate()
        process.wait()
