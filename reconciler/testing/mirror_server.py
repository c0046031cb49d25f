"""nginx on a free loopback port in front of a registry: as a mirror of it, or to record what it is asked."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from reconciler.testing.leaks import CERTIFICATE
from reconciler.testing.ports import free_port, wait_for_http
from reconciler.testing.recorded import ROLL, Asked

_CONFIG = """\
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr;
events {{}}
http {{
    log_format heads escape=json '{{"line": "$request_method $request_uri", "status": "$status", "headers":'
        ' {{"authorization": "$http_authorization", "proxy-authorization": "$http_proxy_authorization",'
        ' "cookie": "$http_cookie", "{certificate_header}": "$ssl_client_fingerprint", "range": "$http_range"}}}}';
    access_log {directory}/access.log heads;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen {host}{tls};
        merge_slashes off;
        client_max_body_size 0;
        location {prefix}/ {{
            proxy_pass {upstream};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_request_buffering off;
            proxy_buffering off;
        }}
    }}
}}
"""
# It asks every client for a certificate, and looks at none: what clients show to whom is for the test to judge.
_TLS = """ ssl;
        ssl_certificate {0};
        ssl_certificate_key {1};
        ssl_verify_client optional_no_ca"""


class AccessLog:
    """What nginx wrote of its requests: one JSON object a line, after each was answered."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._asked: list[Asked] = []

    @property
    def asked(self) -> list[Asked]:
        """All requests so far."""
        if not self._path.exists():
            return self._asked
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                document = json.loads(line.decode("utf-8", "replace"))
                self._asked.append(Asked(document["line"], document["headers"]))
        return self._asked


@dataclass(frozen=True, slots=True)
class MirrorServer:
    """A running mirror. ``log`` is its access log, one line a request."""

    host: str
    log: Path
    pid: int
    scheme: str = "http"
    wants_login: bool = False
    realms: set[str] = field(default_factory=set)
    issued: set[str] = field(default_factory=set)
    access: AccessLog = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "access", AccessLog(self.log))

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    @property
    def asked(self) -> list[Asked]:
        return self.access.asked


@contextmanager
def running_mirror(
    directory: Path,
    upstream: str,
    *,
    prefix: str = "",
    certificate: tuple[Path, Path] | None = None,
    wants_login: bool = False,
    realms: frozenset[str] = frozenset(),
) -> Iterator[MirrorServer]:
    """Passes every request on to ``upstream`` until the block ends. Raises ``RuntimeError`` if it does not start.

    With ``prefix`` it answers only below that path, which the upstream does not see; with ``certificate`` (chain, key)
    it speaks TLS. ``wants_login`` and ``realms`` say what is true of the upstream.
    """
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    if not Path(program).exists():
        raise RuntimeError("nginx is not installed (Debian package nginx-light)")
    directory.mkdir(parents=True, exist_ok=True)
    host = f"127.0.0.1:{free_port()}"
    config = directory / "nginx.conf"
    config.write_text(
        _CONFIG.format(
            directory=directory,
            host=host,
            upstream=f"{upstream}/" if prefix else upstream,
            prefix=prefix,
            tls=_TLS.format(*certificate) if certificate is not None else "",
            certificate_header=CERTIFICATE,
        )
    )
    errors = directory / "error.log"
    scheme = "http" if certificate is None else "https"
    with errors.open("wb") as output:
        command = [program, "-p", str(directory), "-e", str(errors), "-c", str(config)]
        process = subprocess.Popen(command, stdout=output, stderr=output)
    server = MirrorServer(host, directory / "access.log", process.pid, scheme, wants_login, set(realms))
    with ROLL.entry(server):
        try:
            wait_for_http(f"{scheme}://{host}/", process, errors)
            yield server
        finally:
            # nginx writes down a request after it has answered: its log is whole once it has ended.
            process.terminate()
            process.wait()
